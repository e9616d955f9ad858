"""The pages of a frame sequence (``valueList``), by number, like the frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.pixels.buffer import FrameBuffer, Picture
from backend.pixels.video_limits import DEFAULT_LIMITS, VideoError, VideoLimits

Page = Callable[[], NDArray[np.uint8]]
"""Fetches a page: uint8 RGB [H, W, 3]."""

_READ_AHEAD = 4  # pages
_MAX_BYTES = 256 << 20  # of pages kept
_SAME_SHAPE = 0.01  # relative difference of the aspect ratios


class ImageSequence(FrameBuffer):
    """The pages of a sequence, every one with the height and width of the first.

    The tracker needs one size. Pages of the same shape but another size (a thumbnail, a
    re-encoded part) are scaled to the first page's; a mask of such a page is scaled back to
    ``frame_size(i)``, and positions in percent hold as they are. SAM 2 itself scales every frame to
    a square, so nothing else is lost. Pages of another shape are refused: scaled, they would show
    the object squeezed, and beside bars it would have another size.

    Attributes:
        width, height: of the first page, and so of every page given out.
    """

    def __init__(self, pages: Sequence[Page], *, limits: VideoLimits = DEFAULT_LIMITS) -> None:
        """
        Args:
            pages: in order; the first is loaded at once.
            limits: of the number of pages and of the pixels of each.

        Raises:
            VideoError: there are no pages or too many, or the first is too large.
            Exception: whatever loading the first page raises.
        """
        if not pages:
            raise VideoError("The frame sequence has no pages.")
        if len(pages) > limits.max_frames:
            raise VideoError(
                f"The sequence has {len(pages)} pages; the limit is {limits.max_frames}."
            )
        self._pages = _Pages(pages, limits)
        _, first = next(self._pages.read(0, 0))
        self.width, self.height = self._pages.sizes[0]
        super().__init__(
            self._pages,
            count=len(pages),
            frame_bytes=self.width * self.height * 3,
            read_ahead=_READ_AHEAD,
            max_bytes=_MAX_BYTES,
            group_start=lambda index: index,
        )
        self._keep(0, first)

    def frame_size(self, index: int) -> tuple[int, int]:
        """Width and height of a page as it is stored; loads it if it has not been yet."""
        if index not in self._pages.sizes:
            self[index]
        return self._pages.sizes[index]


class _Pages:
    """A ``FrameSource`` of single pictures."""

    def __init__(self, pages: Sequence[Page], limits: VideoLimits) -> None:
        self._pages, self._limits = pages, limits
        self.sizes: dict[int, tuple[int, int]] = {}

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        for index in range(first, last + 1):
            yield index, self._fitted(index, self._load(index))

    def suspend(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _load(self, index: int) -> NDArray[np.uint8]:
        picture = self._pages[index]()
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise TypeError(f"page {index + 1} is {picture.dtype} {picture.shape}, not uint8 RGB")
        height, width = picture.shape[:2]
        self._limits.check_size(width, height)
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
            how = cv2.INTER_AREA if own_width > width else cv2.INTER_LINEAR
            page = np.asarray(cv2.resize(page, (width, height), interpolation=how), np.uint8)
        picture = np.ascontiguousarray(page).view()
        picture.flags.writeable = False
        return picture
