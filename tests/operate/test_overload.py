"""More work than there is room for: the editor shows it, and nobody starves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.engine.scheduler import Priority
from backend.predict.dispatch import RESERVED_THREADS, Admission
from backend.threads.caller import caller, serving
from backend.threads.fair_queue import Busy
from tests.backend.conftest import box, click
from tests.waiting import LONGER, PATIENCE, until


def status(reply):
    return " ".join(
        "".join(item["value"]["text"]) for item in reply["result"] if item["type"] == "textarea"
    )


def outcomes(bench, outcome):
    return bench.metrics.predictions.labels("interactive", outcome)._value.get()


class TestAdmission:
    def test_some_threads_are_left_for_probes(self):
        admission = Admission(16)
        assert admission.places == 16 - RESERVED_THREADS
        assert admission.share < admission.places

    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_few_threads_still_serve(self, threads):
        with Admission(threads).enter("a"):
            pass

    def test_a_project_leaves_room_for_another(self):
        admission = Admission(6)
        with admission.enter("a"), admission.enter("a"), admission.enter("a"):
            with pytest.raises(Busy, match="of this project"), admission.enter("a"):
                pass
            with admission.enter("b"), pytest.raises(Busy, match="other requests; try again"):
                admission.enter("b").__enter__()
        with admission.enter("a"):
            pass


def test_the_editor_shows_that_the_backend_is_busy_and_the_next_click_works(bench):
    bench.engine.wait_ready(PATIENCE)
    bench.predictor.hold.clear()
    share = Admission(16).share
    with ThreadPoolExecutor(share) as pool:
        waiting = [
            pool.submit(
                bench.predict, [click(50, 50)], task={"id": n, "data": {"image": f"/{n}.png"}}
            )
            for n in range(share)
        ]
        until(lambda: bench.service._admission.inside == share)
        shown = status(bench.predict([click(50, 50)]))
        assert "busy with other requests of this project; try again in a moment" in shown
        assert bench.predict(None) == []  # Retrieve Predictions and opening get nothing, at once
        assert bench.client.get("/ready").status_code == 200
        bench.predictor.hold.set()
        for reply in waiting:
            assert any(item["type"] == "brushlabels" for item in reply.result(PATIENCE)["result"])
    assert outcomes(bench, "busy") == 1
    assert status(bench.predict([click(50, 50)])) == ""


def test_a_full_queue_before_the_model_is_told_too(bench):
    bench.engine.wait_ready(PATIENCE)
    entered, gate = threading.Event(), threading.Event()
    thread = bench.engine._thread
    thread.submit(lambda: (entered.set(), gate.wait(LONGER)), Priority.CLICK)
    assert entered.wait(PATIENCE)
    try:
        for _ in range(128):
            thread.submit(lambda: None, Priority.PREFETCH, "1.100")
        shown = status(bench.predict([click(50, 50)]))
        assert "this project has 128 requests waiting already); try again" in shown
        assert outcomes(bench, "busy") == 1
        exposed = bench.metrics.exposition().decode()
        assert 'sam2_queue_depth{priority="prefetch"} 128.0' in exposed
    finally:
        gate.set()
    thread.submit(lambda: None, Priority.PREFETCH).future.result(PATIENCE)  # after all of them
    assert status(bench.predict([click(50, 50)])) == ""


def test_a_project_that_retrieves_a_lot_does_not_hold_up_another(bench):
    bench.engine.wait_ready(PATIENCE)
    served = []
    embed = bench.predictor.embed

    def noting(pixels):
        served.append(caller().project)
        return embed(pixels)

    bench.predictor.embed = noting
    bench.predictor.hold.clear()

    def tasks(name, count):
        return [
            {
                "id": n,
                "data": {"image": f"/{name}-{n}.png"},
                "annotations": [{"id": n, "result": [box(10, 10, 40, 40)]}],
            }
            for n in range(count)
        ]

    def retrieve(project, count):
        from tests.backend.conftest import CONFIG

        body = {
            "tasks": tasks(project, count),
            "project": project,
            "label_config": CONFIG,
            "params": {"context": None},
        }
        return bench.client.application.test_client().post("/predict", json=body).json["results"]

    with ThreadPoolExecutor(2) as pool:
        flood = pool.submit(retrieve, "flood", 20)
        assert bench.predictor.entered.wait(PATIENCE)
        quiet = pool.submit(retrieve, "quiet", 2)
        # One is being encoded, one more of each project waits for that, all others for a thread.
        waiting = bench.service.retrieval._pool._waits
        until(lambda: bench.engine._thread.waiting == 2 and waiting == {"flood": 18, "quiet": 1})
        bench.predictor.hold.set()
        assert len([r for r in quiet.result(PATIENCE) if r]) == 2
        assert len([r for r in flood.result(PATIENCE) if r]) == 20
    assert served.index("quiet") < 15
    assert len(served) - served[::-1].index("quiet") < 18  # long before the last of the flood


def test_encoding_ahead_does_not_hold_up_a_retrieval(bench):
    bench.engine.wait_ready(PATIENCE)
    bench.predict([click(50, 50)], task={"id": 1, "data": {"image": "/known.png"}})
    fetch = bench.shelf.fetch
    opened = threading.Semaphore(0)
    gate = threading.Event()

    def slow(uri, *, task_id=None):
        if "opened" in uri:
            opened.release()
            assert gate.wait(LONGER)
        return fetch(uri, task_id=task_id)

    bench.shelf.fetch = slow
    for number in range(4):
        bench.predict(None, task={"id": number, "data": {"image": f"/opened-{number}.png"}})
    assert opened.acquire(timeout=PATIENCE)
    drawn = {"id": 1, "result": [box(10, 10, 40, 40)]}
    task = {"id": 1, "data": {"image": "/known.png"}, "annotations": [drawn], "predictions": [{}]}
    try:
        assert bench.predict(None, task=task)["result"]
    finally:
        gate.set()


def test_nothing_is_kept_of_the_caller_between_requests(bench):
    with serving(request_id="outer"):
        bench.predict([click(50, 50)])
        assert caller().request_id == "outer"
        assert caller().project == ""
