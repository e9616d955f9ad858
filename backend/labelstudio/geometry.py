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

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""float64 [N, 2], x then y."""
Mask = NDArray[np.bool_]
"""bool [H, W]."""

ELLIPSE_VERTICES = 90  # the polygon is within 0.06 % of the radius of the ellipse
_SHIFT = 4  # OpenCV polygons in 1/16 pixel


@dataclass(frozen=True)
class Box:
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
    angle = math.radians(box.rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([(cosine, sine), (-sine, cosine)])
    pivot = points_to_pixels([(box.x, box.y)], width, height)
    corners: Points = points_to_pixels(sides, width, height) @ turn + pivot
    return corners


def box_to_pixels(box: Box, width: int, height: int) -> Points:
    """The upright box around a (turned) rectangle, clipped to the picture: float64 [4], xyxy."""
    corners = np.clip(box_corners(box, width, height), 0.0, (width, height))
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def point_in_box(x: float, y: float, box: Box, width: int, height: int) -> bool:
    """Whether the percent position (x, y) lies in the (turned) rectangle, edges included."""
    corners = box_corners(box, width, height)
    along, down = corners[1] - corners[0], corners[3] - corners[0]
    offset = points_to_pixels([(x, y)], width, height)[0] - corners[0]
    # a hair of slack: a click on the edge must not depend on rounding
    return all(
        -1e-6 <= float(offset @ side) / max(float(side @ side), 1e-12) <= 1.0 + 1e-6
        for side in (along, down)
    )


def ellipse_to_polygon(ellipse: Ellipse, width: int, height: int) -> Points:
    """The outline of an ellipse in pixels, float64 [ELLIPSE_VERTICES, 2]."""
    turns = np.linspace(0.0, 2.0 * math.pi, ELLIPSE_VERTICES, endpoint=False)
    ring = np.stack(
        [
            np.cos(turns) * ellipse.radius_x * width / 100.0,
            np.sin(turns) * ellipse.radius_y * height / 100.0,
        ],
        axis=1,
    )
    angle = math.radians(ellipse.rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    centre = points_to_pixels([(ellipse.x, ellipse.y)], width, height)
    outline: Points = ring @ np.array([(cosine, sine), (-sine, cosine)]) + centre
    return outline


def fill_polygon(points: Points, width: int, height: int) -> Mask:
    """The pixels whose centre lies in a closed outline (even-odd rule), bool [H, W].

    Args:
        points: pixel positions, float64 [N, 2]; fewer than three enclose nothing.
        width, height: size of the mask.
    """
    canvas = np.zeros((height, width), dtype=np.uint8)
    if len(points) < 3:
        return canvas.astype(bool)
    bound = 4 * max(width, height)  # keeps the fixed-point numbers of OpenCV in range
    clipped = np.clip(points, -bound, bound)
    # OpenCV's coordinates are pixel centres, ours pixel edges: half a pixel apart.
    fixed = np.round((clipped - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], 1, lineType=cv2.LINE_8, shift=_SHIFT)
    return canvas.astype(bool)


def resize_mask(mask: Mask, width: int, height: int) -> Mask:
    """The mask at another size, nearest neighbour, bool [height, width]."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(
        mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return resized.astype(bool)


def mask_to_box(mask: Mask) -> Box | None:
    """The tight upright box around a mask, in percent; None if the mask is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    height, width = mask.shape
    left, right = columns[0] * 100.0 / width, (columns[-1] + 1) * 100.0 / width
    top, bottom = rows[0] * 100.0 / height, (rows[-1] + 1) * 100.0 / height
    return Box(float(left), float(top), float(right - left), float(bottom - top))
