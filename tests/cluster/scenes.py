"""What both engines are asked, and must answer alike: every scenario gives all that it was told.

A feature of the engine joins the contract with one function here.
"""

from __future__ import annotations

import base64
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.engine.engine import Answer, Engine, SeenMask, TrackedObject, TrackedPage
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.labelstudio.geometry import Box
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import Polygon
from backend.media.errors import MediaError
from backend.pixels.recipes import Pages, Picture, Video
from tests.pixels.clips import steady, write_clip
from tests.waiting import PATIENCE

Scenario = Callable[[Engine], Any]
SCENARIOS: list[Scenario] = []
FRAMES = 6


def scenario(function: Scenario) -> Scenario:
    """Add a function to the contract."""
    SCENARIOS.append(function)
    return function


def drawn(shift: int = 0, side: int = 240) -> np.ndarray:
    """A disc and a square over noise, which move to the right with ``shift``: uint8 BGR."""
    noise = np.random.default_rng(7).integers(0, 90, (side // 8, side // 6, 3), np.uint8)
    image = cv2.resize(noise, (side * 4 // 3, side), interpolation=cv2.INTER_NEAREST)
    unit = side / 240
    centre = int((90 + 5 * shift) * unit), int(110 * unit)
    cv2.circle(image, centre, int(40 * unit), (60, 190, 230), -1)
    corner = np.array([200 + 3 * shift, 40]) * unit
    cv2.rectangle(image, corner.astype(int), (corner + 50 * unit).astype(int), (220, 80, 60), -1)
    return image


@cache
def picture(shift: int = 0, side: int = 240) -> Picture:
    """See ``drawn``."""
    data = base64.b64encode(cv2.imencode(".png", drawn(shift, side))[1].tobytes()).decode()
    return Picture(f"data:image/png;base64,{data}", None)


@cache
def video() -> Video:
    """A file whose frames are ``drawn``."""
    with tempfile.TemporaryDirectory() as folder:
        numbered = itertools.chain([0], itertools.count())  # the first is a sample
        path = write_clip(
            Path(folder) / "a.mp4",
            times=steady(FRAMES, 25),
            transform=lambda _: drawn(next(numbered))[..., ::-1],
        )
        data = base64.b64encode(path.read_bytes()).decode()
    return Video(f"data:video/mp4;base64,{data}", None)


def pages(count: int = FRAMES) -> Pages:
    return Pages(tuple(picture(number) for number in range(count)))


def click(*points: tuple[float, float, bool]) -> ObjectPrompt:
    """In percent of the picture."""
    return ObjectPrompt("image", points=tuple(PointPrompt(*point) for point in points))


DISC = click((28, 46, True))


def on_disc() -> PixelPrompt:
    return PixelPrompt(points=np.array([[90.0, 110.0]]), positive=np.array([True]))


def on_square() -> PixelPrompt:
    return PixelPrompt(box=np.array([195.0, 35.0, 255.0, 95.0], np.float32))


def tracked(frames: Iterator[tuple[int, list[TrackedObject]]]) -> list[Any]:
    return list(frames)


@scenario
def clicks_with_refinement(engine: Engine) -> Any:
    second = click((28, 46, True), (40, 60, False))
    third = click((28, 46, True), (40, 60, False), (33, 40, True))
    return [
        engine.answer(picture(), [prompt], Priority.CLICK, PATIENCE, refine=True)
        for prompt in (DISC, second, third)
    ]


@scenario
def boxes_in_a_batch(engine: Engine) -> Any:
    boxes = [Box(14, 28, 30, 36), Box(60, 14, 20, 26), Box(5, 5, 90, 90), Box(60, 14, 20, 26, 30)]
    prompts = [ObjectPrompt("image", box=box) for box in boxes]
    return engine.answer(picture(1), prompts, Priority.RETRIEVE, PATIENCE)


@scenario
def a_window_on_a_small_object(engine: Engine) -> Any:
    small = ObjectPrompt("image", box=Box(64, 18, 4, 5))
    return engine.answer(picture(0, 1200), [small], Priority.CLICK, PATIENCE, zoom=True)


@scenario
def shapes_and_one_that_cannot_be_read(engine: Engine) -> Any:
    polygon = Polygon(((20.0, 30.0), (40.0, 30.0), (30.0, 60.0)))
    prompts = [ObjectPrompt("image", shape=polygon), DISC]
    return engine.answer(picture(2), prompts, Priority.CLICK, PATIENCE)


@scenario
def encoded_ahead(engine: Engine) -> Any:
    engine.embed(picture(3), Priority.PREFETCH, PATIENCE)
    return engine.answer(picture(3), [DISC], Priority.CLICK, PATIENCE)


@scenario
def everything_on_a_picture(engine: Engine) -> Any:
    found = engine.everything(picture(4), Priority.CLICK, PATIENCE, most=6)
    assert found.answers
    return found.answers


@scenario
def the_room_of_embeddings_on_the_disk(engine: Engine) -> Any:
    return engine.disk_room(PATIENCE)


@scenario
def a_correction_of_a_track(engine: Engine) -> Any:
    answers: list[Answer] = []
    for shift in (0, 1):
        [answer] = engine.answer(picture(shift), [DISC], Priority.CLICK, PATIENCE)
        assert isinstance(answer, Answer)
        answers.append(answer)
    others = (SeenMask(picture(0), 0, answers[0].mask, True),)
    seen = TrackedPage(1, FRAMES, answers[1].mask, others)
    first = engine.correct(picture(1), click((45, 46, False)), seen, PATIENCE)
    again = TrackedPage(1, FRAMES, first.mask, others)
    return first, engine.correct(picture(1), click((20, 40, True)), again, PATIENCE)


@scenario
def a_track_to_the_end(engine: Engine) -> Any:
    with closing(engine.open_tracker(pages())) as tracker:
        begun = tracker.prompt(0, "a", on_disc()), tracker.prompt(0, "b", on_square())
        return begun, tracked(tracker.step(0, FRAMES, reverse=False))


@scenario
def a_track_to_the_beginning(engine: Engine) -> Any:
    with closing(engine.open_tracker(pages())) as tracker:
        begun = tracker.prompt(FRAMES - 1, "a", on_disc())
        return begun, tracked(tracker.step(FRAMES - 1, FRAMES, reverse=True))


@scenario
def a_track_from_masks_with_a_correction_and_a_late_object(engine: Engine) -> Any:
    mask = np.zeros((240, 320), bool)
    mask[75:150, 55:130] = True
    with closing(engine.open_tracker(pages())) as tracker:
        begun = [
            tracker.prompt(0, "a", PixelPrompt(mask=mask)),
            tracker.prompt(3, "a", on_disc()),
            tracker.prompt(2, "late", on_square()),
        ]
        return begun, tracked(tracker.step(0, FRAMES, reverse=False))


@scenario
def a_track_with_a_stride(engine: Engine) -> Any:
    with closing(engine.open_tracker(pages(), [0, 2, 4, 5])) as tracker:
        tracker.prompt(0, "a", on_disc())
        return tracked(tracker.step(0, FRAMES, reverse=False))


@scenario
def a_track_through_a_video_file(engine: Engine) -> Any:
    with closing(engine.open_tracker(video())) as tracker:
        begun = tracker.prompt(1, "a", on_disc())
        return begun, tracked(tracker.step(1, FRAMES - 1, reverse=False))


@scenario
def a_track_that_is_suspended(engine: Engine) -> Any:
    with closing(engine.open_tracker(pages())) as tracker:
        tracker.prompt(0, "a", on_disc())
        steps = tracker.step(0, FRAMES, reverse=False)
        first = [next(steps), next(steps)]
        tracker.suspend()
        return first, tracked(steps)


@dataclass(frozen=True)
class Refusal:
    kind: str
    text: str


def refused(call: Callable[[], Any]) -> Refusal:
    try:
        found = call()
    except Exception as error:  # noqa: BLE001 - compared
        return Refusal(type(error).__name__, str(error))
    raise AssertionError(found)


@scenario
def media_that_cannot_be_had(engine: Engine) -> Any:
    damaged = Picture("data:image/png;base64,bm90aGluZw==", None)
    elsewhere = Picture("https://127.0.0.1/a.png", 1)
    asked: list[Callable[[], Any]] = [
        lambda: engine.answer(damaged, [DISC], Priority.CLICK, PATIENCE),
        lambda: engine.answer(elsewhere, [DISC], Priority.CLICK, PATIENCE),
        lambda: engine.embed(Picture("ftp://example.org/a.png", 1), Priority.CLICK, PATIENCE),
        lambda: engine.open_tracker(Pages((damaged,))),
        lambda: engine.open_tracker(Pages(())),
    ]
    found = [refused(each) for each in asked]
    assert {each.kind for each in found} == {MediaError.__name__, "VideoError"}
    assert not any("Traceback" in each.text or "ray" in each.text.lower() for each in found)
    return found
