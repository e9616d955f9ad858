"""What every format of an export is told, and what it may ask for."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from backend.export.ledger import Ledger, Pages
from backend.export.masks import Kind, MaskPage, Media, ObjectMask, safe_name

UNLABELLED = "unlabelled"
LINES_AT_ONCE = 200  # written before whoever takes a ZIP is handed what is there


@dataclass(frozen=True)
class Options:
    """How an export is written.

    Attributes:
        pictures: beside the masks.
        polygons: of COCO, in place of RLE.
        detail: how far polygons may leave the masks, in pixels; None: as far as they fit.
        val: the share of tasks that validate.
        by_page: whether pages of one task are shared out between training and validation.
    """

    pictures: bool = False
    polygons: bool = False
    detail: float | None = None
    val: float = 0.2
    by_page: bool = False

    def split(self, media: Media, index: int) -> str:
        """``train`` or ``val``: the same in every run, whatever else there is."""
        name = f"{media.task}/{media.tag}/{index}" if self.by_page else str(media.task)
        drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
        return "val" if drawn < self.val else "train"


class Writer(ABC):
    """Takes the pages of one medium after the other.

    Attributes:
        every_frame: whether it wants the frames of a sequence or video without masks, too.
        jpeg_only: whether what reads the format knows no pictures but JPEG.
    """

    every_frame: ClassVar[bool] = False
    jpeg_only: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def picture(self, media: Media, index: int) -> str:
        """The name of a page's picture, without its ending."""
        return f"images/{flat_name(media, index)}"

    def begin(self) -> None:  # noqa: B027 - most formats do nothing here
        """The next medium begins; the last one may have failed halfway."""

    @abstractmethod
    def page(self, media: Media, page: MaskPage, picture: str | None, to: Pages) -> None:
        """Write the masks of a page; without any, where it wants those pages.

        Args:
            picture: the name of its picture, where pictures are wanted.
        """

    def end(self, media: Media, to: Pages) -> None:  # noqa: B027 - likewise
        """All pages of a medium have been written."""

    def close(self, ledger: Ledger) -> Iterator[None]:
        """Write the files over all tasks, in steps."""
        yield from ()


def read_detail(text: str) -> float:
    """How far polygons may leave the masks.

    Raises:
        ValueError: it cannot be read; what it says goes on after a name.
    """
    return _number(text, lambda number: 0 <= number <= 100, "a number of pixels from 0 to 100")


def read_share(text: str) -> float:
    """The share of tasks that validate. Raises as above."""
    return _number(text, lambda number: 0 <= number < 1, "a share from 0 to below 1, such as 0.2")


def _number(text: str, accepts: Callable[[float], bool], rule: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not accepts(number):
        raise ValueError(f"must be {rule}")
    return number


def label_of(mask: ObjectMask) -> str:
    return mask.label or UNLABELLED


def about(mask: ObjectMask) -> dict[str, Any]:
    score = None if mask.score is None else round(mask.score, 4)
    return {"object": mask.object_id, "origin": str(mask.origin), "score": score}


def page_name(media: Media, index: int) -> str:
    """Names a page within its task."""
    name = safe_name(media.tag)
    return name if media.kind is Kind.IMAGE else f"{name}_{media.kind}_{index:06d}"


def flat_name(media: Media, index: int) -> str:
    """Names a page among those of all tasks."""
    return f"task_{media.task}_{page_name(media, index)}"


def sequence_name(media: Media) -> str:
    """Names a medium among those of all tasks."""
    return f"task_{media.task}_{safe_name(media.tag)}"


def frame_file(media: Media, index: int) -> str:
    """Names a frame in a folder of its sequence: its place in it, from 0, as trackers count."""
    return f"{media.places[index]:05d}"
