"""The pages of a frame sequence (``valueList``), by number, like the frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.pixels.buffer import FrameBuffer
from backend.pixels.containers import VideoLimits, check_pixels
from backend.pixels.errors import VideoError
from backend.pixels.images import load_image
from backend.pixels.picture import Picture
from backend.pixels.videos import DEFAULT_LIMITS

Page = Path | Callable[[], NDArray[np.uint8]]
"""An image file, or a function that fetches a page: uint8 RGB [H, W, 3]."""

_SAME_SHAPE = 0.01  # relative difference of the aspect ratios


class ImageSequence:
    """``len(pages)`` and ``pages[i]``, every page with the height and width of the first.

    The tracker needs one size. Pages of the same shape but another size (a thumbnail, a
    re-encoded part) are scaled to the first page's; a mask of such a page is scaled back to
    ``page_size(i)``, and positions in percent hold as they are. SAM 2 itself scales every frame to
    a square, so nothing else is lost. Pages of another shape are refused: scaled, they would show
    the object squeezed, and beside bars it would have another size.

    For one consumer at a time; close it, or use it in a ``with`` statement.

    Attributes:
        width, height: of the first page, and so of every page given out.
    """

    def __init__(
        self,
        pages: Sequence[Page],
        *,
        limits: VideoLimits = DEFAULT_LIMITS,
        read_ahead: int = 4,
        max_bytes: int = 256 << 20,
    ) -> None:
        """
        Args:
            pages: in order; the first is loaded at once.
            limits: of the number of pages and of the pixels of each.
            read_ahead: pages that a thread loads in advance while reading forward; 0 for none.
            max_bytes: of pages kept.

        Raises:
            VideoError: there are no pages or too many, or the first is too large.
            Exception: whatever loading the first page raises, ``MediaError`` for a path.
        """
        if not pages:
            raise VideoError("The frame sequence has no pages.")
        if len(pages) > limits.max_frames:
            raise VideoError(
                f"The sequence has {len(pages)} pages; the limit is {limits.max_frames}."
            )
        self._source = _Pages(pages, limits)
        self.width, self.height = self._source.size_of(0)
        self._frames = FrameBuffer(
            self._source,
            count=len(pages),
            frame_bytes=self.width * self.height * 3,
            read_ahead=read_ahead,
            max_bytes=max_bytes,
        )

    def page_size(self, index: int) -> tuple[int, int]:
        """Width and height of a page as it is stored; loads it if it has not been yet."""
        if index not in self._source.sizes:
            self._frames[index]
        return self._source.sizes[index]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Picture:
        """The page at the size of the first, uint8 RGB [height, width, 3], read-only.

        Raises:
            IndexError: there is no such page.
            VideoError: the page has another shape than the first, or is too large.
            Exception: whatever loading the page raises, ``MediaError`` for a path.
        """
        return self._frames[index]

    def __iter__(self) -> Iterator[Picture]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        """Free the pages and the thread. May be called again."""
        self._frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Pages:
    """A ``FrameSource`` of single pictures."""

    def __init__(self, pages: Sequence[Page], limits: VideoLimits) -> None:
        self._pages, self._limits = pages, limits
        self.sizes: dict[int, tuple[int, int]] = {}
        self._first: Picture | None = None  # until it is read: loaded for its size

    def size_of(self, index: int) -> tuple[int, int]:
        self._first = self._load(index)
        return self.sizes[index]

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        for index in range(first, last + 1):
            page = self._first if index == 0 else None
            yield index, self._fitted(index, self._load(index) if page is None else page)
            self._first = None

    def group_start(self, index: int) -> int:
        return index

    def close(self) -> None:
        self._first = None

    def _load(self, index: int) -> NDArray[np.uint8]:
        page = self._pages[index]
        if isinstance(page, Path):
            picture = load_image(page, max_pixels=self._limits.max_pixels)
        else:
            picture = page()
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise TypeError(f"page {index + 1} is {picture.dtype} {picture.shape}, not uint8 RGB")
        height, width = picture.shape[:2]
        check_pixels(width, height, self._limits)
        self.sizes[index] = width, height
        return picture

    def _fitted(self, index: int, page: NDArray[np.uint8]) -> Picture:
        (width, height), (own_width, own_height) = self.sizes[0], self.sizes[index]
        if (own_width, own_height) != (width, height):
            shape = own_width * height / (own_height * width)
            if abs(shape - 1) > _SAME_SHAPE:
                raise VideoError(
                    f"Page {index + 1} is {own_width} x {own_height} pixels, page 1 is {width} x "
                    f"{height}: to be tracked through, all pages must have the same shape."
                )
            shrinks = own_width > width
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            page = np.asarray(cv2.resize(page, (width, height), interpolation=how), np.uint8)
        picture = np.ascontiguousarray(page).view()
        picture.flags.writeable = False
        return picture
