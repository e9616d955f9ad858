"""In the decoding process: one video, opened once and then read frame by frame."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from backend.pixels.decoder import Decoder
from backend.pixels.frame_table import pack_table, unpack_table
from backend.pixels.sandbox.worker_session import Serve, Session
from backend.pixels.video_limits import VideoError, VideoLimits

# The table and the demuxer's index of a file with a million frames, and per pixel the frames that
# decoding threads and references hold (up to 6 bytes each).
_MEMORY_BYTES = 1 << 30
_MEMORY_BYTES_PER_PIXEL = 100

# PyAV imports these when it first meets a file with subtitles, or an attachment.
_IMPORTED_LATE = ("av.subtitles.codeccontext", "av.subtitles.stream", "av.subtitles.subtitle")


def serve_videos() -> Serve:
    """Import what PyAV would import when first needed; returns what answers the requests about
    one video."""
    for module in _IMPORTED_LATE:
        importlib.import_module(module)
    return _Video().serve


class _Video:
    def __init__(self) -> None:
        self._decoder: Decoder | None = None

    def serve(self, session: Session, request: Mapping[str, Any]) -> None:
        try:
            if self._decoder is None:
                self._open(session, request)
            else:
                self._read(session, self._decoder, request["first"], request["last"])
        except VideoError as error:
            session.send({"error": "video", "sentence": str(error)})

    def _open(self, session: Session, request: Mapping[str, Any]) -> None:
        limits = VideoLimits(**request["limits"])
        session.memory.limit(_MEMORY_BYTES + limits.max_pixels * _MEMORY_BYTES_PER_PIXEL)
        table = request["table"] and unpack_table(request["table"], session.payload)
        decoder = self._decoder = Decoder(session.open_file(request), limits, table)
        pixels = decoder.width * decoder.height
        session.memory.limit(_MEMORY_BYTES + pixels * _MEMORY_BYTES_PER_PIXEL)
        header, payload = pack_table(decoder.table)
        size = {"width": decoder.width, "height": decoder.height, "duration": decoder.duration}
        session.send({**size, "table": header}, b"" if table else payload)

    def _read(self, session: Session, decoder: Decoder, first: int, last: int) -> None:
        for index, picture in decoder.read(first, last):
            session.send({"frame": index}, picture.data)
