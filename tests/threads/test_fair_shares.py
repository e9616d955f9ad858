"""No project holds up another: the queue before the model, and the pools of threads."""

from __future__ import annotations

import threading

import pytest

from backend.threads.caller import caller, serving
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy, FairQueue
from tests.waiting import LONGER, PATIENCE


def drained(queue):
    queue.close()
    return list(iter(queue.get, None))


def test_projects_take_turns_within_a_priority():
    queue = FairQueue(100, 50)
    for number in range(4):
        queue.put(f"flood {number}", 3, "flood")
    queue.put("quiet 0", 3, "quiet")
    queue.put("quiet 1", 3, "quiet")
    queue.put("click", 0, "flood")
    assert drained(queue) == [
        "click",
        "flood 0",
        "quiet 0",
        "flood 1",
        "quiet 1",
        "flood 2",
        "flood 3",
    ]


def test_a_project_that_floods_leaves_room_for_another():
    queue = FairQueue(10, 5)
    for number in range(5):
        queue.put(number, 0, "flood")
    with pytest.raises(Busy, match="5 requests of this project"):
        queue.put("one more", 9, "flood")
    queue.put("quiet", 9, "quiet")
    assert queue.get() == 0
    queue.put("one more", 0, "flood")
    assert len(queue) == 6


def test_the_whole_is_bounded_too():
    queue = FairQueue(3, 3)
    for number in range(3):
        queue.put(number, 0, f"project {number}")
    with pytest.raises(Busy, match="3 requests are waiting"):
        queue.put("more", 0, "another")


def test_promotion_moves_an_item_and_counts_it_once():
    queue = FairQueue(10, 10)
    for name in ("a", "b", "c"):
        queue.put(name, 9, "one")
    queue.promote("c", 0)
    queue.promote("a", 9)
    queue.promote("gone", 0)
    assert (queue.depth(0), queue.depth(9), len(queue)) == (1, 2, 3)
    assert drained(queue) == ["c", "a", "b"]


class TestFairPool:
    @pytest.fixture
    def pool(self):
        pool = FairPool(1, "test", capacity=20)
        yield pool
        pool.shutdown(cancel_futures=True)

    @pytest.fixture
    def gate(self, pool):
        entered, gate = threading.Event(), threading.Event()
        pool.submit(lambda: (entered.set(), gate.wait(LONGER)))
        assert entered.wait(PATIENCE)
        yield gate
        gate.set()

    def test_projects_take_turns_and_calls_know_whom_they_serve(self, pool, gate):
        served = []
        futures = []
        for project in ("flood", "flood", "flood", "quiet"):
            with serving(project=project, request_id=f"r-{project}"):
                futures.append(pool.submit(lambda: served.append(caller())))
        gate.set()
        for future in futures:
            future.result(PATIENCE)
        assert [each.project for each in served] == ["flood", "quiet", "flood", "flood"]
        assert served[1].request_id == "r-quiet"

    def test_a_failing_call_tells_its_waiter_and_spares_the_next(self, pool):
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result(PATIENCE)
        assert pool.submit(lambda a, b: a + b, 1, b=2).result(PATIENCE) == 3

    def test_shutdown_cancels_what_waits(self, pool, gate):
        waiting = pool.submit(lambda: None)
        pool.shutdown(wait=False, cancel_futures=True)
        assert waiting.cancelled()
        with pytest.raises(Busy, match="stopping"):
            pool.submit(lambda: None)
