"""Removes specks and fills pinholes; every part of a size that matters stays."""

from __future__ import annotations

import cv2
import numpy as np

_FEW = 200


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
    inside = np.pad(mask[window].view(np.uint8), 1)
    outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if len(outlines) == 1:  # one part without holes, as most masks are: nothing to label
        return mask
    limit = share * np.count_nonzero(inside)
    _flip_small_parts(inside, inside, limit)
    _flip_small_parts(inside, 1 - inside, limit)
    cleaned = np.zeros_like(mask)
    cleaned[window] = inside[1:-1, 1:-1]
    return cleaned


def _flip_small_parts(pixels: np.ndarray, mask: np.ndarray, limit: float) -> None:
    """Flip ``pixels`` on the connected parts of ``mask`` smaller than ``limit``, in place.

    Parts are connected by edges or corners; the largest one always stays.

    Args:
        pixels: uint8 ``[H, W]``, 0 and 1.
        mask: uint8 ``[H, W]``, 0 and 1.
        limit: pixels.
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    areas = statistics[:, cv2.CC_STAT_AREA]
    if len(areas) < 3:  # what is not in the mask, and one part
        return
    largest = 1 + int(areas[1:].argmax())
    small = areas < limit
    small[[0, largest]] = False
    # A map over all pixels takes longer than to look at the rectangles around a few parts.
    if np.count_nonzero(small) > _FEW:
        pixels ^= small[labels]
        return
    for part in np.flatnonzero(small):
        x, y, width, height = statistics[part, : cv2.CC_STAT_AREA]
        box = np.s_[y : y + height, x : x + width]
        pixels[box] ^= labels[box] == part
