"""Masks behind a cut: told, and left out where the model is not sure of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from backend.engine.engine import TrackedObject
from backend.engine.interpolation import between
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.queued_tracker import SURE_IOU, QueuedTracker
from benchmarks.support.clips import MovingDiscs
from sam2model import VideoTracker, build_model
from tests.backend.fakes import FakeFrameMasks
from training.demo_weights.textures import procedural_texture

SIDE = 96
MASK = np.zeros((SIDE, SIDE), bool)
MASK[20:40, 20:40] = True
MARK = PixelPrompt(mask=MASK)


class Cut:
    """A disc, and from frame 4 to 6 a picture of something else."""

    def __init__(self) -> None:
        self._disc = MovingDiscs(10, SIDE)
        self._other = procedural_texture(SIDE, np.random.default_rng(3)).astype(np.uint8)

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self._other if 4 <= index <= 6 else self._disc[index]


class Scripted:
    """A tracker with a predicted IoU for each frame, of a video that cuts at frame 4."""

    def __init__(self, ious: Sequence[float]) -> None:
        self._ious = ious

    def prompt(self, frame: int, object_id: str, **prompt: Any) -> FakeFrameMasks:
        return self._masks(frame)

    def propagate(self, start: int, count: int, reverse: bool) -> Iterator[FakeFrameMasks]:
        for frame in range(start, start + count):
            yield self._masks(frame)

    def remembered(self) -> Any:
        """Nothing is."""

    def go_back(self, to: Any) -> None:
        """There is nothing to undo."""

    def _masks(self, frame: int) -> FakeFrameMasks:
        look = np.eye(2, dtype=np.float32)[int(frame >= 4)]
        iou = np.full(1, self._ious[frame])
        return FakeFrameMasks(frame, ("a",), MASK[None], np.full(1, 3.0), iou, look)


def run(call: Any, stopped: Any = None) -> Any:
    done: Future[Any] = Future()
    done.set_result(call())
    return done


def tracked(ious: Sequence[float]) -> list[TrackedObject]:
    script: Any = Scripted(ious)
    frames: Any = np.zeros((len(ious), SIDE, SIDE, 3), np.uint8)
    tracker = QueuedTracker(lambda given: script, frames, run)
    tracker.prompt(0, "a", MARK)
    return [found for _, [found] in tracker.step(0, len(ious), reverse=False)]


def test_behind_a_cut_only_masks_that_the_model_is_sure_of_are_kept() -> None:
    ious = [*[0.2] * 4, SURE_IOU, SURE_IOU - 0.01, 0.95]
    found = tracked(ious)
    assert [each.elsewhere for each in found] == [False] * 4 + [True] * 3
    assert [each.mask.area for each in found] == [*[400] * 5, 0, 400]
    assert [each.iou for each in found] == ious


def test_a_cut_in_a_video_is_told_and_its_end_too() -> None:
    model = build_model("demo", device="cpu", image_size=64)
    tracker = QueuedTracker(lambda frames: VideoTracker(model, frames), Cut(), run)
    tracker.prompt(0, "a", MARK)
    found = []
    for frame, [each] in tracker.step(0, 10, reverse=False):
        found.append(each.elsewhere)
        if frame == 5:
            tracker.suspend()
    assert "".join("x" if each else "." for each in found) == "....xxx..."


def test_between_two_frames_of_different_scenes_nothing_is_trusted() -> None:
    *_, before, after, later = tracked([0.9] * 6)
    assert [each.elsewhere for each in between(before, after, [0.5])] == [True]
    assert [each.elsewhere for each in between(before, before, [0.5])] == [False]
    assert [each.elsewhere for each in between(after, later, [0.5])] == [True]
