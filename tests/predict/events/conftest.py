"""The service of ``tests/backend`` with a clip behind every address, and an editor that speaks the
protocol of Label Studio's newer editors."""

from __future__ import annotations

import base64
import time

import cv2
import numpy as np
import pytest

from backend.media.cache import MediaFile
from backend.pixels.decoder import Decoder
from tests.backend.conftest import make_bench
from tests.pixels.clips import HEIGHT, WIDTH, steady, write_clip
from tests.pixels.in_process import video_frames
from tests.waiting import PATIENCE

__all__ = ["make_bench"]

FRAMES = 30
RATE = 30
CONFIG = """<View>
  <Video name="video" value="$video" framerate="30"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Ball"/><Label value="Car"/></Labels>
</View>"""


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=steady(FRAMES, RATE))


@pytest.fixture
def decoding_process():
    """For tests that decode as the service does."""


@pytest.fixture
def decode_here(monkeypatch):
    """Decode without a process of its own, which takes half a second to start."""
    monkeypatch.setattr("backend.pixels.open_videos.open_video", video_frames)
    monkeypatch.setattr("backend.pixels.mended_video.RemoteDecoder", Decoder)


@pytest.fixture
def start(make_bench, clip, request, monkeypatch):
    """A service whose model is loaded; called again, one that starts anew on the same state."""
    monkeypatch.setattr("backend.predict.events.sessions.WAIT_SECONDS", PATIENCE)
    if "decoding_process" not in request.fixturenames:
        request.getfixturevalue("decode_here")

    def begin(**settings):
        bench = make_bench(**settings)
        bench.shelf.fetch = lambda uri, *, task_id=None: MediaFile(
            clip, "clip", clip.stat().st_size
        )
        bench.engine.wait_ready(PATIENCE)
        return bench

    return begin


@pytest.fixture
def bench(start):
    return start()


@pytest.fixture
def editor(bench):
    return Editor(bench)


class Editor:
    """Sends events as the public example documents them."""

    def __init__(self, bench, *, task=9, project="1.100", config=CONFIG, data=None):
        self.bench = bench
        self.project = project
        self.config = config
        self.task = {"id": task, "data": data or {"video": "/data/upload/1/a.mp4"}}

    def post(self, context, *, tasks=None):
        """The whole reply to a context."""
        body = {
            "tasks": [self.task] if tasks is None else tasks,
            "project": self.project,
            "label_config": self.config,
            "params": {"login": None, "password": None, "context": context},
        }
        reply = self.bench.client.post("/predict", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json

    def send(self, event, **context):
        """The prediction that answers an event."""
        [prediction] = self.post({"event": event, **context})["results"]
        return prediction

    def value(self, event, **context):
        """The value of the one item that answers an event."""
        [item] = self.send(event, **context)["result"]
        return item["value"]

    def track(self, *prompts, **context):
        """Start a track; returns its session."""
        context.setdefault("time_ms", 0)
        return self.value("track", result=list(prompts), **context)["session_id"]

    def read_all(self, session):
        """Everything of a track, read as an editor without cursors does; ends when it is done."""
        frames, end = [], time.monotonic() + PATIENCE
        while True:
            value = self.value("track_progress", session_id=session)
            frames += value["frames"]
            if value["done"]:
                return frames, value
            assert time.monotonic() < end, "the track does not end"


def point(x, y, *, positive=True, **more):
    value = {"x": x, "y": y, "positive": positive, **more}
    return {"type": "keypointlabels", "value": value}


def box(x, y, width, height, **more):
    return {
        "type": "rectanglelabels",
        "value": {"x": x, "y": y, "width": width, "height": height, **more},
    }


def mask_of(value):
    """The mask in a reply, bool [H, W]."""
    head, _, data = value["imageDataURL"].partition(",")
    assert head == "data:image/png;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (value["height"], value["width"]) == (HEIGHT, WIDTH)
    assert set(np.unique(picture)) <= {0, 255}
    return picture > 0


def left_of(value):
    """The leftmost column of a mask, in pixels."""
    return int(np.flatnonzero(mask_of(value).any(axis=0))[0])
