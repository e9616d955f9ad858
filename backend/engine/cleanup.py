"""Removes specks and fills pinholes; every part of a size that matters stays."""

from __future__ import annotations

import cv2
import numpy as np


def clean(mask: np.ndarray, share: float) -> np.ndarray:
    """``mask`` without specks and holes smaller than ``share`` of its area.

    An object that is split by something in front of it keeps all its parts, unlike with a
    filter that keeps the largest one.

    Args:
        mask: bool ``[H, W]``.
        share: 0 to 1; 0 changes nothing.

    Returns:
        bool ``[H, W]``; empty only if ``mask`` is.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if share <= 0 or not len(rows):
        return mask
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A rim of background, so that what is outside the object is one large part, not a hole.
    inside = np.pad(mask[window], 1)
    limit = share * np.count_nonzero(inside)
    inside &= ~_small_parts(inside, limit)
    inside |= _small_parts(~inside, limit)
    cleaned = np.zeros_like(mask)
    cleaned[window] = inside[1:-1, 1:-1]
    return cleaned


def _small_parts(mask: np.ndarray, limit: float) -> np.ndarray:
    """Connected parts (by edges or corners) smaller than ``limit`` pixels, never the largest."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = statistics[:, cv2.CC_STAT_AREA]
    small = areas < limit
    small[0] = False  # what is not in the mask
    if len(areas) > 1:
        small[1 + int(areas[1:].argmax())] = False
    return small[parts]
