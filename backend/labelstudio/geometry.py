"""Percent <-> pixel. The only module that converts between the two.

Label Studio writes positions in percent of the picture's width (x, width, radiusX) and height
(y, height, radiusY). A pixel position is a continuous coordinate: 0 is the left edge of the first
pixel, ``width`` the right edge of the last, so that 50 % of any width is the middle of the picture.
Angles are degrees, clockwise, as the editor's canvas turns them; rectangles turn about their top
left corner, ellipses about their centre (``regions/RectRegion.jsx``, ``regions/EllipseRegion.jsx``
of Label Studio 1.23.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""float64 [N, 2], x then y."""
Mask = NDArray[np.bool_]
"""bool [H, W]."""

MAX_CROSSINGS = 20_000_000  # of an outline and the rows of a picture, each of which takes 0.1 us
ELLIPSE_VERTICES = 90  # the polygon is within 0.06 % of the radius of the ellipse


class Box(NamedTuple):
    """A rectangle in percent, turned by ``rotation`` degrees about its top left corner."""

    x: float
    y: float
    width: float
    height: float
    rotation: float = 0.0


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in percent, turned by ``rotation`` degrees about its centre (x, y)."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    rotation: float = 0.0


def points_to_pixels(
    points: Sequence[tuple[float, float]] | Points, width: int, height: int
) -> Points:
    """Percent positions as pixel positions, float64 [N, 2]; positions outside stay outside."""
    array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return array * (width / 100.0, height / 100.0)


def points_to_percent(points: Points, width: int, height: int) -> Points:
    """Pixel positions as percent, float64 [N, 2]."""
    return np.asarray(points, dtype=np.float64).reshape(-1, 2) * (100.0 / width, 100.0 / height)


def box_corners(box: Box, width: int, height: int) -> Points:
    """The four corners in pixels, float64 [4, 2]: top left (the pivot), then clockwise.

    The rectangle turns on the screen, where pixels are square, so the angle applies after the
    conversion to pixels.
    """
    sides = np.array([(0.0, 0.0), (box.width, 0.0), (box.width, box.height), (0.0, box.height)])
    pivot = points_to_pixels([(box.x, box.y)], width, height)
    return _turned(points_to_pixels(sides, width, height), box.rotation) + pivot


def _turned(points: Points, degrees: float) -> Points:
    """Pixel positions turned about 0, 0."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    turned: Points = points @ np.array([(cosine, sine), (-sine, cosine)])
    return turned


def box_to_pixels(box: Box, width: int, height: int) -> Points:
    """The upright box around a (turned) rectangle, clipped to the picture: float64 [4], xyxy."""
    corners = np.clip(box_corners(box, width, height), 0.0, (width, height))
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def mask_iou(one: Mask, other: Mask) -> float:
    """IoU of two masks, 0 to 1; 0 where both are empty, and for masks of different sizes."""
    if one.shape != other.shape:
        return 0.0
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 0.0


def box_iou(one: Sequence[float] | Points, other: Sequence[float] | Points) -> float:
    """IoU of two upright boxes (left, top, right and bottom, in the same unit), 0 to 1; 0 where
    neither has an area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = float(max(width, 0.0) * max(height, 0.0))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    union = areas[0] + areas[1] - shared
    return shared / union if union > 0.0 else 0.0


def point_in_box(x: float, y: float, box: Box, width: int, height: int) -> bool:
    """Whether the percent position (x, y) lies in the (turned) rectangle, edges included."""
    return bool(points_in_boxes([(x, y)], [box], [(width, height)])[0, 0])


