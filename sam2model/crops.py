"""Where to look for objects that nobody pointed at: parts of a picture, and points on them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A box that comes this close to an edge, in pixels, touches it.
_NEAR = 20.0


@dataclass(frozen=True)
class Crop:
    """A part of a picture, in its pixels; ``layer`` 0 is the whole, each next one has crops of half
    the side."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def corner(self) -> NDArray[np.int64]:
        """x and y of its first pixel."""
        return np.array([self.x0, self.y0])

    def cuts(self, boxes: NDArray[np.float32], picture: tuple[int, int]) -> NDArray[np.bool_]:
        """Which boxes end at an edge of the crop that is none of the picture: what is in them goes
        on beyond.

        Args:
            boxes: ``[N, 4]`` x0, y0, x1, y1 in pixels of the picture.
            picture: its height and width.
        """
        own = np.array([self.x0, self.y0, self.x1, self.y1])
        whole = np.array([0, 0, picture[1], picture[0]])
        near = np.abs(boxes - own) <= _NEAR
        near &= ~(np.abs(boxes - whole) <= _NEAR)
        return near.any(axis=1)


def crops(size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole picture, and for each further layer n its 2^n x 2^n crops, column by column.

    Args:
        size: height and width of the picture.
        layers: beyond the whole picture.
        overlap_ratio: how much the crops of the first layer overlap, as a share of the picture's
            shorter side; halved with each layer.
    """
    height, width = size
    found = [Crop(0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        across, down = (
            math.ceil((overlap * (count - 1) + length) / count) for length in (width, height)
        )
        found += [
            Crop(x, y, min(x + across, width), min(y + down, height), layer)
            for x in (column * (across - overlap) for column in range(count))
            for y in (row * (down - overlap) for row in range(count))
        ]
    return found


def point_grid(per_side: int) -> NDArray[np.float64]:
    """Evenly spaced points ``[per_side * per_side, 2]``, xy in 0..1, row by row."""
    offset = 1 / (2 * per_side)
    places = np.linspace(offset, 1 - offset, per_side)
    x, y = np.meshgrid(places, places)
    return np.stack([x, y], axis=-1).reshape(-1, 2)
