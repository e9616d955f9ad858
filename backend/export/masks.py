"""The masks of a task, page by page, as exports need them: with object and label."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qs, urlsplit

from backend.labelstudio.geometry import Mask


class Kind(StrEnum):
    """What a task shows; the value is what an index counts there."""

    IMAGE = "image"
    SEQUENCE = "page"  # from 0
    VIDEO = "frame"  # of the file, from 0


class Origin(StrEnum):
    """Where a mask comes from."""

    REGION = "region"  # of the annotation
    TRACKED = "tracked"  # the service's, behind a box of a video
    BOX = "box"  # a box, filled: no mask is known


@dataclass(frozen=True)
class ObjectMask:
    """One object on one page.

    Attributes:
        track: number of the object in its task, from 1; the same on every page.
        object_id: how it is called in Label Studio or the store.
        label: several are joined by "+"; empty where it has none.
        mask: bool [H, W], not empty.
        score: the model's, 0 to 1; None where none is known.
    """

    track: int
    object_id: str
    label: str
    mask: Mask
    origin: Origin
    score: float | None = None


@dataclass(frozen=True)
class MaskPage:
    """The masks of one page, all of its size; ``index`` is 0 for a single image."""

    index: int
    width: int
    height: int
    masks: Sequence[ObjectMask]


@dataclass(frozen=True)
class Media:
    """What one Image or Video tag shows for a task.

    Attributes:
        indices: every page or frame that the editor shows, with masks or not; ascending.
        names: the file name of each.
        times: of each in seconds; empty where there are none.
        pages: decodes those with masks, ascending, one at a time.
    """

    task: int
    tag: str
    kind: Kind
    indices: Sequence[int]
    names: Sequence[str]
    times: Sequence[float]
    pages: Callable[[], Iterator[MaskPage]]

    def place(self, index: int) -> dict[str, object]:
        """Where a page is, for the entry of a file: task, tag, page or frame, and time."""
        found: dict[str, object] = {"task": self.task, "tag": self.tag}
        if self.kind is not Kind.IMAGE:
            found[str(self.kind)] = index
        if self.times:
            found["time"] = round(self.times[bisect_left(self.indices, index)], 6)
        return found

    def name(self, index: int) -> str:
        """The file name of a page."""
        return self.names[bisect_left(self.indices, index)]


class Tracks:
    """Numbers for objects, in the order in which they appear."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, object_id: str) -> int:
        """The object's number, from 1."""
        return self._numbers.setdefault(object_id, len(self._numbers) + 1)


def media_name(address: str, task: int) -> str:
    """The file that an address in a task names, without host, bucket scheme and signature."""
    if address[:5].lower() == "data:":
        return f"task_{task}"
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        return rest.lstrip("/")
    parts = urlsplit(address)
    local = (
        parse_qs(parts.query).get("d") if parts.path.rstrip("/").endswith("local-files") else None
    )
    return (local[-1] if local else parts.path).lstrip("/") or f"task_{task}"


def safe_name(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^\w.-]", "_", text) or "_"
