"""The text box as a command line, in which annotators' own notes may stand too.

An entry is one of these:

- a command: a known word alone ("help", "Status", "track 1-40 back", "find person, red car",
  "everything Cell"), with or without a slash;
- a command that there is not: what begins with a slash ("/hlep"), or a word close to a known one
  with nothing but a range, direction or stride behind it ("trck", "track 5");
- what begins with STATUS_PREFIX: written by the service itself, and come back;
- a note: all else, "clear sky" and "need help" included.

Commands are answered, understood or not, and the answer takes them away; notes stay (``kept``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.expected import LONGEST_SENTENCE, cut
from backend.labelstudio.json_values import item_value, text, texts, whole_number

STATUS_PREFIX = "SAM 2: "
"""How every line that the service writes begins, so that it is known when it comes back."""


class Word(StrEnum):
    """The commands; those from ``TRACK`` on are for frame sequences and videos."""

    HELP = "help"
    STATUS = "status"
    CLEAR = "clear"
    FIND = "find"
    EVERYTHING = "everything"
    TRACK = "track"
    REDO = "redo"
    STOP = "stop"


class TextKind(StrEnum):
    """What a text is."""

    COMMAND = "command"
    UNKNOWN = "unknown"  # begins with a slash, but there is no such command
    MISTYPED = "mistyped"  # close to a command
    NOTE = "note"  # the annotator's own text: not to be touched
    OWN = "own"  # a status of ours

    @property
    def answered(self) -> bool:
        """Whether an entry of this kind gets an answer."""
        return self in (TextKind.COMMAND, TextKind.UNKNOWN, TextKind.MISTYPED)


HELP = (
    "click an object or drag a box around it with a smart tool; Alt+click what is not part of it. "
    "Commands: help, status, clear (empties this line), find or find person, dog (asks a "
    "detector), everything Cell (all objects, as Cell; in the box drawn just before, if there is "
    "one)"
)
"""One line that says what can be done on a picture."""

_RANGES = "type {0}, {0} 1-40, {0} back, {0} both or {0} stride=3"

TRACK_HELP = (
    "mark objects on one or more frames, then type track (to the end), track 1-40, track back, "
    "track both or track stride=3 (every 3rd frame, faster). Also: status (shows what is done so "
    "far), stop, redo (tracks again from the start), clear (forgets the track), find or "
    "find person, dog (asks a detector about one page or frame; find at 12 about that one), "
    "everything Cell (all objects of a page, as Cell), help"
)
"""One line that says what can be done on a sequence of frames."""

CHEAT_SHEET = (
    ("track", "carries what is marked to the end of the sequence or video"),
    ("track 1-40", "only from page or frame 1 to 40"),
    ("track back", "towards the beginning; track both: both ways"),
    ("track stride=3", "every 3rd frame, and those between are interpolated: faster"),
    ("find person, dog", "asks the detector that is connected, where one is"),
    ("everything Cell", "all objects of a picture or page, or in the box drawn just before"),
    ("status", "what is done so far, and which frames to look at"),
    ("redo", "tracks again from the start"),
    ("stop", "stops the track; what is done stays"),
    ("clear", "forgets the track; on a picture, empties the line"),
    ("help", "one line with the commands"),
)
"""What can be typed, and what it does, for the overview."""

NOTED = "your text stays as a note; type help for the commands"
"""What is said to a note, where that does not touch it."""

NOT_ON_VIDEOS = (
    "everything is for pictures, and for the pages of a sequence; on a video draw a box around "
    "each object, or type find, then track"
)
"""What is said to ``everything`` on a video."""

_TRACK = re.compile(
    r"(?P<word>track|redo)(?: (?P<first>\d{1,9}) ?- ?(?P<last>\d{1,9}))?"
    r"(?: (?P<direction>forward|back|both))?"
    r"(?: stride ?= ?(?P<stride>[1-9]\d?))?"
)

# A name has a few words: "find out whether ..." is a note. Behind "=" stands the label for it.
_NAME = r"[^\s,=.!?;:]{1,30}(?: [^\s,=.!?;:]{1,30}){0,4}"
_NAMED = re.compile(rf"(?P<name>{_NAME})(?: ?= ?(?P<label>{_NAME}))?")
_AT = re.compile(r"(?:(?P<names>.*) )?at (?P<at>\d{1,9})")
_MOST_NAMES = 50
_EVERYTHING = re.compile(rf"everything(?: (?P<label>{_NAME}))?", re.IGNORECASE)
_PLACE = re.compile(r"(?P<box> in (?:the )?box)?(?: at (?P<at>\d{1,9}))?$", re.IGNORECASE)

_ARGUMENT = re.compile(r"[-\d]*|forwards?|backwards?|back|both|(stride)?=?\d*")
_LONGEST = 100  # characters of a line that are looked at


@dataclass(frozen=True)
class ParsedCommand:
    """A text of the text box, understood.

    ``frames`` is the range given to ``track`` or ``redo``, both ends included, as typed;
    ``direction`` is "forward", "back" or "both", None where none was typed. ``stride`` is n where
    every n-th frame is to be tracked and those between interpolated, None where none was typed.
    ``names`` is what is to be found, each with the label that it gets where one was typed, and
    ``at`` the page or frame to look at. For ``everything`` it is the label, if one was typed;
    ``in_box`` where it is to be looked for in the last box, accepted or not.
    """

    kind: TextKind
    word: Word | None = None
    text: str = ""
    frames: tuple[int, int] | None = None
    direction: str | None = None
    stride: int | None = None
    names: tuple[tuple[str, str | None], ...] = ()
    at: int | None = None
    in_box: bool = False


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
    names, at = _to_find(spelled)
    if names is not None:
        return ParsedCommand(TextKind.COMMAND, Word.FIND, line, names=names, at=at)
    everything = _everything(line.removeprefix("/").strip(), line)
    if everything is not None:
        return everything
    if spelled in list(Word):
        return ParsedCommand(TextKind.COMMAND, Word(spelled), line)
    if explicit:
        return ParsedCommand(TextKind.UNKNOWN, text=line)
    meant, arguments = _meant(spelled)
    alike = meant is not None and all(_ARGUMENT.fullmatch(each) for each in arguments)
    return ParsedCommand(TextKind.MISTYPED if alike else TextKind.NOTE, text=line)


def _to_find(spelled: str) -> tuple[tuple[tuple[str, str | None], ...] | None, int | None]:
    """What a line says is to be found, each with the label for it, and on which page or frame; None
    where it is no such command."""
    word, _, rest = spelled.partition(" ")
    if word != Word.FIND:
        return None, None
    placed = _AT.fullmatch(rest)
    listed = (placed["names"] or "") if placed else rest
    parts = [part.strip() for part in listed.split(",", _MOST_NAMES)] if listed else []
    named = [_NAMED.fullmatch(part) for part in parts]
    names = tuple((each["name"], each["label"]) for each in named if each is not None)
    if len(names) < len(parts) or len(names) > _MOST_NAMES:
        return None, None
    return names, int(placed["at"]) if placed else None


def _everything(typed: str, line: str) -> ParsedCommand | None:
    """The command ``everything``, where ``typed`` is one; a label keeps its case."""
    place = _PLACE.search(typed)
    every = _EVERYTHING.fullmatch(typed, endpos=place.start()) if place is not None else None
    if place is None or every is None:
        return None
    label = every["label"]
    return ParsedCommand(
        TextKind.COMMAND,
        Word.EVERYTHING,
        line,
        names=() if label is None else ((label, None),),
        at=int(place["at"]) if place["at"] else None,
        in_box=place["box"] is not None,
    )


def _meant(spelled: str) -> tuple[Word | None, list[str]]:
    """The command that the first word of a line is close to, and the other words."""
    first, *others = spelled[:_LONGEST].split() or [""]
    close = difflib.get_close_matches(first, list(Word), n=1, cutoff=0.75)
    meant = Word(close[0]) if close else None
    if meant is Word.FIND and len(first) == len(meant):  # "fine", "kind", "wind" are notes
        meant = None
    return meant, others


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
        return parse_command(self.newest).kind.answered

    @property
    def is_note(self) -> bool:
        """Whether the newest entry is a text of the annotator's own."""
        return parse_command(self.newest).kind is TextKind.NOTE


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