def points_in_boxes(
    points: Sequence[tuple[float, float]],
    boxes: Sequence[Box] | NDArray[np.float64],
    sizes: Sequence[tuple[int, int]] | NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which percent positions lie in which (turned) rectangles, edges included.

    Args:
        boxes: as ``Box``, or ``[boxes, 5]``.
        sizes: width and height of the picture that each rectangle is on.

    Returns:
        bool ``[points, boxes]``.
    """
    drawn, size = np.asarray(boxes, np.float64), np.asarray(sizes, np.float64)
    x, y = (np.array(points, np.float64)[:, None] - drawn[:, :2]).transpose(2, 0, 1)
    x, y = x * size[:, 0] / 100.0, y * size[:, 1] / 100.0  # from the pivot, in pixels
    angle = np.radians(drawn[:, 4])
    along, below = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    slack = 1e-6 * size.max(axis=1)  # a click on the edge must not depend on rounding
    extent = drawn[:, 2:4] * size / 100.0 + slack[:, None]
    inside_x = (along >= -slack) & (along <= extent[:, 0])
    inside_y = (below >= -slack) & (below <= extent[:, 1])
    inside: NDArray[np.bool_] = inside_x & inside_y
    return inside


def ellipse_to_polygon(ellipse: Ellipse, width: int, height: int) -> Points:
    """The outline of an ellipse in pixels, float64 [ELLIPSE_VERTICES, 2]."""
    turns = np.linspace(0.0, 2.0 * math.pi, ELLIPSE_VERTICES, endpoint=False)
    x = np.cos(turns) * ellipse.radius_x * width / 100.0
    y = np.sin(turns) * ellipse.radius_y * height / 100.0
    centre = points_to_pixels([(ellipse.x, ellipse.y)], width, height)
    return _turned(np.stack([x, y], axis=1), ellipse.rotation) + centre


def check_outline(points: Points, height: int) -> None:
    """Refuse a closed ring that goes up and down so often that filling it takes many seconds.

    Args:
        points: pixel positions, float64 [N, 2].
        height: of the picture.

    Raises:
        ValueError: it crosses rows of the picture more than MAX_CROSSINGS times.
    """
    rows = np.clip(points[:, 1], 0.0, height)
    crossings = float(np.abs(rows - np.roll(rows, -1)).sum())
    if crossings > MAX_CROSSINGS:
        raise ValueError(
            f"its outline crosses the rows of the picture {crossings:.0f} times, more than "
            f"{MAX_CROSSINGS}; draw it with fewer corners"
        )


def fill_polygon(points: Points, width: int, height: int) -> Mask:
    """The pixels whose centre lies in a closed ring (even-odd rule), bool [H, W].

    OpenCV's fillPoly also colours every pixel an edge touches, which makes a small object a
    tenth larger; masks must come back from polygons at their own size.

    Args:
        points: pixel positions, float64 [N, 2]; the last is joined to the first.

    Raises:
        ValueError: see ``check_outline``.
    """
    check_outline(points, height)
    inside: Mask = np.zeros((height, width), dtype=bool)
    if not len(points):
        return inside
    # Only the part around the ring; a column more on both sides, as crossings are rounded.
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    left, top = max(math.ceil(left - 1.5), 0), max(math.ceil(top - 0.5), 0)
    right, bottom = min(math.ceil(right + 0.5), width), min(math.ceil(bottom - 0.5), height)
    if left >= right or top >= bottom:
        return inside
    # Each edge flips, in every row it crosses, all pixels to the right of the crossing.
    flips = np.zeros((bottom - top, right - left + 1), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))
        first = min(max(math.ceil(low - 0.5), top), bottom)
        last = min(max(math.ceil(high - 0.5), top), bottom)  # exclusive
        if first < last:
            rows = np.arange(first, last)
            places = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.ceil(np.clip(places - 0.5, left, right)).astype(np.intp)
            flips[rows - top, columns - left] ^= True
    inside[top:bottom, left:right] = np.logical_xor.accumulate(flips, axis=1)[:, :-1]
    return inside


def resize_mask(mask: Mask, width: int, height: int) -> Mask:
    """The mask at another size, nearest neighbour, bool [height, width]."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(
        mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return resized.astype(bool)


def mask_bounds(mask: Mask) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of a mask in pixels, the last two exclusive; None if it is
    empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_to_box(mask: Mask) -> Box | None:
    """The tight upright box around a mask, in percent; None if the mask is empty."""
    bounds, (height, width) = mask_bounds(mask), mask.shape
    return None if bounds is None else box_to_percent(bounds, width, height)


def box_to_percent(bounds: tuple[float, float, float, float], width: int, height: int) -> Box:
    """An upright box (x0, y0, x1, y1 in pixels) in percent of a picture of that size."""
    left, right = bounds[0] * 100.0 / width, bounds[2] * 100.0 / width
    top, bottom = bounds[1] * 100.0 / height, bounds[3] * 100.0 / height
    return Box(left, top, right - left, bottom - top)
