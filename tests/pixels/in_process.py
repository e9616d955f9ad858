"""Decoding as the decoding processes do it, in the process of a test: nothing has to start."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from backend.pixels.decoder import Decoder
from backend.pixels.frame_table import FrameTable
from backend.pixels.images import decode, opened_image, strips
from backend.pixels.video_limits import DEFAULT_LIMITS, VideoLimits
from backend.pixels.videos import VideoFrames


def decoded_image(path: Path, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """An image file as uint8 RGB [H, W, 3]."""
    Image.MAX_IMAGE_PIXELS = None  # as ``serve_images`` has it
    with path.open("rb") as file, opened_image(file, max_pixels) as image:
        return np.concatenate(list(strips(decode(image, max_pixels), image.format)))


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
