"""A whole service over a fake model, with pictures on disk instead of a network."""

from __future__ import annotations

import hashlib
import threading
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.engine.building import ModelChoice
from backend.engine.local import LocalEngine
from backend.finetune.finetune_jobs import FinetuneJobs
from backend.finetune.finetuning import Finetuning
from backend.finetune.registry import ModelRegistry
from backend.labelstudio.label_config import parse_label_config
from backend.media.cache import MediaFile
from backend.media.errors import MediaError, Reason
from backend.media.stream import MediaStream
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import PixelResolver
from backend.predict.click import Clicks
from backend.predict.dispatch import Dispatcher
from backend.predict.events.protocol import VideoProtocol
from backend.predict.events.sessions import InteractiveJobs
from backend.predict.everything_command import EverythingCommand, EverythingFinder
from backend.predict.find import Finder
from backend.predict.find_command import FindCommand
from backend.predict.recent import RecentPrompts
from backend.predict.retrieve import Retrieval
from backend.predict.segment import Segmenter
from backend.runs.runs import open_runs
from backend.settings import Settings
from backend.tracking.store import TrackStore
from backend.tracking.tracking import Tracking
from backend.web.app import create_app
from backend.web.door import ARRIVED
from backend.wiring import Wiring
from tests.backend.fakes import FakePredictor, FakeVideoTracker, Gate
from tests.pixels.in_process import InProcessDecoder
from tests.waiting import LONGER, PATIENCE

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true">
    <Label value="Cat"/><Label value="Dog"/><Label value="Only a prompt"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">
    <Label value="Cat"/><Label value="Dog"/>
  </RectangleLabels>
  <TextArea name="status" toName="image" editable="false" maxSubmissions="0"/>
</View>
"""

BUDGETS = (
    "click_budget_seconds",
    "open_budget_seconds",
    "track_budget_seconds",
    "retrieve_budget_seconds",
)


class Shelf:
    """Answers every address with a picture; counts, can be slow, knows a missing one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        self.size = (200, 300)

    def open(self, uri, *, task_id=None):
        return MediaStream.of_file(self.fetch(uri, task_id=task_id))

    def at_hand(self, uri, *, task_id=None):
        return None

    stream_at_hand = at_hand

    def drop_damaged(self, file):
        return False

    def fetch(self, uri, *, task_id=None):
        self.fetched.append(uri)
        assert self.hold.wait(LONGER)
        if "missing" in uri:
            raise MediaError("the picture is not there", reason=Reason.NOT_FOUND)
        key = hashlib.sha256(uri.encode()).hexdigest()
        path = self.folder / f"{key}.png"
        if not path.exists():
            pixels = np.random.default_rng(len(uri)).integers(0, 255, (*self.size, 3), np.uint8)
            part = self.folder / f"{key}-{threading.get_ident()}.png"
            cv2.imwrite(str(part), pixels)
            part.replace(path)  # whole, for others who ask for it now
        return MediaFile(path, key, path.stat().st_size)


