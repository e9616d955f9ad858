"""Requests without a context: opening a task and "Retrieve predictions"."""

from __future__ import annotations

import time
from concurrent.futures import wait

import pytest

from backend import __version__
from backend.labelstudio.prompts import task_prompts
from backend.predict.retrieve import PROMPTS_AT_ONCE
from tests.backend.conftest import CONFIG, box
from tests.backend.fakes import Gate
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


def test_a_page_does_not_wait_when_its_request_took_all_its_time(bench, monkeypatch):
    waited = []

    def counted(asked, timeout):
        waited.append(timeout)
        return wait(asked, timeout=timeout)

    monkeypatch.setattr("backend.predict.retrieve.wait", counted)
    bench.predict(None, task=boxed(1), arrived=time.monotonic() - PATIENCE)
    assert waited == [0]
    [found] = until(lambda: [each for each in ask(bench, boxed(1)) if each])
    assert found["result"]


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


def crowded(number, count):
    marks = [box(20, 20, 40, 40, identifier=f"b{each}") for each in range(count)]
    return task(number, annotations=[{"id": 1, "result": marks}])


def test_opening_does_not_wait_until_the_task_is_read(make_bench, monkeypatch):
    bench = make_bench(open_budget_seconds=0.2)
    reading = Gate()

    def held(*args):
        reading.pass_through()
        return task_prompts(*args)

    monkeypatch.setattr("backend.predict.retrieve.task_prompts", held)
    reading.clear()
    assert ask(bench, boxed(1)) == [[]]
    assert reading.reached.wait(PATIENCE)
    reading.set()
    [found] = until(lambda: [each for each in ask(bench, boxed(1)) if each])
    assert found["result"]


def test_a_retrieval_without_time_for_all_says_what_is_left_out(make_bench, monkeypatch, caplog):
    """What is done is in the reply, with a line where the label config has a place for it."""
    bench = make_bench(retrieve_budget_seconds=1.0)
    bench.engine.wait_ready(PATIENCE)
    gate, predict_boxes = Gate(), bench.predictor.predict_boxes

    def held(embedding, boxes):
        if sum(bench.predictor.batches) >= PROMPTS_AT_ONCE:
            gate.pass_through()
        return predict_boxes(embedding, boxes)

    monkeypatch.setattr(bench.predictor, "predict_boxes", held)
    gate.clear()
    results = []
    while not any(results):  # encoding may take the whole budget
        bench.predictor.batches.clear()
        results = ask(bench, crowded(1, 2 * PROMPTS_AT_ONCE), task(2))
    gate.set()
    *masks, line = results[0]["result"]
    assert len(masks) == PROMPTS_AT_ONCE
    assert "left out; 64 of 128 prompts had no time" in line["value"]["text"][0]
    assert "left out; 64 of 128 prompts had no time" in caplog.text


def test_a_line_says_which_regions_could_not_be_used(bench):
    bad = {**box(20, 20, 40, 40, identifier="bad"), "value": {"x": "none", "y": 1}}
    marks = [box(20, 20, 40, 40), bad]
    [found, _] = ask(bench, task(1, annotations=[{"id": 1, "result": marks}]), task(2))
    mask, line = found["result"]
    assert mask["type"] == "brushlabels"
    assert line["value"]["text"] == ["SAM 2: left out; region bad: x is not a number"]


def test_nothing_is_made_where_the_config_has_no_place(bench):
    config = """<View><Image name="image" value="$image"/>
      <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
    </View>"""
    assert ask(bench, boxed(1), boxed(2), config=config) == [[], []]


def test_no_tasks(bench):
    assert ask(bench) == []
