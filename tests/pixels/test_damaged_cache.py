"""A picture or video whose bytes have changed in the cache is fetched anew."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.media.errors import MediaError
from backend.media.resolver import MediaResolver
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource, PixelResolver
from backend.pixels.recipes import Frame, Picture, Video
from backend.pixels.video_limits import VideoError
from benchmarks.support.recording_server import RecordingServer, Reply, recording_server
from tests.pixels.clips import number_of
from tests.pixels.in_process import InProcessDecoder
from tests.waiting import PATIENCE

Clip = Callable[[str], Path]


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


@pytest.fixture
def video(server: RecordingServer, clip: Clip) -> Video:
    reply = Reply(200, clip("25.mp4").read_bytes(), {"Content-Type": "video/mp4"})
    server.route("/a.mp4", reply)
    return Video(f"{server.url}/a.mp4", None)


def damage(folder: Path, start: int = 0) -> Path:
    """Overwrite the only stored file from a byte on, and leave its size."""
    [stored] = list((folder / "objects").glob("*/*"))
    with stored.open("r+b") as file:
        file.seek(start)
        file.write(b"x" * (stored.stat().st_size - start))
    return stored


def soon() -> float:
    return time.monotonic() + PATIENCE


def fetches(server: RecordingServer) -> int:
    return sum(seen.path == "/a.mp4" for seen in server.seen)


def test_a_video_whose_index_is_damaged_is_fetched_again(
    pixels: PixelResolver, server: RecordingServer, video: Video, tmp_path: Path, clip: Clip
) -> None:
    pixels.videos._media.stream(video.address, None, soon()).close()
    stored = damage(tmp_path)
    before = fetches(server)
    assert len(pixels.videos.index(video, soon()).table) == 75
    assert stored.read_bytes() == clip("25.mp4").read_bytes()
    assert fetches(server) == before + 1


def test_a_video_that_was_opened_before_is_fetched_again(
    pixels: PixelResolver, server: RecordingServer, video: Video, tmp_path: Path
) -> None:
    index = pixels.videos.index(video, soon())
    damage(tmp_path)
    frame = Frame(video, index.content_key, 30)
    assert number_of(pixels.find(frame, soon()).load()) == 30


def test_frames_that_are_damaged_meanwhile_are_fetched_again(
    pixels: PixelResolver, server: RecordingServer, video: Video, tmp_path: Path
) -> None:
    with pixels.frames(video) as frames:
        before = fetches(server)
        frames.suspend()  # as a job that gives its place to another does
        damage(tmp_path)
        assert [number_of(frames[index]) for index in (0, 40, 74)] == [0, 40, 74]
    assert fetches(server) == before + 1


def test_what_was_no_video_from_the_start_is_not_fetched_again(
    pixels: PixelResolver, server: RecordingServer
) -> None:
    server.route("/a.mp4", Reply(200, b"<html>no video</html>", {"Content-Type": "video/mp4"}))
    page = Video(f"{server.url}/a.mp4", None)
    pixels.videos._media.stream(page.address, None, soon()).close()
    before = fetches(server)
    with pytest.raises(VideoError):
        pixels.videos.index(page, soon())
    assert fetches(server) == before


def test_two_who_read_the_same_damaged_video_both_get_it(
    pixels: PixelResolver, server: RecordingServer, video: Video, tmp_path: Path
) -> None:
    with pixels.frames(video) as one, pixels.frames(video) as other:
        one.suspend()
        other.suspend()
        damage(tmp_path)
        assert number_of(one[50]) == number_of(other[50]) == 50
