"""Pictures of ours as JPEG files, for whoever looks at them elsewhere."""

from __future__ import annotations

import cv2
import numpy as np

QUALITY = 90


def jpeg(pixels: np.ndarray, longest: int) -> bytes:
    """A picture as a JPEG file.

    Args:
        pixels: uint8 RGB ``[H, W, 3]``.
        longest: of its sides; a larger picture is scaled down.
    """
    height, width = pixels.shape[:2]
    share = min(1.0, longest / max(height, width))
    if share < 1.0:
        size = max(1, round(width * share)), max(1, round(height * share))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"OpenCV cannot write a JPEG of {pixels.shape}")
    return file.tobytes()
