"""Pictures of ours as JPEG files, for whoever looks at them elsewhere."""

from __future__ import annotations

import cv2
import numpy as np

from backend.expected import ExpectedError

QUALITY = 90


def within(pixels: np.ndarray, longest: int) -> np.ndarray:
    """A picture, uint8 ``[H, W, 3]``, scaled down where one of its sides is longer."""
    height, width = pixels.shape[:2]
    share = min(1.0, longest / max(height, width))
    if share == 1.0:
        return pixels
    size = max(1, round(width * share)), max(1, round(height * share))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def jpeg(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """A picture as a JPEG file.

    Args:
        pixels: uint8 RGB ``[H, W, 3]``.

    Raises:
        ExpectedError: it is too large for one.
    """
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        height, width = pixels.shape[:2]
        raise ExpectedError(f"A picture of {width} x {height} pixels cannot be written as JPEG.")
    return file.tobytes()
