"""A small application for gunicorn that decodes what it is sent."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from typing import Any

from backend.media.errors import MediaError
from backend.pixels.sandbox.image_decoding import ImageDecoder

Start = Callable[[str, list[tuple[str, str]]], Any]


def application() -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    """What gunicorn calls."""
    decoder = ImageDecoder(
        max_pixels=1_000_000, seconds=600, module="tests.pixels.sandbox.faulty_worker"
    )

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            text = f"{decoder.load(io.BytesIO(body)).shape}"
        except MediaError as error:
            text = str(error)
        pids = [process.pid for process in [*decoder._idle, *decoder._busy]]
        start("200 OK", [("Content-Type", "text/plain"), ("X-Pids", f"{os.getpid()} {pids}")])
        return [text.encode()]

    return answer
