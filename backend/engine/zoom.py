"""Which part of a large picture to look at again for a small object.

SAM 2 sees every picture scaled to one small square: 40 pixels of an 8,000 pixel scan are five
there, and a mask of five pixels is no outline. Such an object is segmented once more in a window
around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.segmenting import Segment
from backend.pixels.pixel_resolver import ImageSource

LARGE = 2.0  # a picture this many times the network's input loses detail worth fetching
SMALL = 1 / 6  # side of an object, as a share of the picture's, below which it is done again
_ROOM = 3.0  # sides of the object that the window shows: SAM 2 needs the surroundings
_STEPS = 4  # windows start at multiples of a quarter of their side: the next click finds them again


@dataclass(frozen=True)
class Window:
    """A part of a picture, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    def prompt(self, prompt: PixelPrompt) -> PixelPrompt:
        """``prompt`` in pixels of the window."""
        corner = np.array([self.x, self.y], prompt.points.dtype)
        return replace(
            prompt,
            points=prompt.points - corner,
            box=None if prompt.box is None else prompt.box - np.tile(corner, 2),
            mask=None if prompt.mask is None else prompt.mask[self._part].copy(),
        )

    def segment(self, found: Segment, width: int, height: int) -> Segment:
        """What was ``found`` in the window, as a mask of the whole picture."""
        mask = np.zeros((height, width), dtype=bool)
        mask[self._part] = found.mask
        return Segment(mask, found.score, found.logits)

    def source(self, image: ImageSource) -> ImageSource:
        """The window as a picture of its own."""
        key = f"{image.key}@{self.x},{self.y},{self.width}x{self.height}"
        return ImageSource(key, lambda: np.ascontiguousarray(image.load()[self._part]))

    @property
    def _part(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def is_large(width: int, height: int, side: int) -> bool:
    """Whether a picture may have objects that are worth a closer look; for ``side`` see
    ``window_for``."""
    return max(width, height) >= LARGE * side


def window_for(
    prompt: PixelPrompt,
    look: Callable[[], np.ndarray],
    width: int,
    height: int,
    side: int,
) -> Window | None:
    """Where to look again, None where the whole picture does.

    Args:
        prompt: in pixels of the picture.
        look: logits of the mask found on the whole picture, float ``[h, w]`` at any scale;
            asked for only where no box or shape says how large the object is.
        width, height: of the picture.
        side: of the network's input, pixels.
    """
    if not is_large(width, height, side):
        return None
    longest = max(width, height)
    extent = _extent(prompt, look, width, height)
    if extent is None:
        return None
    x0, y0, x1, y1 = extent
    size = max(x1 - x0, y1 - y0)
    if size > SMALL * longest:
        return None
    wanted = _window_side(max(size * _ROOM, side), longest)
    (x, across), (y, down) = _span(x0, x1, wanted, width), _span(y0, y1, wanted, height)
    return Window(x, y, across, down)


def _extent(
    prompt: PixelPrompt, look: Callable[[], np.ndarray], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """The hull of the object: x0, y0, x1, y1 in pixels; None where nothing is known of it."""
    if prompt.box is not None:  # a drawn shape comes with its box
        x0, y0, x1, y1 = (float(value) for value in prompt.box)
        return x0, y0, x1, y1
    logits = look()
    scale = np.array([width / logits.shape[1], height / logits.shape[0]])
    clicks = prompt.points[prompt.positive]
    cells = np.clip((clicks / scale).astype(int), 0, np.array(logits.shape[::-1]) - 1)
    _, parts = cv2.connectedComponents((logits > 0).astype(np.uint8))
    clicked = np.setdiff1d(parts[cells[:, 1], cells[:, 0]], [0])
    rows, columns = np.nonzero(np.isin(parts, clicked))
    # Where a click met nothing, the object may be too small to be seen: its cell counts.
    columns, rows = np.append(columns, cells[:, 0]), np.append(rows, cells[:, 1])
    if len(rows) == 0:
        return None
    x0, y0 = np.array([columns.min(), rows.min()]) * scale
    x1, y1 = np.array([columns.max() + 1, rows.max() + 1]) * scale
    return float(x0), float(y0), float(x1), float(y1)


def _window_side(wanted: float, longest: int) -> int:
    """The picture's longer side, halved as often as ``wanted`` allows: few different windows."""
    return math.ceil(longest / 2 ** math.floor(math.log2(longest / wanted)))


def _span(low: float, high: float, side: int, length: int) -> tuple[int, int]:
    """Start and length of a window of ``side`` around [low, high] within [0, length]."""
    if side >= length:
        return 0, length
    step = side / _STEPS
    start = round(((low + high - side) / 2) / step) * step
    return min(max(round(start), 0), length - side), side
