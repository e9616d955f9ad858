"""Jobs take turns by project, suspended between two frames; their masks show nothing of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backend.tracking.runner as runner_module
from backend.engine.building import ModelChoice
from backend.engine.engine import EngineError
from backend.engine.interpolation import StridedTracker
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.suspended import SuspendedMemory
from backend.job_state import JobState
from backend.metrics import Metrics
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Goal, plan_goal
from backend.tracking.store import Job, TrackedMask, TrackStore
from benchmarks.support.clips import MovingDiscs
from tests.backend.fakes import AsGiven
from tests.waiting import PATIENCE, until

FRAMES = 12
LONG = 100_000  # frames; no test waits for their end


class Gate:
    """Where jobs wait before every frame while it is closed, as it is at first."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.waiting: set[int] = set()  # threads

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()

    def pass_through(self) -> None:
        if threading.current_thread().name != "inference":  # which all jobs need
            self.waiting.add(threading.get_ident())
            assert self._opened.wait(PATIENCE)
            self.waiting.discard(threading.get_ident())


class Clip(MovingDiscs):
    """Frames behind a gate; from ``broken_at`` on they cannot be read."""

    def __init__(self, num_frames: int, gate: Gate, broken_at: int = LONG) -> None:
        super().__init__(num_frames, 96)
        self._gate, self._broken_at = gate, broken_at

    def __getitem__(self, frame: int) -> np.ndarray:
        self._gate.pass_through()
        if frame >= self._broken_at:
            raise EngineError("broken")
        return super().__getitem__(frame)


