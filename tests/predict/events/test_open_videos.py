"""Open videos: what happens to one whose storage fails for a moment."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.media.errors import MediaError, Reason
from backend.media.stream import MediaStream
from backend.predict.events.open_videos import EditorVideos
from backend.tracking.video import TaskVideos
from tests.pixels.clips import steady, write_clip
from tests.waiting import PATIENCE

CONFIG = parse_label_config(
    '<View><Video name="video" value="$video" framerate="25"/>'
    '<VideoRectangle name="box" toName="video"/>'
    '<Labels name="labels" toName="video"><Label value="Ball"/></Labels></View>'
)


class Storage:
    """Media for every task: one video, which cannot be read while ``fails``."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fails = False
        self.opened = 0

    def video(self, task: Any, tag: Any, deadline: float) -> MediaStream:
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
    videos = EditorVideos(TaskVideos(storage))  # type: ignore[arg-type]
    body = {"id": 2, "data": {"video": "/data/upload/1/a.mp4"}}
    task = ProjectTask("1", body, "", CONFIG)

    def frame(index: int) -> np.ndarray:
        deadline = time.monotonic() + PATIENCE
        with videos.use(task, "video", deadline) as clip:
            return clip.source(index).load()

    before = frame(90).copy()
    frame(0)
    assert storage.opened == 1
    storage.fails = True
    with pytest.raises(MediaError, match="does not answer"):
        frame(60)
    storage.fails = False
    assert frame(60).shape == (216, 384, 3)
    np.testing.assert_array_equal(frame(90), before)
    assert (storage.opened, len(videos)) == (2, 1)
    videos.close()