class Bench:
    """The service with its parts within reach of a test, and time for everything: budgets that a
    test is about are its own."""

    def __init__(self, folder: Path, **settings) -> None:
        self.settings = Settings(**{**dict.fromkeys(BUDGETS, PATIENCE), **settings})
        self.metrics = Metrics()
        self.predictor = FakePredictor()
        self.shelf = Shelf(folder)
        self.now = 0.0
        self.steps: list[int] = []  # frames tracked
        self.track_hold = Gate()
        self.published: list[dict] = []
        self.deleted: list[int] = []
        self.pixels = PixelResolver(self.shelf, self.metrics, InProcessDecoder())
        self.engine = LocalEngine(
            ModelChoice("demo"),
            self.pixels,
            cache_bytes=10_000_000,
            metrics=self.metrics,
            build=lambda choice: self.predictor,
            build_tracker=lambda predictor, frames: FakeVideoTracker(
                frames, self.steps, self.track_hold
            ),
        )
        segmenter = Segmenter(self.engine, self.metrics)
        self.memory = RecentPrompts(clock=lambda: self.now)
        self.store = TrackStore(folder / "tracks.sqlite3", patient=True)
        self.parse = lru_cache(maxsize=64)(parse_label_config)
        self.tracking = Tracking(
            self.store,
            self.engine,
            self.pixels,
            self,
            budget_seconds=self.settings.track_budget_seconds,
            on_prompt=self.settings.track_on_prompt,
            kinds=[InteractiveJobs(self.pixels.videos)],
            parse=self.parse,
        )
        self.finder = Finder(
            Wiring(self.settings).detector(),
            self.pixels,
            self.metrics,
            labels=dict(self.settings.detector_labels),
            score=self.settings.detector_score,
            fetch_url=self.settings.detector_fetch_url,
        )
        clicks = Clicks(
            segmenter,
            self.engine,
            self.memory,
            self.tracking,
            FindCommand(
                self.finder,
                segmenter,
                self.tracking.videos,
                self.pixels.videos,
                budget_seconds=self.settings.click_budget_seconds,
            ),
            EverythingCommand(
                EverythingFinder(segmenter),
                self.memory,
                budget_seconds=self.settings.track_budget_seconds,
            ),
            budget_seconds=self.settings.click_budget_seconds,
        )
        retrieval = Retrieval(
            segmenter,
            self.tracking,
            model_version=lambda: "demo",
            open_seconds=self.settings.open_budget_seconds,
            retrieve_seconds=self.settings.retrieve_budget_seconds,
        )
        self.protocol = VideoProtocol(
            self.engine,
            segmenter,
            self.pixels.videos,
            self.tracking,
            budget_seconds=self.settings.click_budget_seconds,
            clock=lambda: self.now,
        )
        self.service = Dispatcher(
            self.engine,
            clicks,
            retrieval,
            self.tracking,
            self.metrics,
            finder=self.finder,
            parse=self.parse,
            protocol=self.protocol,
        )
        self.finetuning = Finetuning(
            FinetuneJobs(folder / "finetune", check=lambda project: None),
            ModelRegistry(folder / "models", ModelChoice("demo")),
            self.engine,
            self.settings.finetune_projects,
            pinned=True,
        )
        wiring = Wiring(self.settings)
        wiring.metrics = self.metrics
        self.runs = open_runs(wiring, self.service)
        app = create_app(wiring, self.service, self.finetuning, self.runs)
        self.client = app.test_client()

    def close(self):
        """Let go of what a test held up, and stop."""
        self.predictor.hold.set()
        self.shelf.hold.set()
        self.track_hold.set()
        self.finetuning.close()
        self.service.close()
        self.pixels.close()

    def create_prediction(self, task, result, *, model_version, score):
        """Label Studio's API, as the tracking service uses it."""
        self.published.append({"task": task, "result": list(result), "score": score})
        return {"id": len(self.published)}

    def delete_prediction(self, prediction):
        """Likewise."""
        self.deleted.append(prediction)

    def predict(self, results, *, task=None, config=CONFIG, project="1.100", arrived=None):
        """POST /predict as the editor does; ``results`` None for a request without context.
        ``arrived``: when it was here whole, if not just now."""
        task = {"id": 7, "data": {"image": "/data/upload/1/a.png"}} if task is None else task
        context = None if results is None else {"result": results}
        body = {
            "tasks": [task],
            "project": project,
            "label_config": config,
            "params": {"login": None, "password": None, "context": context},
        }
        reply = self.client.post("/predict", json=body, environ_overrides={ARRIVED: arrived})
        assert reply.status_code == 200, reply.text
        return reply.json["results"][0]


@pytest.fixture
def make_bench(tmp_path):
    made = []

    def make(**settings):
        bench = Bench(tmp_path, **settings)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench):
    return make_bench()


def click(x, y, label="Cat", *, positive=True, identifier=None, page=None):
    item = {
        "original_width": 300,
        "original_height": 200,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.2, "keypointlabels": [label], "labels": [label]},
        "is_positive": positive,
        "id": identifier or f"kp-{x}-{y}",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
    return item if page is None else {**item, "item_index": page}


def box(x, y, width, height, label="Cat", *, identifier="box-1", rotation=0):
    return {
        "original_width": 300,
        "original_height": 200,
        "image_rotation": 0,
        "value": {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "rotation": rotation,
            "rectanglelabels": [label],
        },
        "id": identifier,
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }
