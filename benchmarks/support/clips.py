"""Synthetic video for tests and benchmarks."""

import numpy as np
from numpy.typing import NDArray


class MovingDiscs:
    """Three discs that move over coarse noise; frames are drawn when they are asked for.

    Args:
        num_frames: length.
        size: side of the square frames in pixels, a multiple of 8.
    """

    def __init__(self, num_frames: int, size: int) -> None:
        self._num_frames = num_frames
        blocks = np.random.default_rng(0).integers(0, 120, (size // 8, size // 8, 3))
        self._background = blocks.repeat(8, 0).repeat(8, 1).astype(np.uint8)
        self._rows, self._columns = np.mgrid[:size, :size] / size

    def __len__(self) -> int:
        return self._num_frames

    def __getitem__(self, frame: int) -> NDArray[np.uint8]:
        if not 0 <= frame < self._num_frames:
            raise IndexError(frame)
        image = self._background.copy()
        swing = 0.1 * np.sin(frame / 20)
        for x, y, radius, colour in (
            (0.4 + 2 * swing, 0.3, 0.15, (220, 60, 40)),
            (0.7, 0.4 + 0.01 * np.sin(frame), 0.12, (40, 200, 80)),
            (0.5 - 2 * swing, 0.75, 0.18, (60, 80, 230)),
        ):
            inside = (self._columns - x) ** 2 + (self._rows - y) ** 2 < radius**2
            image[inside] = colour
        return image
