"""The frames of a video file, by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from backend.pixels.buffer import FrameBuffer, FrameSource
from backend.pixels.containers import VideoLimits
from backend.pixels.decoder import Decoder
from backend.pixels.frame_table import FrameTable
from backend.pixels.picture import Picture

DEFAULT_LIMITS = VideoLimits()


class OpenedVideo(FrameSource, Protocol):
    """What ``VideoFrames`` needs of a decoder; see ``Decoder``."""

    table: FrameTable
    duration: float
    width: int
    height: int


OpenDecoder = Callable[[BinaryIO, VideoLimits, FrameTable | None], OpenedVideo]


class VideoFrames:
    """``len(frames)`` and ``frames[i]``, for i from 0 in the order the frames are shown.

    Each frame is uint8 RGB [height, width, 3], contiguous, read-only (copy it to draw on it),
    turned as the file's display matrix says. Pixels that are not square stay as they are stored:
    positions in percent are the same either way.

    For one consumer at a time; close it, or use it in a ``with`` statement.

    Attributes:
        width, height: of every frame, upright.
        table: the frames and their timestamps. Given to another ``VideoFrames`` of the same file,
            it saves reading the file through once.
        duration: seconds as the file states them, which is what the browser shows first; until
            the end of the last frame where the file states nothing.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        *,
        limits: VideoLimits = DEFAULT_LIMITS,
        table: FrameTable | None = None,
        read_ahead: int = 8,
        max_bytes: int = 256 << 20,
        decode: OpenDecoder = Decoder,
    ) -> None:
        """
        Args:
            source: a path, or a seekable binary file, which is not closed.
            limits: what is refused.
            table: of an earlier ``VideoFrames`` of the same file.
            read_ahead: frames that a thread decodes in advance while reading forward; 0 for none.
            max_bytes: of decoded frames kept for reading ahead and backward.
            decode: opens the file; ``sandbox.video_decoding`` has one for a process of its own.

        Raises:
            VideoError: the file is no supported video, cannot be decoded, or is outside the limits.
            OSError: the file cannot be read.
        """
        with ExitStack() as opened:
            if isinstance(source, str | Path):
                file: BinaryIO = opened.enter_context(Path(source).open("rb"))
            else:
                file = source
            decoder = decode(file, limits, table)
            self._opened = opened.pop_all()
        self.table, self.duration = decoder.table, decoder.duration
        self.width, self.height = decoder.width, decoder.height
        self._frames = FrameBuffer(
            decoder,
            count=len(decoder.table),
            frame_bytes=decoder.width * decoder.height * 3,
            read_ahead=read_ahead,
            max_bytes=max_bytes,
        )

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

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Picture:
        """The frame, uint8 RGB [height, width, 3].

        Raises:
            IndexError: there is no such frame; negative numbers do not count from the end.
            VideoError: the frame cannot be decoded, the picture size changes, or it is closed.
        """
        return self._frames[index]

    def __iter__(self) -> Iterator[Picture]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        """Free the decoder, the frames and the thread. May be called again."""
        self._frames.close()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
