"""Small objects of large pictures: what a closer look is good for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from backend.engine.building import ModelChoice
from backend.engine.local import LocalEngine
from backend.engine.scheduler import Priority
from backend.labelstudio.geometry import Box, mask_iou
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from backend.predict.segment import Segmenter
from tests.backend.fakes import AsGiven
from tests.waiting import PATIENCE

XML = '<View><Image name="image" value="$image"/></View>'
TASK = ProjectTask("1.100", {"id": 7}, XML, parse_label_config(XML))


@pytest.fixture(scope="module")
def engine():
    engine = LocalEngine(
        ModelChoice("demo", device="cpu"), AsGiven(), cache_bytes=10**8, metrics=Metrics()
    )
    engine.wait_ready(PATIENCE)
    yield engine
    engine.close()


def scan(side: int = 4096, radius: int = 20, centre: tuple[int, int] = (3000, 1000)):
    """A smooth background with a bright disc of 40 pixels, and the disc's mask."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    disc = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2
    picture = np.stack([60 + 20 * rows / side, 80 + 0 * rows, 90 - 20 * columns / side], axis=2)
    picture[disc] = (230, 200, 60)
    return picture.astype(np.uint8), disc


@pytest.mark.parametrize("by", ["click", "box"])
def test_a_tiny_object_gets_an_outline_only_with_the_window(engine, by, monkeypatch):
    picture, disc = scan()
    source = ImageSource(f"scan-{by}", lambda: picture)
    monkeypatch.setattr("backend.predict.segment.Picture.of", lambda task, tag, page: source)
    percent = 100 / len(picture)
    middle = PointPrompt(3000 * percent, 1000 * percent, True)
    box = Box(2979 * percent, 979 * percent, 42 * percent, 42 * percent)
    prompt = ObjectPrompt(
        image="image",
        points=(middle,) if by == "click" else (),
        box=box if by == "box" else None,
    )

    def iou(zoom: bool) -> float:
        segmenter = Segmenter(engine, Metrics(), zoom=zoom)
        mask = segmenter.answer_click(TASK, prompt, time.monotonic() + 60).mask.unpack()
        assert mask.shape == disc.shape
        return (mask & disc).sum() / (mask | disc).sum()

    plain, closer = iou(zoom=False), iou(zoom=True)
    print(f"{by}: IoU {plain:.2f} on the whole picture, {closer:.2f} in the window")
    assert closer > plain + 0.4


def test_what_is_retrieved_is_looked_at_as_closely_as_clicks_are(engine, monkeypatch):
    picture, disc = scan()
    decoded = []
    source = ImageSource("retrieved", lambda: decoded.append(1) or picture)
    monkeypatch.setattr("backend.predict.segment.Picture.of", lambda task, tag, page: source)
    percent = 100 / len(picture)
    point = PointPrompt(3000 * percent, 1000 * percent, True)
    boxes = [Box(2979 * percent, 979 * percent, 42 * percent, 42 * percent), Box(20, 20, 60, 60)]
    prompts = [
        *(ObjectPrompt(image="image", box=each) for each in boxes),
        ObjectPrompt(image="image", points=(point,)),
    ]
    segmenter, end = Segmenter(engine, Metrics()), time.monotonic() + PATIENCE
    retrieved = segmenter.answer(TASK, prompts, Priority.RETRIEVE, end)
    assert len(decoded) == 2  # for the whole picture, and once for all windows
    assert retrieved == [segmenter.answer_click(TASK, prompt, end) for prompt in prompts]
    assert mask_iou(retrieved[0].mask.unpack(), disc) > 0.8
