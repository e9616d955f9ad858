"""Masks as run lengths: how they travel from the model to the store and to who asks for them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.labelstudio.brush_rle import run_edges


class _Geometry(NamedTuple):
    area: int
    box: tuple[int, int, int, int] | None
    centroid: tuple[float, float] | None


@dataclass(frozen=True)
class PackedMask:
    """A mask of a picture, in a few hundred bytes to a few kilobytes; immutable, and so are copies
    that were pickled.

    What is asked of most masks (whether there is anything, how large it is, where) comes from the
    runs, without a picture being made of them.

    Attributes:
        runs: zlib-compressed unsigned 32-bit little-endian lengths of the runs of equal pixels,
            row by row, beginning with background; what is left to the end is background.
        height, width: of the picture, pixels.
    """

    runs: bytes
    height: int
    width: int

    @classmethod
    def pack(cls, mask: NDArray[np.bool_]) -> PackedMask:
        """A bool mask ``[H, W]`` as it travels."""
        lengths = np.diff(run_edges(mask), prepend=0).astype("<u4")
        return cls(zlib.compress(lengths.tobytes(), level=1), *mask.shape)

    def unpack(self) -> NDArray[np.bool_]:
        """The mask again: bool ``[height, width]``, writable.

        Raises:
            ValueError, zlib.error: the runs are none, or longer than the picture.
        """
        lengths = self._lengths()
        left = self.height * self.width - int(lengths.sum())
        if left < 0 or len(lengths) % 2:
            raise ValueError(f"not the runs of a picture of {self.width} x {self.height} pixels")
        inside = np.arange(len(lengths) + 1) % 2 == 1
        return np.repeat(inside, np.append(lengths, left)).reshape(self.height, self.width)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return self._geometry.area

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The tight box, x0, y0, x1, y1 in pixels, the last two exclusive; None if it is empty."""
        return self._geometry.box

    @property
    def centroid(self) -> tuple[float, float] | None:
        """Mean column and row of the pixels; None if it is empty."""
        return self._geometry.centroid

    def __reduce__(self) -> tuple[type[PackedMask], tuple[bytes, int, int]]:
        return type(self), (self.runs, self.height, self.width)  # not what was worked out of them

    def _lengths(self) -> NDArray[np.int64]:
        return np.frombuffer(zlib.decompress(self.runs), "<u4").astype(np.int64)

    @cached_property
    def _geometry(self) -> _Geometry:
        edges = np.cumsum(self._lengths())
        if not len(edges):
            return _Geometry(0, None, None)
        starts, stops = edges[0::2], edges[1::2]
        # A run that goes on in the next row is one piece in each of them.
        first, last = starts // self.width, (stops - 1) // self.width
        pieces = last - first + 1
        before = np.repeat(np.cumsum(pieces) - pieces, pieces)
        rows = np.repeat(first, pieces) + np.arange(len(before)) - before
        left = np.maximum(np.repeat(starts, pieces) - rows * self.width, 0)
        right = np.minimum(np.repeat(stops, pieces) - rows * self.width, self.width)
        sizes = right - left
        area = int(sizes.sum())
        column = float((sizes * (left + right - 1)).sum() / 2 / area)
        row = float((sizes * rows).sum() / area)
        box = int(left.min()), int(first[0]), int(right.max()), int(last[-1]) + 1
        return _Geometry(area, box, (column, row))
