"""The frames of a video file, by number."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backend.pixels.buffer import FrameBuffer, FrameSource
from backend.pixels.frame_table import FrameTable


class OpenedVideo(FrameSource, Protocol):
    """What ``VideoFrames`` needs of a decoder; see ``Decoder``."""

    table: FrameTable
    duration: float
    width: int
    height: int


class VideoFrames(FrameBuffer):
    """The frames in the order they are shown; ``sandbox.video_decoding.open_video`` opens them.

    Each is turned as the file's display matrix says. Pixels that are not square stay as they are
    stored: positions in percent are the same either way. Which frame Label Studio means by a number
    is the business of ``backend.labelstudio.timing``.

    Attributes:
        width, height: of every frame, upright.
        table: the frames and their timestamps. Given when the same file is opened again, it saves
            reading the file through once.
        duration: seconds as the file states them, which is what the browser shows first; until
            the end of the last frame where the file states nothing.
    """

    def __init__(
        self, decoder: OpenedVideo, *, read_ahead: int = 8, max_bytes: int = 256 << 20
    ) -> None:
        """
        Args:
            decoder: of the file; closed with the frames.
            read_ahead: frames that a thread decodes in advance while reading forward; 0 for none.
            max_bytes: of decoded frames kept for reading ahead and backward.
        """
        self.table, self.duration = decoder.table, decoder.duration
        self.width, self.height = decoder.width, decoder.height
        super().__init__(
            decoder,
            count=len(decoder.table),
            frame_bytes=decoder.width * decoder.height * 3,
            read_ahead=read_ahead,
            max_bytes=max_bytes,
            group_start=decoder.table.group_start,
        )

    def frame_size(self, index: int) -> tuple[int, int]:
        """Width and height of a frame; that of every other too."""
        return self.width, self.height

    @property
    def times(self) -> NDArray[np.float64]:
        """When each frame is first shown, seconds on the browser's clock, float64 [N]."""
        return self.table.times

    @property
    def missing(self) -> int:
        """Frames the file announces at its end but does not hold; an estimate in formats that
        announce a duration only, 0 where nothing is announced."""
        return self.table.missing

    @property
    def notice(self) -> str | None:
        """A sentence for the annotator where the file is not whole."""
        if not self.missing:
            return None
        return (
            f"The video file ends early: {self.missing} of {len(self) + self.missing} frames are "
            "missing at its end. The others are used."
        )
