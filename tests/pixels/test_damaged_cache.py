"""A picture whose bytes have changed in the cache is fetched anew."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.media.errors import MediaError
from backend.media.resolver import MediaResolver
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource, PixelResolver
from backend.pixels.recipes import Picture
from benchmarks.support.recording_server import RecordingServer, Reply, recording_server
from tests.pixels.in_process import InProcessDecoder
from tests.waiting import PATIENCE


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 99, 199)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pixels(tmp_path: Path) -> Iterator[PixelResolver]:
    resolver = MediaResolver(
        cache_directory=tmp_path, cache_bytes=10**8, allowed_private_hosts=["127.0.0.1"]
    )
    with closing(resolver), closing(PixelResolver(resolver, Metrics(), InProcessDecoder())) as made:
        yield made


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server() as made:
        yield made


def find(pixels: PixelResolver, server: RecordingServer, served: bytes) -> ImageSource:
    server.route("/a.png", Reply(200, served, {"Content-Type": "image/png"}))
    return pixels.find(Picture(f"{server.url}/a.png", None), time.monotonic() + PATIENCE)


def test_what_is_not_what_was_fetched_is_fetched_again(
    pixels: PixelResolver, server: RecordingServer, tmp_path: Path
) -> None:
    found = find(pixels, server, png())
    [stored] = list((tmp_path / "objects").glob("*/*"))
    stored.write_bytes(b"x" * len(png()))
    assert np.array_equal(found.load()[0, 0], (9, 99, 199))
    assert stored.read_bytes() == png()
    assert len(server.seen) == 2


def test_what_was_no_picture_from_the_start_is_not(
    pixels: PixelResolver, server: RecordingServer
) -> None:
    found = find(pixels, server, b"<html>not a picture</html>")
    with pytest.raises(MediaError, match="web page"):
        found.load()
    assert len(server.seen) == 1
