"""One request of an editor: a click, a box, a command, or a retrieval."""
