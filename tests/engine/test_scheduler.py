"""The inference thread: order, promotion, cancellation, bounds."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from backend.engine.scheduler import InferenceThread, Priority
from backend.threads.fair_queue import Busy
from tests.waiting import LONGER, PATIENCE


@pytest.fixture
def thread():
    thread = InferenceThread(capacity=8)
    yield thread
    thread.stop(timeout=PATIENCE)


@pytest.fixture
def gate(thread):
    """Holds the thread until set, so that what is queued meanwhile can be ordered."""
    started, gate = threading.Event(), threading.Event()

    def hold():
        started.set()
        assert gate.wait(LONGER)

    thread.submit(hold, Priority.CLICK)
    assert started.wait(PATIENCE)
    return gate


def test_urgent_work_goes_first_and_equals_keep_their_order(thread, gate):
    done = []
    jobs = [
        thread.submit(lambda name=name: done.append(name), priority)
        for name, priority in [
            ("prefetch", Priority.PREFETCH),
            ("retrieve", Priority.RETRIEVE),
            ("click 1", Priority.CLICK),
            ("click 2", Priority.CLICK),
        ]
    ]
    gate.set()
    for job in jobs:
        job.future.result(PATIENCE)
    assert done == ["click 1", "click 2", "retrieve", "prefetch"]


def test_nothing_goes_between_the_two_calls_of_a_click(thread, gate, monkeypatch):
    monkeypatch.setattr(
        "backend.engine.scheduler.FOLLOW_UP_SECONDS", 2 * PATIENCE
    )  # a busy machine
    done = []
    tracked = thread.submit(lambda: done.append("track"), Priority.TRACK)
    encoded = thread.submit(lambda: done.append("encode"), Priority.CLICK, followed=True)
    gate.set()
    encoded.future.result(PATIENCE)
    thread.submit(lambda: done.append("answer"), Priority.CLICK)
    tracked.future.result(PATIENCE)  # which waits for nothing: that was the click
    assert done == ["encode", "answer", "track"]


def test_a_promoted_job_runs_once_and_early(thread, gate):
    done = []
    slow = thread.submit(lambda: done.append("wanted"), Priority.PREFETCH)
    other = thread.submit(lambda: done.append("other"), Priority.RETRIEVE)
    thread.promote(slow, Priority.CLICK)
    gate.set()
    other.future.result(PATIENCE)
    thread.submit(lambda: None, Priority.PREFETCH).future.result(PATIENCE)
    assert done == ["wanted", "other"]
    assert thread.waiting == 0


def test_a_cancelled_job_does_not_run(thread, gate):
    done = []
    job = thread.submit(lambda: done.append("cancelled"), Priority.CLICK)
    assert job.future.cancel()
    gate.set()
    thread.submit(lambda: None, Priority.PREFETCH).future.result(PATIENCE)
    assert done == []


def test_a_failing_job_tells_its_waiter_and_spares_the_next(thread):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        thread.submit(fail, Priority.CLICK).future.result(PATIENCE)
    assert thread.submit(lambda: 7, Priority.CLICK).future.result(PATIENCE) == 7


def test_the_queue_is_bounded(thread, gate):
    for _ in range(8):
        thread.submit(lambda: None, Priority.CLICK)
    with pytest.raises(Busy, match="8 requests"):
        thread.submit(lambda: None, Priority.CLICK)
    gate.set()


def test_stop_finishes_what_runs_and_cancels_what_waits(thread, gate):
    waiting = thread.submit(lambda: None, Priority.CLICK)
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    with pytest.raises(CancelledError):
        waiting.future.result(PATIENCE)
    gate.set()
    stopper.join(PATIENCE)
    assert not stopper.is_alive()
    with pytest.raises(Busy, match="stopping"):
        thread.submit(lambda: None, Priority.CLICK)
