"""Open videos: what happens to one whose storage fails for a moment."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from backend.media.errors import MediaError, Reason
from backend.media.stream import MediaStream
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import PixelResolver
from backend.pixels.recipes import Frame, Video
from tests.pixels.clips import steady, write_clip
from tests.pixels.in_process import InProcessDecoder
from tests.waiting import PATIENCE


class Storage:
    """Media for every task: one video, which cannot be read while ``fails``."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fails = False
        self.opened = 0

    def stream_at_hand(self, uri: str, *, task_id: int | None = None) -> None:
        return None

    def open(self, uri: str, *, task_id: int | None = None) -> MediaStream:
        self.opened += 1
        return MediaStream("key", len(self.content), self)

    def another(self) -> Storage:
        return self

    def read_at(self, position: int, length: int) -> bytes:
        if self.fails:
            raise MediaError("The storage does not answer.", reason=Reason.UNREACHABLE)
        return self.content[position : position + length]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    noise = np.random.default_rng(1)

    def noisy(picture: np.ndarray) -> np.ndarray:
        return noise.integers(0, 255, picture.shape, np.uint8)

    path: Path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_clip(path, times=steady(100, 25), size=(384, 216), transform=noisy)
    return Storage(path.read_bytes())


def test_a_video_whose_storage_failed_is_opened_anew(storage: Storage) -> None:
    pixels = PixelResolver(storage, Metrics(), InProcessDecoder())  # type: ignore[arg-type]
    video = Video("/data/upload/1/a.mp4", 2)

    def frame(index: int) -> np.ndarray:
        return pixels.find(Frame(video, "key", index), time.monotonic() + PATIENCE).load()

    before = frame(90).copy()
    frame(0)
    assert storage.opened == 1
    storage.fails = True
    with pytest.raises(MediaError, match="does not answer"):
        frame(60)
    storage.fails = False
    assert frame(60).shape == (216, 384, 3)
    np.testing.assert_array_equal(frame(90), before)
    assert storage.opened == 2
    pixels.close()
