"""Every n-th frame tracked, the others interpolated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.engine.engine import Frames, TrackedObject, Tracker
from backend.engine.interpolation import StridedTracker, agree, between, interpolate, tracked_frames
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.job_state import JobState
from backend.tracking.review import LOW_IOU
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Direction, Goal, plan_spans
from backend.tracking.store import Job, TrackedMask, TrackStore

HEIGHT, WIDTH = 60, 200
JUMP = 7  # on this frame the object is suddenly elsewhere
FRAMES = 20


def disc(x: float, y: float = 30.0, radius: float = 10.0) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def truth(frame: int) -> np.ndarray:
    return disc(15 + 5 * frame + (60 if frame >= JUMP else 0))


@pytest.mark.parametrize(
    ("order", "prompted", "stride", "chosen"),
    [
        (range(10), {0}, 1, list(range(10))),
        (range(10), {0}, 3, [0, 3, 6, 9]),
        (range(9), {0}, 3, [0, 3, 6, 8]),
        (range(10), {0, 5}, 3, [0, 3, 4, 5, 8, 9]),
        (range(10), {0, 1}, 3, [0, 1, 4, 7, 9]),
        (range(9, -1, -1), {9}, 4, [9, 5, 1, 0]),
        (range(5, 12), {2}, 4, [5, 9, 11]),
        (range(4, 5), {4}, 3, [4]),
    ],
)
def test_frames_that_are_tracked(
    order: range, prompted: set[int], stride: int, chosen: list[int]
) -> None:
    assert tracked_frames(order, prompted, stride) == chosen


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_an_object_that_moves_and_grows_is_where_it_should_be(share: float) -> None:
    # It moves four times its size: the mean of the distances alone would be empty.
    found = interpolate(disc(30, radius=8), disc(130, radius=16), share)
    assert iou(found, disc(30 + 100 * share, radius=8 + 8 * share)) > 0.9


def test_a_shape_turns_into_another() -> None:
    square, plus = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    square[20:41, 50:71] = True
    plus[28:33, 50:71] = plus[20:41, 58:63] = True
    found = interpolate(square, plus, 0.5)
    assert plus.sum() < found.sum() < square.sum()
    assert found[plus].all() and not found[~square].any()


@pytest.mark.parametrize("mask", [disc(50), disc(0, 0), np.eye(HEIGHT, WIDTH, dtype=bool)])
def test_what_rests_stays(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(interpolate(mask, mask, 0.5), mask)
    assert agree(mask, mask) == 1.0


def test_beside_an_absent_object_the_nearer_frame_counts() -> None:
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    np.testing.assert_array_equal(interpolate(disc(50), nothing, 0.25), disc(50))
    assert not interpolate(disc(50), nothing, 0.75).any()
    assert not interpolate(nothing, nothing, 0.5).any()


def tracked(mask: np.ndarray, iou: float, presence: float, name: str = "a") -> TrackedObject:
    return TrackedObject(name, PackedMask.pack(mask), iou, presence)


def test_confidence_falls_where_the_mask_changed_much() -> None:
    bar = np.zeros((HEIGHT, WIDTH), dtype=bool)
    bar[20:41, 60:66] = bar[38:41, 60:81] = True

    def confidence(before: np.ndarray, after: np.ndarray) -> float:
        ends = [tracked(mask, 0.9, 4.0) for mask in (before, after)]
        [middle] = between(*ends, [0.5])
        return middle.iou

    assert confidence(disc(50), disc(90)) == pytest.approx(0.9, abs=0.05)
    assert confidence(disc(50), bar) < LOW_IOU
    assert confidence(disc(50), np.zeros_like(bar)) < LOW_IOU
    [found] = between(tracked(disc(50), 0.9, 4.0), tracked(disc(50), 0.7, -2.0), [0.25])
    assert found == tracked(disc(50), 0.7, 2.5)


class NumberedFrames:
    """Frames that carry their number; ``read`` are those that were asked for."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return FRAMES

    def __getitem__(self, index: int, /) -> np.ndarray:
        self.read.append(index)
        return np.full((HEIGHT, WIDTH, 3), index, np.uint8)

    def frame_size(self, index: int) -> tuple[int, int]:
        return WIDTH, HEIGHT

    def suspend(self) -> None:
        """There is nothing to free."""

    def close(self) -> None:
        """There is nothing to free."""


