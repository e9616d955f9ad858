"""A frame that is interrupted, or given up half-way, leaves the masks as they are."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.support.clips import MovingDiscs
from sam2model import FrameMasks, ImagePredictor, VideoTracker, build_model
from sam2model.sam2 import SAM2
from sam2model.yield_point import yield_point, yielding_to

pytestmark = pytest.mark.instruction_set
CLIP = MovingDiscs(8, 96)
COUNT = 4
PARTS = r"(.*\.blocks|memory_attention\.layers|memory_encoder\.fuser\.layers)\.\d+|sam_mask_decoder"


class Given(Exception):
    """Raised at a yield point."""


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest) -> SAM2:
    return build_model("demo", device="cpu", dtype=request.param, image_size=64)


def tracker_of(model: SAM2, yield_to: Callable[[], None] | None = None) -> VideoTracker:
    tracker = VideoTracker(model, CLIP, yield_to=yield_to)
    tracker.prompt(0, "a", points=[[30, 30]])
    tracker.prompt(2, "b", box=[40, 20, 80, 60])
    return tracker


def tracked(tracker: VideoTracker, start: int = 0) -> list[FrameMasks]:
    return list(tracker.propagate(start=start, count=COUNT))


def assert_same(found: list[FrameMasks], expected: list[FrameMasks]) -> None:
    assert len(found) == len(expected) == COUNT
    for one, other in zip(found, expected, strict=True):
        for name in ("frame", "object_ids"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("masks", "logits", "object_scores", "ious"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.slow
def test_clicks_between_the_steps_change_no_mask(model: SAM2) -> None:
    """They go through the same network, with another picture and in another number format."""
    expected = tracked(tracker_of(model))
    predictor = ImagePredictor(model)
    other = build_model("demo", device="cpu", dtype="float32", image_size=64)
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    answer = predictor.predict(predictor.embed(picture), points=[[20, 20]])
    clicks: list[NDArray[np.bool_]] = []

    def click() -> None:
        if len(clicks) % 5 == 0:
            ImagePredictor(other).embed(picture)
        found = predictor.predict(predictor.embed(picture), points=[[20, 20]])
        clicks.append(found.masks)

    assert_same(tracked(tracker_of(model, click)), expected)
    assert len(clicks) > 20 * COUNT
    assert all((masks == answer.masks).all() for masks in clicks)


def test_a_frame_given_up_anywhere_can_be_tracked_again(model: SAM2) -> None:
    expected = tracked(tracker_of(model))
    left = [-1]

    def give_up() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Given

    tracker = tracker_of(model, give_up)
    points = 0
    while True:
        points += 7
        left[0] = points
        steps = tracker.propagate(start=0, count=COUNT)
        try:
            again = list(steps)
        except Given:
            continue
        break
    assert points > 20 * COUNT
    assert_same(again, expected)


def test_every_part_of_a_frame_has_its_yield_points(model: SAM2) -> None:
    """The trunk's blocks, the layers of memory attention and memory encoder, the decoder, and
    between the decoder and the memory encoder."""
    parts = {name: part for name, part in model.named_modules() if re.fullmatch(PARTS, name)}
    at, seen = ["before"], set()
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: at.__setitem__(0, name))
        for name, part in parts.items()
    ]
    after = lambda *_: at.__setitem__(0, "after the decoder")  # noqa: E731
    hooks.append(model.sam_mask_decoder.register_forward_hook(after))
    tracker = tracker_of(model, lambda: seen.add(at[0]))
    steps = tracker.propagate(start=0, count=2)
    next(steps)
    seen.clear()
    next(steps)
    for hook in hooks:
        hook.remove()
    assert len(parts) > 5
    assert seen >= {*parts, "after the decoder"}


def test_no_call_outside_and_none_within_a_call() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        yield_point()

    yield_point()
    with yielding_to(call):
        yield_point()
        with yielding_to(None):
            yield_point()
    yield_point()
    assert calls == [1]
