"""Projects labelled ahead, unattended."""
