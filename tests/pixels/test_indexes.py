"""Indexes of videos: read once, while nobody has to wait longer than he wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.media.cache import MediaFile
from backend.media.stream import MediaStream
from backend.pixels import open_videos as module
from backend.pixels.open_videos import Indexes
from backend.pixels.video_limits import VideoError
from backend.threads.caller import serving
from backend.threads.fair_queue import Busy
from tests.waiting import LONGER, PATIENCE, until


@pytest.fixture
def video(tmp_path: Path) -> Callable[[str], MediaStream]:
    def make(key: str) -> MediaStream:
        path = tmp_path / key
        if not path.exists():  # somebody may be reading it
            path.write_bytes(key.encode())
        return MediaStream.of_file(MediaFile(path, key, len(key)))

    return make


class Reader:
    """Stands for ``read_index``: counts, waits when told to, fails for "broken"."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.may = threading.Event()
        self.may.set()

    def __call__(self, file: Any) -> tuple[str, float]:
        content = file.read()
        self.read.append(content)
        assert self.may.wait(LONGER)
        if content == b"broken":
            raise VideoError("no video")
        return f"table of {content.decode()}", 3.0


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader()
    monkeypatch.setattr(module, "read_index", made)
    monkeypatch.setattr(module, "SHORTEST_WAIT_S", 0.1)
    return made


def test_once_for_each_content(reader: Reader, video: Callable[[str], MediaStream]) -> None:
    indexes = Indexes()
    for key in ("a", "b", "a", "a"):
        with video(key) as file:
            assert indexes.get(file, time.monotonic() + PATIENCE) == (f"table of {key}", 3.0)
            assert file.read() == key.encode()  # its position is the caller's
    assert sorted(reader.read) == [b"a", b"b"]


def test_reading_goes_on_when_nobody_waits(
    reader: Reader, video: Callable[[str], MediaStream]
) -> None:
    indexes = Indexes()
    reader.may.clear()
    for _ in range(3):
        with video("a") as file, pytest.raises(Busy):
            indexes.get(file, time.monotonic())
    reader.may.set()
    with video("a") as file:
        assert indexes.get(file, time.monotonic() + PATIENCE)[0] == "table of a"
    assert reader.read == [b"a"]


def test_failure_is_told_and_tried_again(
    reader: Reader, video: Callable[[str], MediaStream]
) -> None:
    indexes = Indexes()
    for _ in range(2):
        with video("broken") as file, pytest.raises(VideoError):
            indexes.get(file, time.monotonic() + PATIENCE)
    assert len(reader.read) == 2


def test_only_so_many_are_kept(
    reader: Reader, video: Callable[[str], MediaStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_INDEXES", 2)
    indexes = Indexes()
    for key in ("a", "b", "c", "a"):
        with video(key) as file:
            indexes.get(file, time.monotonic() + PATIENCE)
    assert reader.read == [b"a", b"b", b"c", b"a"]


def test_what_runs_and_what_waits_is_bounded(
    reader: Reader, video: Callable[[str], MediaStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many videos a project asks for, and however often: others get theirs."""
    monkeypatch.setattr(module, "SHORTEST_WAIT_S", 0.0)
    monkeypatch.setattr(module, "MAX_WAITING", 40)
    monkeypatch.setattr(module, "KEPT_INDEXES", 32)
    before = threading.active_count()
    indexes = Indexes()
    reader.may.clear()
    with serving(project="greedy"):
        for _ in range(3):
            for number in range(24):
                with video(str(number)) as file, pytest.raises(Busy):
                    indexes.get(file, 0.0)
    pool = indexes._pool
    until(lambda: len(reader.read) == module.THREADS // 2)
    assert pool._waits["greedy"] == 24 - module.THREADS // 2  # each once
    assert threading.active_count() - before <= module.THREADS
    with serving(project="another"), video("b") as file, pytest.raises(Busy):
        indexes.get(file, 0.0)
    until(lambda: b"b" in reader.read)
    with serving(project="greedy"):
        for number in range(24, 99):
            with video(str(number)) as file, pytest.raises(Busy):
                indexes.get(file, 0.0)
    assert pool._waits["greedy"] == 20
    assert len(indexes._read) == 8 + 20 + 1
    reader.may.set()
    with serving(project="greedy"):
        for number in range(28):
            with video(str(number)) as file:
                found = indexes.get(file, time.monotonic() + PATIENCE)
            assert found == (f"table of {number}", 3.0)
    assert len(reader.read) == len(set(reader.read)) == 29
    indexes.close()
