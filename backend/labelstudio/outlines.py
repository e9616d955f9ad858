"""The outline of a mask as closed rings of vertices, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from backend.labelstudio.geometry import Mask, Points

MAX_VERTICES = 500
"""Vertices of one ring; more make the editor slow and say nothing an annotator can use."""
MAX_PARTS = 200
"""Parts of one mask, the largest first; a mask with more is noise."""
MAX_HOLES = 20
"""Holes of one part, the largest first."""
TOLERANCE = 0.04
"""Simplification in units of area / perimeter: what keeps IoU of smooth shapes above 0.98."""
MIN_HOLE_SHARE = 0.001
"""A hole below this share of its part's area is filled."""


def mask_rings(mask: Mask) -> list[Points]:
    """One closed ring per part of a mask, largest part first, holes cut in.

    Label Studio's polygons are single rings. A hole is joined to the ring around it by a cut of no
    width, walked once in each direction, so that the filled ring is the part without its hole.
    How far a ring may leave the outline follows from the part's thickness (TOLERANCE): between
    0.4 and 1 pixel, more only where MAX_VERTICES forces it.

    Args:
        mask: bool [H, W].

    Returns:
        float64 [N, 2] each, N >= 3, pixel edges as coordinates (see geometry.py); the first vertex
        is not repeated. An empty mask has none.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return []
    corner = np.array((columns[0], rows[0]), dtype=np.float64)
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return [_ring(part) + corner for part in _trace(crop)]


@dataclass(frozen=True)
class _Part:
    """One connected part: its outer contour and its holes, int32 [N, 1, 2] on the double grid."""

    outer: np.ndarray
    holes: list[np.ndarray]


def _trace(mask: Mask) -> list[_Part]:
    """The parts of a mask, largest first.

    ``findContours`` walks through pixel centres, half a pixel inside. On a grid of twice the size
    that also holds what lies between the pixels (even coordinates), the mask grown by one step, the
    walk runs along the pixels' edges.
    """
    grid = np.zeros((2 * mask.shape[0] + 1, 2 * mask.shape[1] + 1), dtype=np.uint8)
    grid[1::2, 1::2] = mask
    grown = cv2.dilate(grid, np.ones((3, 3), dtype=np.uint8))
    contours, hierarchy = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    by_size = sorted(range(len(contours)), key=lambda index: -areas[index])
    parents = hierarchy[0][:, 3]
    outer = [index for index in by_size if parents[index] < 0][:MAX_PARTS]
    holes: dict[int, list[np.ndarray]] = {index: [] for index in outer}
    for index in by_size:
        siblings = holes.get(int(parents[index]))
        if siblings is None or len(siblings) == MAX_HOLES:
            continue
        if areas[index] >= MIN_HOLE_SHARE * areas[parents[index]]:
            siblings.append(contours[index])
    return [_Part(contours[index], holes[index]) for index in outer]


def _ring(part: _Part) -> Points:
    """A part as one ring, in pixels."""
    # both at twice the scale; a part of one pixel has a perimeter of 8
    thickness = cv2.contourArea(part.outer) / (2.0 * cv2.arcLength(part.outer, True))
    tolerance = min(max(TOLERANCE * thickness, 0.4), 1.0)
    contours = [part.outer, *part.holes]
    while True:
        rings = [_simplified(contour, tolerance) for contour in contours]
        if sum(len(ring) + 2 for ring in rings) - 2 <= MAX_VERTICES:
            break
        tolerance *= 1.5
    ring = rings[0]
    for hole in rings[1:]:
        ring = _cut_in(ring, hole)
    return ring


def _simplified(contour: np.ndarray, tolerance: float) -> Points:
    """A contour as a ring in pixels, at least three vertices, within ``tolerance`` pixels."""
    # The middles of the pixels' edges (one coordinate odd): the staircase without its corners.
    middles = contour[contour.sum(axis=2) % 2 == 1][:, None, :]
    ring = cv2.approxPolyDP(middles, 2.0 * tolerance, True)
    if len(ring) < 3:  # a part thinner than the tolerance
        ring = middles
    pixels: Points = ring.reshape(-1, 2).astype(np.float64) / 2.0
    return pixels


def _cut_in(ring: Points, hole: Points) -> Points:
    """Cut from the vertex of the ring nearest to the hole to it, around it, and back.

    ``findContours`` walks holes the other way round than outer contours, so the ring
    encloses the part by the even-odd rule and by the non-zero rule alike.
    """
    distances = ((ring[:, None, :] - hole[None, :, :]) ** 2).sum(axis=2)
    at, first = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.roll(hole, -int(first), axis=0)
    return np.concatenate([ring[: at + 1], around, around[:1], ring[at:]])