def kept(entries: Iterable[str], *, shared: bool) -> tuple[str, ...]:
    """The entries of a text area that an answer leaves there: the annotator's own notes.

    Args:
        shared: the area is where the service answers too, and may be meant for notes alone: a
            word that is only close to a command is taken for a note.
    """
    notes = (TextKind.NOTE, TextKind.MISTYPED) if shared else (TextKind.NOTE,)
    return tuple(entry for entry in entries if parse_command(entry).kind in notes)


def status_line(line: str) -> str:
    """A line of the service as it is shown: with STATUS_PREFIX, once, and not longer than anybody
    reads."""
    line = cut(line, LONGEST_SENTENCE)
    return line if line.startswith(STATUS_PREFIX) else STATUS_PREFIX + line


def unknown_command(line: str) -> str:
    """What is said to a command that there is not."""
    meant, arguments = _meant(line.removeprefix("/").strip().lower())
    if meant is Word.EVERYTHING and arguments:
        return f"{line[:40]} is not understood; type everything and a label, as in everything Cell"
    if meant in (Word.TRACK, Word.REDO) and arguments:
        return f"{line[:40]} is not understood; {_RANGES.format(meant)}"
    if meant is not None:
        return f"no command {line[:40]}; did you mean {meant}?"
    return f"no command {line[:40]}; the commands are {', '.join(Word)}"
