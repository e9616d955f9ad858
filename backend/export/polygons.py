"""Masks as polygons, in the two ways in which trainers fill them.

COCO's tools fill what lies between the vertices, whose coordinates are the edges of pixels:
``coco_polygons``. What reads YOLO's labels rounds or cuts the coordinates to whole pixels and draws
the outline, too: ``yolo_polygons``. Each is compared with the mask, filled by its own rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from backend.labelstudio.geometry import Mask, Points, mask_bounds, mask_iou
from backend.labelstudio.write_results import (
    RingLimits,
    contour_parts,
    joined_rings,
    mask_rings,
)

LEAST_IOU = 0.98
"""Of a mask's polygons with it where nobody says how fine they are to be."""
IN_A_PIXEL = 0.25
"""Where in its pixel a vertex of YOLO is: rounded and cut off, it is this pixel."""
_FIFTHS = 5  # of a pixel, to which COCO's tools round
_DETAILS = (1.0, 0.5, 0.25, 0.0)  # pixels; the coarsest that fits is taken
_MOST_JOINED = 8  # parts of one mask; what joins more is no small part of it
_WHOLE = RingLimits(math.inf, 2**31, 2**31, 0.0)

Rings = list[Points]


def coco_polygons(mask: Mask, detail: float | None) -> tuple[Rings, float]:
    """One ring for each part of a mask that is not empty, holes cut in, in hundredths of pixels;
    and how well they fit.

    Args:
        detail: how far they may leave the outline, in pixels; None: as far as they fit.
    """

    def trace(detail: float) -> Rings:
        return [ring.round(2) for ring in mask_rings(mask, detail, _WHOLE)]

    def fill(rings: Sequence[Points]) -> Mask:
        filled = np.zeros_like(mask)
        for ring in rings:
            fill_as_coco(ring, filled)
        return filled

    return _fitting(trace, fill, mask, detail)


def yolo_polygons(mask: Mask, detail: float | None) -> tuple[Rings, float]:
    """A mask that is not empty as rings of pixels, holes joined to them by cuts; and how well they
    fit.

    It is one ring, parts joined by cuts, where that fits as well; else one for each part. Each has
    three vertices at least, which are IN_A_PIXEL behind the corners of their pixels.

    Args:
        detail: as above; with 0 not a pixel is given up for a cut between parts.
    """
    bounds = mask_bounds(mask)
    if bounds is None:
        raise ValueError("an empty mask has no outline")
    left, top, right, bottom = bounds
    inside = mask[top:bottom, left:right]
    contours, hierarchy = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    parts = contour_parts(contours, hierarchy, _WHOLE)

    def trace(detail: float) -> Rings:
        return [joined_rings([_simplified(each, detail) for each in part]) for part in parts]

    def fill(rings: Sequence[Points]) -> Mask:
        filled = np.zeros(inside.shape, np.uint8)
        for ring in rings:
            cv2.fillPoly(filled, [ring.astype(np.int32)], (1,))
        return filled.astype(bool)

    rings, fits = _fitting(trace, fill, inside, detail)
    if 1 < len(rings) <= _MOST_JOINED:
        joined = [joined_rings(rings)]
        fits_joined = mask_iou(fill(joined), inside)
        if fits_joined >= min(fits, LEAST_IOU if detail != 0.0 else 1.0):
            rings, fits = joined, fits_joined
    corner = left + IN_A_PIXEL, top + IN_A_PIXEL
    return [np.resize(ring, (max(len(ring), 3), 2)) + corner for ring in rings], fits


def fill_as_coco(ring: Points, picture: Mask) -> None:
    """Add the pixels of a ring within a picture as COCO's tools fill it (``rleFrPoly`` of
    ``maskApi.c``): its outline is drawn on a grid of fifths of pixels, and flips all pixels below
    where it crosses the middle of a column."""
    left, top = np.floor(ring.min(axis=0)).astype(int)
    right, bottom = np.ceil(ring.max(axis=0)).astype(int)
    window = picture[top:bottom, left:right]
    height, width = window.shape
    start = np.floor(_FIFTHS * ring + 0.5).astype(np.int64)
    end = np.roll(start, -1, axis=0)
    spans = np.abs(end - start)
    level = spans[:, 0] >= spans[:, 1]
    along = np.where(level, 0, 1)
    rows = np.arange(len(start))
    flipped = start[rows, along] > end[rows, along]
    first, last = (np.where(flipped[:, None], b, a) for a, b in ((start, end), (end, start)))
    steps = spans[rows, along]
    edge = np.repeat(rows, steps + 1)
    done = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    done = np.where(flipped[edge], steps[edge] - done, done)
    across = 1 - along
    slope = (last - first)[rows, across] / np.maximum(steps, 1)
    moved = np.floor(first[rows, across][edge] + slope[edge] * done + 0.5).astype(np.int64)
    line = np.where(level[edge], first[edge, 0] + done, moved) - _FIFTHS * left  # x, in fifths
    fall = np.where(level[edge], moved, first[edge, 1] + done) - _FIFTHS * top  # y
    crossed = np.flatnonzero(line[1:] != line[:-1])
    x = np.minimum(line[1:], line[:-1])[crossed]
    y = np.minimum(fall[1:], fall[:-1])[crossed]
    middle = (x % _FIFTHS == _FIFTHS // 2) & (x >= 0) & (x < _FIFTHS * width)
    columns = x[middle] // _FIFTHS
    lower = np.ceil(np.clip((y[middle] + 0.5) / _FIFTHS - 0.5, 0, height)).astype(np.int64)
    flips = np.bincount(columns * height + lower, minlength=height * width + 1)[: height * width]
    odd = np.logical_xor.accumulate(flips % 2 == 1)
    window |= odd.reshape(width, height).T


def _fitting(
    trace: Callable[[float], Rings],
    fill: Callable[[Sequence[Points]], Mask],
    mask: Mask,
    detail: float | None,
) -> tuple[Rings, float]:
    for each in _DETAILS if detail is None else (detail,):
        found = trace(each)
        fits = mask_iou(fill(found), mask)
        if fits >= LEAST_IOU:
            break
    return found, fits


def _simplified(contour: np.ndarray, detail: float) -> Points:
    ring = cv2.approxPolyDP(contour, detail, True) if detail > 0.0 else contour
    pixels: Points = ring.reshape(-1, 2).astype(np.float64)
    return pixels
