"""What is known of a video without decoding it."""

from __future__ import annotations

from dataclasses import dataclass

from backend.pixels.frame_table import FrameTable


@dataclass(frozen=True)
class VideoIndex:
    """What is known of a video without decoding it.

    Attributes:
        content_key: the same for the same bytes.
        table: the frames and their timestamps.
        duration: seconds, see ``VideoFrames``.
        width, height: of every frame, upright.
    """

    content_key: str
    table: FrameTable
    duration: float
    width: int
    height: int
