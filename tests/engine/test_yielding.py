"""A click does not wait for a whole tracked frame, and the frame's masks are the same."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from backend.engine.building import ModelChoice
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import InferenceThread, Priority, Stopped
from backend.job_state import JobState
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from backend.pixels.video_limits import VideoError
from backend.threads.fair_queue import FairQueue
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Goal, Span
from backend.tracking.store import TrackStore
from benchmarks.support.clips import MovingDiscs
from tests.backend.fakes import AsGiven, FakeFrameMasks, FakePredictor
from tests.waiting import PATIENCE, until


@pytest.fixture
def thread(monkeypatch):
    monkeypatch.setattr("backend.engine.scheduler.FOLLOW_UP_SECONDS", 0.0)
    thread = InferenceThread(capacity=8)
    yield thread
    thread.stop(timeout=PATIENCE)


@pytest.fixture
def steps(thread):
    """A job of two steps; others are queued before it comes to its yield point."""
    return Steps(thread)


class Steps:
    def __init__(self, thread):
        self.thread = thread
        self.done = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def submit(self, priority, **arguments):
        job = self.thread.submit(self._run, priority, **arguments)
        assert self.entered.wait(PATIENCE)
        return job

    def other(self, name, priority):
        return self.thread.submit(lambda: self.done.append(name), priority)

    def _run(self):
        self.entered.set()
        assert self.go_on.wait(PATIENCE)
        self.thread.yield_point()
        self.done.append("second step")


def test_clicks_go_between_two_steps(thread, steps):
    jobs = [steps.submit(Priority.TRACK)]
    jobs += [
        steps.other(name, priority)
        for name, priority in [
            ("retrieve", Priority.RETRIEVE),
            ("another track", Priority.TRACK),
            ("click 1", Priority.CLICK),
            ("click 2", Priority.CLICK),
        ]
    ]
    steps.go_on.set()
    for job in jobs:
        job.future.result(PATIENCE)
    assert steps.done == ["click 1", "click 2", "second step", "another track", "retrieve"]


def test_only_clicks_do(thread, steps):
    """A track on top of an encoding would hold it up when a click came to want it."""
    encode = steps.submit(Priority.PREFETCH)
    tracked = steps.other("track", Priority.TRACK)
    steps.go_on.set()
    encode.future.result(PATIENCE)
    tracked.future.result(PATIENCE)
    assert steps.done == ["second step", "track"]


def test_an_encoding_that_a_click_waits_for_yields_to_no_other(thread, steps):
    encode = steps.submit(Priority.PREFETCH)
    other = steps.other("another click", Priority.CLICK)
    thread.promote(encode, Priority.CLICK)
    steps.go_on.set()
    other.future.result(PATIENCE)
    assert steps.done == ["second step", "another click"]


def test_a_click_that_fails_leaves_the_interrupted_job_alone(thread, steps):
    def fail():
        raise ValueError("broken")

    tracked = steps.submit(Priority.TRACK)
    click = thread.submit(fail, Priority.CLICK)
    steps.go_on.set()
    with pytest.raises(ValueError, match="broken"):
        click.future.result(PATIENCE)
    tracked.future.result(PATIENCE)
    assert steps.done == ["second step"]


def test_a_job_that_is_not_wanted_any_more_ends_at_its_next_step(thread, steps):
    wanted = threading.Event()
    wanted.set()
    job = steps.submit(Priority.TRACK, stopped=lambda: not wanted.is_set())
    wanted.clear()
    steps.go_on.set()
    with pytest.raises(Stopped):
        job.future.result(PATIENCE)
    assert steps.done == []
    steps.other("next", Priority.TRACK).future.result(PATIENCE)
    assert steps.done == ["next"]


def test_the_model_is_not_stuck_while_it_comes_to_yield_points(thread, steps):
    """How long it has been busy is counted from the last one."""
    job = steps.submit(Priority.TRACK)
    until(lambda: thread.busy_seconds > 0.2)
    seconds = []
    click = thread.submit(lambda: seconds.append(thread.busy_seconds), Priority.CLICK)
    steps.go_on.set()
    click.future.result(PATIENCE)
    job.future.result(PATIENCE)
    assert seconds[0] < 0.2
    until(lambda: thread.busy_seconds == 0)


def test_a_yield_point_elsewhere_runs_nothing(thread, steps):
    """Not in another thread, and not where no job runs."""
    job = steps.submit(Priority.TRACK)
    steps.other("click", Priority.CLICK)
    thread.yield_point()
    assert steps.done == []
    steps.go_on.set()
    job.future.result(PATIENCE)
    assert steps.done == ["click", "second step"]


def test_the_queue_hands_out_only_what_is_earlier():
    queue = FairQueue(10, 10)
    assert queue.get_before(9) is None
    queue.put("track", 3, "a")
    queue.put("click a", 0, "a")
    queue.put("click b", 0, "b")
    assert [queue.get_before(3) for _ in range(3)] == ["click a", "click b", None]
    assert queue.get_before(4) == "track"
    assert len(queue) == 0
    queue.close()
    assert queue.get() is None


class Endless:
    """A tracker whose second frame never ends, but comes to yield points."""

    def __init__(self, begun):
        self._begun = begun
        self.yield_point = lambda: None

    def prompt(self, frame, object_id, **prompt):
        return self._masks(frame)

    def propagate(self, start, count, reverse):
        if start == 0:
            yield self._masks(start)
        self._begun.set()
        while True:
            self.yield_point()

    def remembered(self):
        """Nothing is."""

    def go_back(self, to):
        """There is nothing to undo."""

    def reset(self):
        """There is nothing to forget."""

    def _masks(self, frame):
        return FakeFrameMasks(frame, ("a",), np.ones((1, 8, 8), bool), np.ones(1), np.ones(1))


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_cancelled_job_ends_within_its_frame(tmp_path, end):
    begun = threading.Event()
    tracker = Endless(begun)
    engine = LocalEngine(
        ModelChoice("demo"),
        AsGiven(),
        cache_bytes=1000,
        metrics=Metrics(),
        build=lambda choice: FakePredictor(),
        build_tracker=lambda predictor, frames: tracker,
    )
    tracker.yield_point = engine._thread.yield_point
    goal = Goal("a", {0: click_at(3, 3)}, {0: "digest"}, [Span(0, 5)])
    work = Work(MovingDiscs(6, 8), [goal])
    store = TrackStore(tmp_path / "tracks.sqlite3")
    runner = JobRunner(store, engine, lambda request: work, hand_over=lambda job: None)
    job = runner.submit("track", {})
    assert begun.wait(PATIENCE)
    if end == "cancel":
        runner.cancel(job.id)
        until(lambda: runner.wait(job.id, 0).state is JobState.CANCELLED)
    runner.close()
    state = runner.wait(job.id, 0).state
    assert state is (JobState.CANCELLED if end == "cancel" else JobState.RUNNING)
    engine.close()


# With the demo model.


class Bench:
    """An engine whose tracker calls ``at_yield_point`` before it yields."""

    def __init__(self):
        self.at_yield_point = lambda: None
        self.engine = LocalEngine(
            ModelChoice("demo", device="cpu", image_size=64),
            AsGiven(),
            cache_bytes=100_000_000,
            metrics=Metrics(),
            build_tracker=self._tracker,
        )
        self.engine.wait_ready(PATIENCE)
        self.clip = MovingDiscs(6, 96)

    def _tracker(self, predictor, frames):
        from sam2model import VideoTracker

        return VideoTracker(predictor.model, frames, history_frames=16, yield_to=self._yield)

    def _yield(self):
        self.at_yield_point()
        self.engine._thread.yield_point()

    def tracker(self, clip=None):
        tracker = self.engine.open_tracker(self.clip if clip is None else clip)
        tracker.prompt(0, "a", click_at(30, 30))
        return tracker

    def click(self, key):
        pixels = np.random.default_rng(ord(key)).integers(0, 255, (50, 60, 3), np.uint8)
        source = ImageSource(key, lambda: pixels)
        prompt = ObjectPrompt("image", points=(PointPrompt(100 * 25 / 60, 50),))
        [answer] = self.engine.answer(source, [prompt], Priority.CLICK, PATIENCE)
        return answer.mask.unpack()


@pytest.fixture(scope="module")
def bench():
    bench = Bench()
    yield bench
    bench.engine.close()


def click_at(x, y):
    return PixelPrompt(np.array([[x, y]], np.float32), np.array([True]))


def masks(steps):
    return {frame: found[0].mask.unpack() for frame, found in steps}


def test_clicks_within_tracked_frames_and_the_same_masks(bench):
    bench.at_yield_point = lambda: None
    expected = masks(bench.tracker().step(0, 5, reverse=False))
    answer = bench.click("x")
    tracker = bench.tracker()
    answers, clickers, encoded = [], [], []
    points = 0

    def at_yield_point():
        """At every tenth, somebody clicks on a new picture; at the next, it has been encoded."""
        nonlocal points
        points += 1
        if points % 10 == 0:
            bench.engine._cache.clear()
            clickers.append(threading.Thread(target=lambda: answers.append(bench.click("x"))))
            clickers[-1].start()
            until(lambda: bench.engine._thread.depth(Priority.CLICK))
        if points % 10 == 1 and clickers:
            encoded.append(len(bench.engine._cache))

    bench.at_yield_point = at_yield_point
    found = masks(tracker.step(0, 5, reverse=False))
    bench.at_yield_point = lambda: None
    for clicker in clickers:
        clicker.join(PATIENCE)
    assert len(answers) == len(clickers) > 4
    assert len(encoded) > 4
    assert all(encoded)
    for mask in answers:
        np.testing.assert_array_equal(mask, answer)
    for frame, mask in expected.items():
        np.testing.assert_array_equal(found[frame], mask)


def test_a_stopped_track_ends_within_its_frame_and_can_go_on(bench):
    bench.at_yield_point = lambda: None
    expected = masks(bench.tracker().step(0, 5, reverse=False))
    tracker = bench.tracker()
    stopped = threading.Event()
    points = []

    def at_yield_point():
        points.append(1)
        if len(points) == 40:
            stopped.set()

    bench.at_yield_point = at_yield_point
    before = masks(tracker.step(0, 5, reverse=False, stopped=stopped.is_set))
    bench.at_yield_point = lambda: None
    assert len(points) == 40
    assert 0 < len(before) < 5
    after = masks(tracker.step(len(before), 5 - len(before), reverse=False))
    for frame, mask in expected.items():
        np.testing.assert_array_equal({**before, **after}[frame], mask)


# One frame ahead.


def alone(model, clip, prompted):
    """What a tracker finds that is asked frame by frame; with a prompt after frame 2."""
    from sam2model import VideoTracker

    tracker = VideoTracker(model, clip, history_frames=16)
    tracker.prompt(0, "a", points=[[30, 30]])
    for frame in range(len(clip)):
        step = next(tracker.propagate(frame, 1))
        yield step.masks[0], step.ious[0], step.object_scores[0]
        if frame == 2 and prompted is not None:
            tracker.prompt(prompted, "a", points=[[50, 40]])


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("between", ["nothing", "suspend", 1, 3, 5])
def test_what_comes_between_two_frames_finds_the_tracker_as_if_none_were_computed_ahead(
    bench, between, computed
):
    """While the masks of a frame are taken the next one is computed, and no other."""
    bench.at_yield_point = lambda: None
    model = bench.engine._model(0).predictor.model
    prompted = between if isinstance(between, int) else None
    expected = list(alone(model, bench.clip, prompted))
    tracker, thread = bench.tracker(), bench.engine._thread
    queued = tracker._tracker
    steps = tracker.step(0, len(bench.clip), reverse=False)
    for frame, (mask, iou, presence) in enumerate(expected):
        found, [answer] = next(steps)
        assert found == frame
        np.testing.assert_array_equal(answer.mask.unpack(), mask)
        assert (answer.iou, answer.presence) == (iou, presence)
        if frame != 2:
            continue
        if computed:
            until(lambda: thread.waiting == 0 and thread.busy_seconds == 0)
            assert max(queued._tracker._sizes) == 3
            assert queued._tracker._next.frame == 4
        else:  # it is at its beginning, and stays there until it is given up
            bench.at_yield_point = lambda: until(lambda: not queued._ahead)
        if between == "suspend":
            tracker.suspend()
        elif prompted is not None:
            tracker.prompt(prompted, "a", click_at(50, 40))
        bench.at_yield_point = lambda: None
    tracker.close()


def test_a_tracker_that_is_closed_computes_nothing_any_more(bench):
    bench.at_yield_point = lambda: None
    tracker, thread = bench.tracker(), bench.engine._thread
    queued, begun = tracker._tracker, threading.Event()
    steps = tracker.step(0, 5, reverse=False)
    bench.at_yield_point = lambda: (begun.set(), until(lambda: not queued._ahead))
    next(steps)  # prompted; the one after it is computed
    assert begun.wait(PATIENCE)
    tracker.close()
    assert queued._tracker.object_ids == ()
    until(lambda: thread.waiting == 0 and thread.busy_seconds == 0)
    assert queued._tracker.object_ids == ()
    bench.at_yield_point = lambda: None


def test_a_frame_that_cannot_be_read_fails_in_its_turn(bench):
    class Torn(MovingDiscs):
        def __getitem__(self, index):
            if index == 3:
                raise VideoError("the video is torn")
            return super().__getitem__(index)

    bench.at_yield_point = lambda: None
    tracker = bench.tracker(Torn(6, 96))
    done = []
    with pytest.raises(VideoError, match="torn"):
        for frame, _ in tracker.step(0, 6, reverse=False):
            done.append(frame)
    assert done == [0, 1, 2]
    tracker.close()