class Bench:
    """Jobs of several projects on an engine with room for two at a time."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.engine = LocalEngine(
            ModelChoice("demo", device="cpu", image_size=64),
            AsGiven(),  # type: ignore[arg-type]
            cache_bytes=1_000_000,
            metrics=self.metrics,
            suspended=SuspendedMemory(folder / "suspended", memory_bytes=50_000),
        )
        self.store = TrackStore(folder / "tracks.sqlite3")
        self.gate = Gate()
        self.broken: Counter[str] = Counter()  # by project: the first frame that cannot be read
        self.suspended: Counter[int] = Counter()  # by tracker
        self.open: set[int] = set()  # trackers
        self.runner = self.new_runner()

    def new_runner(self) -> JobRunner:
        return JobRunner(self.store, self.engine, self._open, hand_over=lambda job: None, workers=1)

    def submit(
        self,
        project: str,
        frames: int = FRAMES,
        *,
        stride: int = 1,
        direction: str = "forward",
        name: str = "",
    ) -> Job:
        request = {
            "project": project,
            "stride": stride,
            "direction": direction,
            "first": 0,
            "last": frames - 1,
        }
        return self.runner.submit(name or f"{project} {stride} {direction}", request)

    def done(self, job: Job) -> Job:
        ended = self.runner.wait(job.id, PATIENCE)
        assert ended.state is JobState.DONE
        return ended

    def masks(self, job: Job) -> list[TrackedMask]:
        found = [each for name in "ab" for each in self.store.masks(job.track, name)]
        return sorted(found, key=lambda each: (each.object_id, each.frame))

    def held(self) -> float:
        value = self.metrics.registry.get_sample_value
        found = [value("sam2_suspended_bytes", {"where": each}) for each in ("memory", "disk")]
        return sum(each or 0.0 for each in found)

    def _open(self, request: Mapping[str, Any]) -> Work:
        count = request["last"] + 1
        middle = 0 if request["direction"] == "forward" else 5
        places = [(38, 29), (67, 38)]
        goals: Sequence[Goal] = [
            plan_goal(name, {middle + shift: at(*place)}, request)
            for shift, (name, place) in enumerate(zip("ab", places, strict=True))
        ]
        broken_at = self.broken.get(request["project"], LONG)
        frames: Any = Clip(count, self.gate, broken_at)
        return Work(frames, goals, request["stride"])

    def close(self) -> None:
        self.gate.open()
        self.runner.close()
        self.store.close()
        self.engine.close()


def at(x: int, y: int) -> PixelPrompt:
    return PixelPrompt(np.array([[x, y]], np.float32), np.array([True]))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    suspend, close = StridedTracker.suspend, StridedTracker.close
    opened = StridedTracker.__init__

    def noted(count: Callable[[StridedTracker], object], real: Callable[..., Any]) -> Any:
        def call(self: StridedTracker, *args: Any) -> None:
            count(self)
            real(self, *args)

        return call

    def count(tracker: StridedTracker) -> None:
        made.suspended[id(tracker)] += 1

    monkeypatch.setattr(StridedTracker, "suspend", noted(count, suspend))
    monkeypatch.setattr(
        StridedTracker, "__init__", noted(lambda tracker: made.open.add(id(tracker)), opened)
    )
    monkeypatch.setattr(
        StridedTracker, "close", noted(lambda tracker: made.open.discard(id(tracker)), close)
    )
    yield made
    made.close()
    assert made.held() == 0
    assert not made.open


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "SLICE_SECONDS", 0.0)


def test_a_few_pages_beside_long_tracks_of_all_others(bench: Bench) -> None:
    long = [bench.submit(f"long {number}", LONG) for number in range(3)]
    bench.gate.open()
    bench.done(bench.submit("three pages", 3))
    states = [bench.runner.wait(job.id, 0).state for job in long]
    assert JobState.RUNNING in states and JobState.DONE not in states
    for job in long:
        bench.runner.cancel(job.id)


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("kind", [(1, "forward"), (1, "both"), (3, "both")])
def test_the_masks_are_those_of_a_job_that_ran_in_one_piece(
    bench: Bench, kind: tuple[int, str]
) -> None:
    stride, direction = kind
    bench.gate.open()
    alone = bench.submit("alone", stride=stride, direction=direction)
    bench.done(alone)
    assert not bench.suspended  # nobody waited
    expected = bench.masks(alone)
    assert any(each.area for each in expected)

    bench.gate.close()
    jobs = [bench.submit(each, stride=stride, direction=direction) for each in "abc"]
    bench.gate.open()
    for job in jobs:
        bench.done(job)
        assert bench.masks(job) == expected
    assert max(bench.suspended.values()) > 2
    assert bench.runner.suspended == 0


@pytest.mark.usefixtures("short_slices")
def test_no_place_is_given_to_the_same_project(bench: Bench) -> None:
    jobs = [bench.submit("one", stride=stride) for stride in (1, 2, 3)]
    bench.gate.open()
    for job in jobs:
        bench.done(job)
    assert not bench.suspended


@pytest.mark.usefixtures("short_slices")
def test_a_suspended_job_that_is_cancelled_is_gone_at_once(bench: Bench) -> None:
    bench.gate.open()
    jobs = [bench.submit(f"long {number}", LONG) for number in range(4)]
    until(lambda: bench.runner.suspended == 2)
    bench.gate.close()  # those that run stand still then, and nobody gets a turn
    until(lambda: len(bench.gate.waiting) == 2)
    [cancelled, *others] = list(bench.runner._suspended)
    assert bench.runner.cancel(cancelled).state is JobState.CANCELLED
    assert list(bench.runner._suspended) == others
    assert len(bench.open) == 3
    bench.gate.open()
    for job in jobs:
        bench.runner.cancel(job.id)
        bench.runner.wait(job.id, PATIENCE)


@pytest.mark.usefixtures("short_slices")
def test_a_job_that_fails_after_a_slice_frees_everything(bench: Bench) -> None:
    bench.broken["fails"] = 6
    jobs = {name: bench.submit(name, LONG) for name in ("fails", "one", "two")}
    bench.gate.open()
    ended = bench.runner.wait(jobs["fails"].id, PATIENCE)
    assert (ended.state, ended.message) == (JobState.FAILED, "broken")
    assert bench.suspended
    for name in ("one", "two"):
        bench.runner.cancel(jobs[name].id)


@pytest.mark.usefixtures("short_slices")
def test_a_stop_frees_suspended_jobs_and_the_next_start_goes_on_with_them(bench: Bench) -> None:
    jobs = [bench.submit(name, 15) for name in "abc"]
    bench.gate.open()
    until(lambda: bench.runner.suspended and all(bench.masks(job) for job in jobs))
    bench.runner.close()
    assert (bench.runner.suspended, bench.held(), bench.open) == (0, 0, set())
    for job in bench.store.jobs():
        assert (job.crashes, job.under_way) == (0, False)
    before = [len(bench.masks(job)) for job in jobs]
    bench.runner = bench.new_runner()
    bench.runner.resume()
    for job, stored in zip(jobs, before, strict=True):
        bench.done(job)
        assert len(bench.masks(job)) == 2 * 15 - 1 >= stored  # "b" begins on frame 1


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("limit", ["jobs", "room"])
def test_where_there_is_no_room_jobs_go_on_with_what_is_stored(
    bench: Bench, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "jobs":
        monkeypatch.setattr(runner_module, "MAX_SUSPENDED", 0)
    else:
        bench.engine._suspended._most.update(memory=0, disk=0)
    jobs = [bench.submit(name, 4) for name in "abc"]
    bench.gate.open()
    for job in jobs:
        bench.done(job)
        assert len(bench.masks(job)) == 2 * 4 - 1


def test_weights_that_are_replaced_between_two_passes_begin_the_job_anew(bench: Bench) -> None:
    job = bench.submit("job", direction="both")
    until(lambda: bench.gate.waiting)  # its first tracker has the weights that it began with
    bench.engine.replace(ModelChoice("demo", device="cpu", image_size=128))
    bench.gate.open()
    bench.done(job)
    fresh = bench.submit("fresh", direction="both")
    bench.done(fresh)
    assert bench.masks(job) == bench.masks(fresh)
