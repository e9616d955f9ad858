"""No project holds up another: the queue before the model, and the pools of threads."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from backend.threads.caller import caller, serving
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy, FairQueue
from tests.waiting import LONGER, PATIENCE, until


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
    with pytest.raises(Busy, match="has 5 requests waiting"):
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

    @pytest.mark.parametrize("run", ["", "1"])
    def test_the_rest_of_a_call_comes_first_of_its_project_after_the_others(self, pool, gate, run):
        served = []

        def begin():
            served.append("begun")
            pool.submit_rest(served.append, "rest")

        with serving(project="a", run=run):
            pool.submit(begin)
            futures = [pool.submit(served.append, name) for name in ("a 1", "a 2")]
        with serving(project="b"):
            futures += [pool.submit(served.append, name) for name in ("b 1", "b 2")]
        gate.set()
        for future in futures:
            future.result(PATIENCE)
        assert served == ["begun", "b 1", "rest", "b 2", "a 1", "a 2"]

    def test_the_rest_of_a_call_is_not_refused_for_what_waits(self, pool, gate):
        rest = threading.Event()
        with serving(project="a"):
            pool.submit(pool.submit_rest, rest.set)
            for _ in range(9):
                pool.submit(lambda: None)
            with pytest.raises(Busy):
                pool.submit(lambda: None)
        gate.set()
        assert rest.wait(PATIENCE)
        pool.shutdown()
        with pytest.raises(Busy, match="stopping"):
            pool.submit_rest(lambda: None)

    def test_shutdown_cancels_what_waits(self, pool, gate):
        waiting = pool.submit(lambda: None)
        pool.shutdown(wait=False, cancel_futures=True)
        assert waiting.cancelled()
        with pytest.raises(Busy, match="stopping"):
            pool.submit(lambda: None)


class TestWhatRuns:
    """Calls that never end until ``gate`` opens: what the others get meanwhile."""

    @pytest.fixture
    def pool(self):
        pool = FairPool(16, "test", capacity=200)
        yield pool
        pool.shutdown(cancel_futures=True)

    @pytest.fixture
    def hold(self, pool):
        """Submits so many calls of a project that hang on a host; returns how many began."""
        gate = threading.Event()
        begun = Counter()

        def hang(project):
            begun[project] += 1
            assert gate.wait(LONGER)

        def submit(project, host, count):
            with serving(project=project):
                for _ in range(count):
                    pool.submit_for(host, hang, project)

        submit.begun = begun
        yield submit
        gate.set()

    def ask(self, pool, project, host=""):
        with serving(project=project):
            return pool.submit_for(host, lambda: "answered")

    def test_a_project_runs_no_more_than_half_and_the_next_half_of_the_rest(self, pool, hold):
        for project, share in (("a", 8), ("b", 4), ("c", 2), ("d", 1)):
            hold(project, f"{project}.example", 40)
            until(lambda project=project, share=share: hold.begun[project] == share)
        assert self.ask(pool, "e").result(PATIENCE) == "answered"
        assert hold.begun == {"a": 8, "b": 4, "c": 2, "d": 1}

    def test_a_host_runs_no_more_than_three_quarters_and_holds_up_no_other(self, pool, hold):
        for project in "abcd":
            hold(project, "slow.example", 8)
        until(lambda: sum(hold.begun.values()) == 12)
        waiting = self.ask(pool, "e", "slow.example")
        assert self.ask(pool, "e", "fast.example").result(PATIENCE) == "answered"
        assert not waiting.done()
        assert sum(hold.begun.values()) == 12

    def test_others_wait_where_a_place_given_back_would_be_theirs(self, pool, hold):
        def others_wait_for(project, run=""):
            with serving(project=project, run=run):
                return pool.others_wait()

        for project, share in (("a", 8), ("b", 4), ("c", 2), ("d", 1)):
            hold(project, "", 20)
            until(lambda project=project, share=share: hold.begun[project] == share)
        # One place is free, and for no project that has one: with a second one, for d's alone.
        assert [others_wait_for(project) for project in "abcd"] == [True, True, True, False]
        hold("e", "", 2)
        until(lambda: hold.begun["e"] == 1)
        assert not any(others_wait_for(project) for project in "abcde")
        hold("f", "", 1)
        assert all(others_wait_for(project) for project in "abcde")
        assert not others_wait_for("f")
        assert others_wait_for("f", "1")  # a run is an owner of its own

    def test_what_waited_for_a_share_goes_when_the_share_is_free(self, hold, pool):
        gate = threading.Event()
        with serving(project="a"):
            first = [pool.submit(gate.wait, LONGER) for _ in range(8)]
            last = pool.submit(lambda: "answered")
        assert self.ask(pool, "b").result(PATIENCE) == "answered"
        assert not last.done()
        gate.set()
        assert last.result(PATIENCE) == "answered"
        assert all(each.result(PATIENCE) for each in first)
