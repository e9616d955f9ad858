"""Masks as run lengths, in COCO's order: a thousandth of the bytes of the array."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MaskRuns:
    """A mask as COCO's uncompressed RLE.

    Attributes:
        size: height and width in pixels.
        counts: uint32, lengths of runs of 0 and 1 in turn, beginning with 0 (the first
            length may be 0), down the columns.
    """

    size: tuple[int, int]
    counts: NDArray[np.uint32]

    @classmethod
    def encode(cls, mask: NDArray[np.bool_]) -> "MaskRuns":
        """Compress a mask.

        Args:
            mask: bool ``[H, W]``.

        Raises:
            ValueError: another shape or dtype.
        """
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"a mask must be bool [H, W], not {mask.dtype} {list(mask.shape)}")
        pixels = mask.T.ravel()
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        starts_inside = pixels.size > 0 and bool(pixels[0])
        edges = np.concatenate(([0] if starts_inside else [], changes, [pixels.size]))
        counts = np.diff(edges, prepend=0).astype(np.uint32)
        return cls((mask.shape[0], mask.shape[1]), counts)

    def decode(self) -> NDArray[np.bool_]:
        """The mask, bool ``[H, W]``."""
        inside = np.arange(len(self.counts)) % 2 == 1
        height, width = self.size
        return np.ascontiguousarray(np.repeat(inside, self.counts).reshape(width, height).T)

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int(self.counts[1::2].sum())
