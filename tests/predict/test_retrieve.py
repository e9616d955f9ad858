"""Requests without a context: opening a task and "Retrieve predictions"."""

from __future__ import annotations

import time

import pytest

from backend import __version__
from tests.backend.conftest import CONFIG, box
from tests.waiting import PATIENCE, until


def task(number, *, annotations=(), predictions=(), image=None):
    return {
        "id": number,
        "data": {"image": image or f"/data/upload/1/{number}.png"},
        "annotations": list(annotations),
        "predictions": list(predictions),
    }


def boxed(number, **kwargs):
    return task(number, annotations=[{"id": 1, "result": [box(20, 20, 40, 40)]}], **kwargs)


def ask(bench, *tasks, config=CONFIG):
    reply = bench.client.post(
        "/predict",
        json={
            "tasks": tasks,
            "project": "1.1",
            "label_config": config,
            "params": {"context": None},
        },
    )
    assert reply.status_code == 200
    return reply.json["results"]


def test_opening_a_task_stores_nothing_and_encodes_ahead(bench):
    assert ask(bench, task(1)) == [[]]
    until(lambda: bench.predictor.embeds == 1)


def test_opening_does_not_wait_for_the_model(make_bench):
    bench = make_bench(open_budget_seconds=0.2)
    bench.engine.wait_ready(PATIENCE)
    bench.predictor.hold.clear()
    start = time.monotonic()
    assert ask(bench, task(1)) == [[]]
    assert ask(bench, boxed(2)) == [[]]
    assert time.monotonic() - start < PATIENCE / 2  # every other budget is longer


def test_a_page_that_cannot_be_encoded_ahead_is_quiet(bench, caplog):
    caplog.set_level("INFO")
    assert ask(bench, task(1, image="/missing.png")) == [[]]
    until(lambda: "not encoded ahead" in caplog.text)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_retrieval_turns_boxes_into_masks_one_result_per_task_in_order(bench):
    results = ask(bench, boxed(1), task(2), boxed(3), boxed(4, image="/missing.png"))
    assert [bool(result) for result in results] == [True, False, True, False]
    assert results[1] == results[3] == []
    region = results[0]["result"][0]
    assert region["type"] == "brushlabels"
    assert region["value"]["brushlabels"] == ["Cat"]
    assert results[0]["model_version"] == f"demo@{__version__}"
    assert results[0]["score"] == pytest.approx(0.9)


def test_boxes_of_earlier_predictions_count_too(bench):
    found = ask(bench, task(1, predictions=[{"id": 5, "result": [box(20, 20, 40, 40)]}]))
    assert found[0]["result"]


def test_retrieval_keeps_its_time_and_answers_what_is_done(make_bench):
    bench = make_bench(retrieve_budget_seconds=0.5)
    bench.engine.wait_ready(PATIENCE)
    bench.predictor.hold.clear()
    start = time.monotonic()
    assert ask(bench, boxed(1), boxed(2)) == [[], []]
    assert time.monotonic() - start < PATIENCE / 2


def test_a_single_annotated_task_is_answered_when_quick_else_the_second_time(make_bench):
    bench = make_bench(open_budget_seconds=0.2)
    bench.engine.wait_ready(PATIENCE)
    bench.predictor.hold.clear()
    assert ask(bench, boxed(1)) == [[]]
    bench.predictor.hold.set()
    [found] = until(lambda: [each for each in ask(bench, boxed(1)) if each])
    assert found["result"]


def test_nothing_is_made_where_the_config_has_no_place(bench):
    config = """<View><Image name="image" value="$image"/>
      <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
    </View>"""
    assert ask(bench, boxed(1), boxed(2), config=config) == [[], []]


def test_no_tasks(bench):
    assert ask(bench) == []
