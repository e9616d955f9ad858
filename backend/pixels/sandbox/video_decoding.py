"""Videos decoded in processes of their own, one for each open video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from backend.pixels.buffer import Picture
from backend.pixels.frame_table import FrameTable, pack_table, unpack_table
from backend.pixels.sandbox.process import WORKER, Cause, DecoderGone, DecodingProcess, plain
from backend.pixels.video_limits import DEFAULT_LIMITS, VideoError, VideoLimits
from backend.pixels.videos import VideoFrames

_OPEN_SECONDS = 30.0
_BYTES_PER_SECOND = 20_000_000  # a table of frames may need the whole file to be read
_FRAME_SECONDS = 60.0  # frames without a key frame among them must all be decoded for one
_MAX_TABLE_BYTES = 1 << 29


def open_video(
    file: BinaryIO,
    *,
    limits: VideoLimits = DEFAULT_LIMITS,
    table: FrameTable | None = None,
    read_ahead: int = 8,
    max_bytes: int = 256 << 20,
) -> VideoFrames:
    """The frames of a video, decoded in a process of its own for as long as they are open.

    Args:
        file: seekable; it is not closed.
        limits: what is refused.
        table: of the same file, when it was open before.
        read_ahead, max_bytes: see ``VideoFrames``.

    Raises:
        VideoError: the file is no supported video, is outside the limits, or its decoder hung or
            crashed.
        Exception: what reading ``file`` raises.
    """
    decoder = RemoteDecoder(file, limits, table)
    return VideoFrames(decoder, read_ahead=read_ahead, max_bytes=max_bytes)


class RemoteDecoder:
    """A ``Decoder`` in another process; see there. Not thread-safe.

    Args:
        file: binary, seekable; read by the calling thread, whenever the decoder needs bytes.
        open_seconds, frame_seconds: what the decoder may take to open the file, and for a frame.
        module: what the process runs; a test may run one that misbehaves.
    """

    def __init__(
        self,
        file: BinaryIO,
        limits: VideoLimits,
        table: FrameTable | None,
        *,
        open_seconds: float = _OPEN_SECONDS,
        frame_seconds: float = _FRAME_SECONDS,
        module: str = WORKER,
    ) -> None:
        self._file, self._limits, self._module = file, limits, module
        self._open_seconds, self._frame_seconds = open_seconds, frame_seconds
        self._following = 0  # the frame after the last one that was read
        self._asked: int | None = None  # a frame that was asked for in advance
        self._closed = self._suspended = False
        self._start(table)

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        """See ``Decoder.read``."""
        if self._closed:
            raise VideoError("The decoder of the video is gone.")
        if self._suspended:
            self._start(self.table)
        try:
            self._ask_for(first, last)
            for index in range(first, last + 1):
                yield index, self._picture(index)
        except DecoderGone as gone:
            self.close()
            raise VideoError(_explain(gone.cause, f"Frame {first + 1} of the video")) from gone

    def _ask_for(self, first: int, last: int) -> None:
        """Ask for frames; and for the one after them where frames are read in a row, so that it
        is decoded while these are on their way and used."""
        in_a_row, self._following = first == self._following, last + 1
        if self._asked is not None and self._asked != first:
            if self._process.answer().get("frame") == self._asked:  # for nothing
                self._process.take(self.width * self.height * 3)
            self._asked = None
        start = first if self._asked is None else first + 1
        self._asked = None
        if start <= last:
            self._ask(start, last)
        if in_a_row and last + 1 < len(self.table):
            self._asked = last + 1
            self._ask(last + 1, last + 1)

    def _ask(self, first: int, last: int) -> None:
        self._process.ask({"first": first, "last": last}, seconds=self._frame_seconds)

    def _picture(self, index: int) -> Picture:
        self._process.allow(self._frame_seconds)
        answer = _checked(self._process.answer())
        if answer.get("frame") != index:
            raise self._process.bad_answer()
        picture = np.empty((self.height, self.width, 3), np.uint8)
        self._process.take_into(memoryview(picture.data).cast("B"))
        picture.flags.writeable = False
        return picture

    def suspend(self) -> None:
        """End the process; the next frame that is asked for starts another."""
        self._suspended, self._asked = True, None
        self._process.close()

    def close(self) -> None:
        """End the process; the file object stays open."""
        self._closed = True
        self._process.close()

    def _start(self, table: FrameTable | None) -> None:
        self._process = DecodingProcess("videos", module=self._module)
        self._suspended = False
        try:
            self._open(self._file, table, self._open_seconds)
        except BaseException:
            self.close()
            raise

    def _open(self, file: BinaryIO, table: FrameTable | None, seconds: float) -> None:
        process = self._process
        header, payload = pack_table(table) if table else (None, b"")
        request = {"limits": asdict(self._limits), "table": header}
        seconds += file.seek(0, os.SEEK_END) / _BYTES_PER_SECOND
        try:
            process.open(file, request, payload, seconds=seconds)
            answer = _checked(process.answer())
            try:
                self.width, self.height = (_positive(answer[name]) for name in ("width", "height"))
                self.duration = float(answer["duration"])
                if table is None:
                    payload = bytes(process.take(_MAX_TABLE_BYTES))
                    table = unpack_table(answer["table"], payload)
            except (KeyError, TypeError, ValueError, ArithmeticError):
                raise process.bad_answer() from None
            if self.width * self.height > self._limits.max_pixels:
                raise process.bad_answer()
            self.table = table
        except DecoderGone as gone:
            raise VideoError(_explain(gone.cause, "The video")) from gone


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("not a whole number above 0")
    return value


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that is no error. Raises the VideoError it describes."""
    if answer.get("error") == "video":
        raise VideoError(plain(answer.get("sentence")))
    return answer


def _explain(cause: Cause, what: str) -> str:
    if cause is Cause.DEFECT:
        return f"{what} could not be decoded; the backend's log says why."
    happened = {
        Cause.CRASHED: "made the decoder crash",
        Cause.HUNG: "took too long to decode, so the decoder was stopped",
        Cause.MEMORY: "took more memory to decode than its size allows for",
    }[cause]
    return (
        f"{what} {happened}. Write the file anew: "
        "ffmpeg -i input -c:v libx264 -pix_fmt yuv420p -g 60 output.mp4"
    )
