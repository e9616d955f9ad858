"""Decoding as the decoding processes do it, in the process of a test: nothing has to start."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from backend.labelstudio.brush_rle import MAX_MASK_PIXELS, decode_brush
from backend.labelstudio.read_results import (
    BrushStrokes,
    DecodeMask,
    EncodedMask,
    UnreadableMask,
)
from backend.media.errors import MediaError
from backend.pixels.decoder import Decoder
from backend.pixels.frame_table import FrameTable
from backend.pixels.images import decode, mask_strips, opened_image, strips
from backend.pixels.video_limits import DEFAULT_LIMITS, VideoLimits
from backend.pixels.videos import VideoFrames


def decoded_image(path: Path, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """An image file as uint8 RGB [H, W, 3]."""
    Image.MAX_IMAGE_PIXELS = None  # as ``serve_images`` has it
    with path.open("rb") as file, opened_image(file, max_pixels) as image:
        return np.concatenate(list(strips(decode(image, max_pixels), image.format)))


def decoded_mask(encoded: EncodedMask) -> np.ndarray:
    """``DecodeMask`` in this process."""
    if isinstance(encoded, BrushStrokes):
        return decode_brush(encoded.rle, encoded.width, encoded.height)
    try:
        with opened_image(io.BytesIO(encoded.png), MAX_MASK_PIXELS, ("PNG",)) as image:
            image.load()
            return np.concatenate(list(mask_strips(image)))
    except MediaError as error:
        raise UnreadableMask(f"its mask cannot be decoded ({error.sentence})") from error


class InProcessDecoder:
    """``ImageDecoder`` without a process of its own."""

    def __init__(self, *, max_pixels: int = 100_000_000, warm: int = 0) -> None:
        self._max_pixels = max_pixels

    def load(self, source: Path, /) -> np.ndarray:
        return decoded_image(source, max_pixels=self._max_pixels)

    def masks(self, seconds: float = 0.0, /) -> DecodeMask:
        return decoded_mask

    def close(self) -> None:
        """Nothing to close."""


def video_frames(
    source: Path | BinaryIO,
    *,
    limits: VideoLimits = DEFAULT_LIMITS,
    table: FrameTable | None = None,
    **options: Any,
) -> VideoFrames:
    """``open_video`` without a process; ``options`` are those of ``VideoFrames``."""
    file = io.BytesIO(source.read_bytes()) if isinstance(source, Path) else source
    return VideoFrames(Decoder(file, limits, table), **options)
