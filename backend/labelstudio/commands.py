"""The text box as a command line.

A global ``<TextArea>`` may be there for the annotator's own notes, so this answers only what is
clearly meant for it:

- a known command alone ("help", "Status", "track 0-40 back"), with or without a slash before it;
- anything that begins with a slash ("/hlep"): an unknown command, answered with one line of help.

All else is a note and left alone, "clear sky" and "need help" included. What begins with
STATUS_PREFIX was written by the service itself and came back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.labelstudio.json_values import item_value, text, texts, whole_number

STATUS_PREFIX = "SAM 2: "
"""How every line that the service writes begins, so that it is known when it comes back."""


class Word(StrEnum):
    """The commands; the last three are for frame sequences and videos."""

    HELP = "help"
    STATUS = "status"
    CLEAR = "clear"
    TRACK = "track"
    REDO = "redo"
    STOP = "stop"


class TextKind(StrEnum):
    """What a text is."""

    COMMAND = "command"
    UNKNOWN = "unknown"  # meant as a command, but there is none of that name
    NOTE = "note"  # the annotator's own text: not to be touched
    OWN = "own"  # a status of ours


HELP = (
    "click an object or drag a box around it with a smart tool; Alt+click what is not part of it. "
    "Commands: help, status, clear (empties this text box)"
)
"""One line that says what can be done on a picture."""

TRACK_HELP = (
    "mark objects on one or more frames, then type track (to the end), track 0-40, track back, "
    "track both or track stride=3 (every 3rd frame, faster). Also: status (shows what is done so "
    "far), stop, redo (tracks again from the start), clear (forgets the track), help"
)
"""One line that says what can be done on a sequence of frames."""

_TRACK = re.compile(
    r"(?P<word>track|redo)(?: (?P<first>\d{1,9}) ?- ?(?P<last>\d{1,9}))?"
    r"(?: (?P<direction>forward|back|both))?"
    r"(?: stride ?= ?(?P<stride>[1-9]\d?))?"
)


@dataclass(frozen=True)
class ParsedCommand:
    """A text of the text box, understood.

    ``frames`` is the range given to ``track`` or ``redo``, both ends included, as typed;
    ``direction`` is "forward", "back" or "both", None where none was typed. ``stride`` is n where
    every n-th frame is to be tracked and those between interpolated, None where none was typed.
    """

    kind: TextKind
    word: Word | None = None
    text: str = ""
    frames: tuple[int, int] | None = None
    direction: str | None = None
    stride: int | None = None


def parse_command(entry: str) -> ParsedCommand:
    """Decide what an entry is, by the rule at the head of this module. Never raises."""
    line = " ".join(entry.split())
    if line.startswith(STATUS_PREFIX.strip()):
        return ParsedCommand(TextKind.OWN, text=line)
    explicit = line.startswith("/")
    spelled = line.removeprefix("/").strip().lower()
    tracked = _TRACK.fullmatch(spelled)
    if tracked is not None:
        first, last = tracked["first"], tracked["last"]
        frames = (int(first), int(last)) if first is not None else None
        word = Word(tracked["word"])
        stride = int(tracked["stride"]) if tracked["stride"] else None
        return ParsedCommand(TextKind.COMMAND, word, line, frames, tracked["direction"], stride)
    if spelled in list(Word):
        return ParsedCommand(TextKind.COMMAND, Word(spelled), line)
    return ParsedCommand(TextKind.UNKNOWN if explicit else TextKind.NOTE, text=line)


@dataclass(frozen=True)
class TypedText:
    """What a text area holds.

    Attributes:
        area: name of the ``<TextArea>``.
        to_name: name of the tag it is on, as written.
        entries: oldest first, at least one.
        id: of the region it belongs to; for a text of a whole picture or video its own.
        item_index: the page, from 0; None where the result says none.
    """

    area: str
    to_name: str
    entries: tuple[str, ...]
    id: str = ""
    item_index: int | None = None

    @property
    def newest(self) -> str:
        return self.entries[-1]

    @property
    def is_command(self) -> bool:
        """Whether the newest entry is meant for the service."""
        return parse_command(self.newest).kind in (TextKind.COMMAND, TextKind.UNKNOWN)

    @property
    def is_note(self) -> bool:
        """Whether the newest entry is a text of the annotator's own."""
        return holds_note([self.newest])


def read_text(item: Mapping[str, object]) -> TypedText | None:
    """What a result item of a text area holds; None for other items and where it holds nothing."""
    entries = texts(item_value(item).get("text")) if item.get("type") == "textarea" else ()
    if not entries:
        return None
    return TypedText(
        area=text(item.get("from_name")) or "",
        to_name=text(item.get("to_name")) or "",
        entries=entries,
        id=text(item.get("id")) or "",
        item_index=whole_number(item.get("item_index")),
    )


def holds_note(entries: Iterable[str]) -> bool:
    """Whether a text area holds a text of the annotator's own, which must not be replaced."""
    return any(parse_command(entry).kind is TextKind.NOTE for entry in entries)


def status_line(line: str) -> str:
    """A line of the service as it is shown: with STATUS_PREFIX, once."""
    return line if line.startswith(STATUS_PREFIX) else STATUS_PREFIX + line


def unknown_command(line: str) -> str:
    return f"there is no command {line[:40]}; the commands are {', '.join(Word)}"