class SeeingTracker:
    """Finds every object where it is; a prompt's own mask on its frame, whatever it shows."""

    weights = ""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._prompts: dict[tuple[int, str], np.ndarray] = {}

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        assert prompt.mask is not None
        self._prompts[frame, object_id] = prompt.mask
        return tracked(prompt.mask, 1.0, 10.0, object_id)

    def step(
        self,
        start: int,
        count: int,
        *,
        reverse: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        names = sorted({name for _, name in self._prompts})
        for frame in range(start, start - count, -1) if reverse else range(start, start + count):
            seen = truth(int(self._frames[frame][0, 0, 0]))
            masks = [self._prompts.get((frame, name), seen) for name in names]
            yield (
                frame,
                [tracked(m, 0.9, 5.0, n) for n, m in zip(names, masks, strict=True)],
            )

    def suspend(self) -> None:
        """Forgets nothing."""

    def close(self) -> None:
        self._prompts.clear()


class SeeingEngine:
    """As much of an ``Engine`` as a job needs."""

    def wait_ready(self, timeout: float) -> None:
        """It is."""

    def open_tracker(self, frames: Frames, chosen: Sequence[int] | None = None) -> Tracker:
        return StridedTracker(SeeingTracker, frames, chosen or range(len(frames)))  # type: ignore[arg-type]


class Bench:
    """Jobs on one track, whose frames count what is read of them."""

    def __init__(self, folder: Path, stride: int = 1) -> None:
        self.store = TrackStore(folder / "tracks.sqlite3")
        self.frames = NumberedFrames()
        self.runner = JobRunner(
            self.store,
            SeeingEngine(),  # type: ignore[arg-type]
            self._open,
            hand_over=lambda job: None,
            stride=stride,
        )

    def track(
        self,
        marks: dict[int, np.ndarray],
        *,
        stride: int | None = None,
        direction: str = "forward",
        last: int = FRAMES - 1,
    ) -> Job:
        self.frames.read.clear()
        self._marks = marks
        request: dict[str, Any] = {"stride": stride, "direction": direction, "last": last}
        job = self.runner.submit("track", {**request, "marks": sorted(marks)})
        return self.runner.wait(job.id, 60.0)

    def found(self) -> dict[int, TrackedMask]:
        return {mask.frame: mask for mask in self.store.masks("track", "a")}

    def masks(self) -> dict[int, np.ndarray]:
        return {frame: found.mask.unpack() for frame, found in self.found().items()}

    def _open(self, request: Any) -> Work:
        prompts = {frame: PixelPrompt(mask=mask) for frame, mask in self._marks.items()}
        digests = {frame: f"digest-{frame}" for frame in prompts}
        direction = Direction(request["direction"])
        spans = plan_spans(prompts, first=0, last=request["last"], direction=direction)
        goals: Sequence[Goal] = [Goal("a", prompts, digests, spans)]
        return Work(self.frames, goals, request["stride"])  # type: ignore[arg-type]

    def close(self) -> None:
        self.runner.close()
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_every_frame_gets_its_mask_and_few_are_read(bench: Bench) -> None:
    job = bench.track({0: truth(0)}, stride=3, last=6)
    assert (job.state, job.done, job.total) == (JobState.DONE, 6, 6)
    assert sorted(set(bench.frames.read)) == [0, 3, 6]
    for frame, mask in bench.masks().items():
        assert iou(mask, truth(frame)) > 0.9
    assert sorted(bench.masks()) == [1, 2, 3, 4, 5, 6]


def test_a_mark_between_is_taken_as_it_is_and_colours_nothing_before_it(bench: Bench) -> None:
    corrected = disc(100, radius=20)
    bench.track({0: truth(0), 8: corrected}, stride=5)
    masks, found = bench.masks(), bench.found()
    assert bench.frames.read == [0, 5, 7, 8, 13, 18, 19]
    assert {found[f].anchor for f in range(1, 8)} == {"digest-0"}
    assert {found[f].anchor for f in range(9, FRAMES)} == {"digest-8"}
    np.testing.assert_array_equal(masks[7], truth(7))
    between_both = interpolate(corrected, truth(13), 0.2)
    np.testing.assert_array_equal(masks[9], between_both)


def test_back_to_the_beginning(bench: Bench) -> None:
    bench.track({19: truth(19)}, stride=4, direction="back")
    masks = bench.masks()
    assert bench.frames.read == [19, 15, 11, 7, 3, 0]
    assert sorted(masks) == list(range(19))
    assert all(iou(masks[f], truth(f)) > 0.9 for f in (*range(7, 19), *range(4)))


def test_all_frames_replace_interpolated_ones_and_not_the_other_way(bench: Bench) -> None:
    bench.track({0: truth(0)}, stride=4)
    assert iou(bench.masks()[6], truth(6)) < 0.5  # it jumps between 4 and 8
    bench.track({0: truth(0)}, stride=1)
    assert bench.frames.read == list(range(FRAMES))
    np.testing.assert_array_equal(bench.masks()[6], truth(6))
    bench.track({0: truth(0)}, stride=4)
    assert bench.frames.read == []


def test_the_setting_counts_where_a_command_says_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stride=6)
    bench.track({0: truth(0)})
    assert bench.frames.read == [0, 6, 12, 18, 19]
    bench.track({0: truth(0)}, stride=2)
    assert bench.frames.read == [*range(0, FRAMES, 2), 19]
    bench.close()
