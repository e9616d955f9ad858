"""The outline of a mask as closed rings of vertices, in pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np

from backend.labelstudio.geometry import Mask, Points

MAX_VERTICES = 500
"""Vertices of one ring; more make the editor slow and say nothing an annotator can use."""
MAX_PARTS = 200
"""Parts of one mask, the largest first; a mask with more is noise."""


def mask_rings(
    mask: Mask, *, tolerance: float | None = None, max_vertices: int = MAX_VERTICES
) -> list[Points]:
    """One closed ring per part of the mask, largest part first, holes cut in.

    Label Studio's polygons are single rings. A hole is joined to the ring around it by a cut of no
    width, walked once in each direction, so that the filled ring is the part without its hole.

    Args:
        mask: bool [H, W].
        tolerance: how far in pixels the ring may leave the outline. By default a two-hundredth of
            the part's size, at least a quarter and at most one pixel.
        max_vertices: the tolerance grows until a ring (with its holes) has no more.

    Returns:
        float64 [N, 2] each, N >= 3, pixel edges as coordinates (see geometry.py); the first vertex
        is not repeated. At most MAX_PARTS; an empty mask has none.
    """
    contours, children, offset = _trace(mask)
    outer = sorted(children, key=lambda index: -cv2.contourArea(contours[index]))
    rings = []
    for index in outer[:MAX_PARTS]:
        parts = [contours[index], *(contours[hole] for hole in children[index])]
        size = math.sqrt(max(cv2.contourArea(contours[index]), 1.0)) / 2.0
        start = tolerance if tolerance is not None else min(max(size / 200.0, 0.25), 1.0)
        rings.append(_simplified(parts, start, max_vertices) + offset)
    return rings


def _trace(mask: Mask) -> tuple[list[np.ndarray], dict[int, list[int]], np.ndarray]:
    """Contours at twice the scale, the holes of each outer contour, and the crop's origin.

    ``findContours`` walks through pixel centres. On a grid that holds the pixels' corners as
    well (even coordinates), grown by one, the walk runs along the pixels' edges.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return [], {}, np.zeros(2)
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grid = np.zeros((2 * crop.shape[0] + 1, 2 * crop.shape[1] + 1), dtype=np.uint8)
    grid[1::2, 1::2] = crop
    grown = cv2.dilate(grid, np.ones((3, 3), dtype=np.uint8))
    contours, hierarchy = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    children: dict[int, list[int]] = {}
    for index, (_, _, _, parent) in enumerate(hierarchy[0]):
        if parent < 0:
            children.setdefault(index, [])
        else:
            children.setdefault(int(parent), []).append(index)
    return list(contours), children, np.array((columns[0], rows[0]), dtype=np.float64)


def _simplified(parts: list[np.ndarray], tolerance: float, max_vertices: int) -> Points:
    """Outer contour and holes (twice the scale) as one ring (pixels)."""
    while True:
        rings = [_approximate(part, tolerance) for part in parts]
        vertices = sum(len(ring) for ring in rings) + 2 * (len(rings) - 1)
        if vertices <= max_vertices:
            break
        tolerance *= 1.5
        if tolerance > 64:  # very many holes: keep the largest, those an annotator sees
            parts = [parts[0], *sorted(parts[1:], key=lambda p: -cv2.contourArea(p))]
            parts, tolerance = parts[: max(1, len(parts) // 2)], 1.0
            if len(parts) == 1 and len(_approximate(parts[0], 64.0)) > max_vertices:
                rings = [_approximate(parts[0], 64.0)]
                break
    ring = rings[0]
    for hole in rings[1:]:
        ring = _join(ring, hole)
    return ring


def _approximate(contour: np.ndarray, tolerance: float) -> Points:
    """A contour at twice the scale as a ring in pixels, with at least three vertices."""
    ring = cv2.approxPolyDP(contour, 2.0 * tolerance, True)
    if len(ring) < 3:  # a part smaller than the tolerance: its bounding box
        x, y, width, height = cv2.boundingRect(contour)
        right, bottom = x + width - 1, y + height - 1
        ring = np.array([(x, y), (x, bottom), (right, bottom), (right, y)])
    pixels: Points = ring.reshape(-1, 2).astype(np.float64) / 2.0
    return pixels


def _join(ring: Points, hole: Points) -> Points:
    """Cut from the nearest vertex of the ring to the hole, around it, and back.

    ``findContours`` walks holes the other way round than outer contours, so the ring
    encloses the part by the even-odd rule and by the non-zero rule alike.
    """
    distances = ((ring[:, None, :] - hole[None, :, :]) ** 2).sum(axis=2)
    at, first = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.roll(hole, -int(first), axis=0)
    return np.concatenate([ring[: at + 1], around, around[:1], ring[at:]])
