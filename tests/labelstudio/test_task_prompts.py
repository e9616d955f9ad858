"""Requests without a context: what a task already holds that can become masks."""

from __future__ import annotations

import numpy as np
import pytest

from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.geometry import Ellipse
from backend.labelstudio.prompts import prompts_from_task
from backend.labelstudio.read_results import BrushStrokes, Polygon
from tests.labelstudio.configs import box, click, with_answer

BRUSH = with_answer("BrushLabels")


def brush(id="m", label="Cat"):
    rle = encode_brush(np.ones((60, 80), dtype=bool))
    return {
        **box(0, 0, 1, 1, id=id),
        "type": "brushlabels",
        "from_name": "answer",
        "value": {"format": "rle", "rle": rle, "brushlabels": [label]},
    }


def polygon(id="pg"):
    return {
        **box(0, 0, 1, 1, id=id),
        "type": "polygonlabels",
        "from_name": "answer",
        "value": {
            "points": [[10, 10], [50, 10], [30, 60]],
            "closed": True,
            "polygonlabels": ["Cat"],
        },
    }


def ids(task, config=BRUSH):
    return [prompt.source_ids[0] for prompt in prompts_from_task(task, config)]


def annotation(*results, **more):
    return {"id": 1, "result": list(results), "was_cancelled": False, **more}


def test_boxes_of_a_prediction():
    task = {"predictions": [annotation(box(1, 1, 5, 5, id="a"), box(9, 9, 5, 5, "Dog", id="b"))]}
    first, second = prompts_from_task(task, BRUSH)
    assert (first.source_ids, second.source_ids) == (("a",), ("b",))
    assert (first.labels, second.labels) == (("Cat",), ("Dog",))


def test_annotations_go_before_predictions():
    task = {
        "annotations": [annotation(box(1, 1, 5, 5, id="drawn"))],
        "predictions": [annotation(box(1, 1, 5, 5, id="predicted"))],
    }
    assert ids(task) == ["drawn"]


def test_the_latest_annotation_that_counts():
    task = {
        "annotations": [
            annotation(box(1, 1, 5, 5, id="old"), updated_at="2026-01-01T10:00:00Z"),
            annotation(box(1, 1, 5, 5, id="new"), updated_at="2026-03-01T10:00:00Z"),
            annotation(box(1, 1, 5, 5, id="mid"), updated_at="2026-02-01T10:00:00Z"),
            annotation(
                box(1, 1, 5, 5, id="cancelled"),
                updated_at="2026-04-01T10:00:00Z",
                was_cancelled=True,
            ),
            annotation(updated_at="2026-05-01T10:00:00Z"),  # empty
        ]
    }
    assert ids(task) == ["new"]


def test_without_dates_the_highest_id_is_the_newest():
    task = {
        "predictions": [
            annotation(box(1, 1, 5, 5, id="nine"), id=9),
            annotation(box(1, 1, 5, 5, id="eight"), id=8),
        ]
    }
    assert ids(task) == ["nine"]


def test_the_newest_prediction_with_something_to_turn():
    task = {
        "predictions": [
            annotation(box(1, 1, 5, 5, id="boxes"), created_at="2026-01-01"),
            annotation(brush(), created_at="2026-02-01"),
        ]
    }
    assert ids(task) == ["boxes"]


def test_masks_of_the_answer_are_left_alone():
    task = {"annotations": [annotation(brush(), box(1, 1, 5, 5, id="b"))]}
    assert ids(task) == ["b"]
    assert ids({"annotations": [annotation(brush())]}) == []


def test_an_annotation_of_masks_says_that_the_work_is_done():
    task = {
        "annotations": [annotation(brush())],
        "predictions": [annotation(box(1, 1, 5, 5, id="b"))],
    }
    assert ids(task) == []


@pytest.mark.parametrize("answer", ["PolygonLabels", "VectorLabels", "RectangleLabels"])
def test_masks_become_other_shapes(answer):
    [prompt] = prompts_from_task({"predictions": [annotation(brush())]}, with_answer(answer))
    assert isinstance(prompt.shape, BrushStrokes)


def test_shapes_of_the_answers_kind_are_left_alone():
    boxes = {"predictions": [annotation(box(1, 1, 5, 5))]}
    assert prompts_from_task(boxes, with_answer("RectangleLabels")) == []
    polygons = {"predictions": [annotation(polygon())]}
    assert prompts_from_task(polygons, with_answer("PolygonLabels")) == []
    [prompt] = prompts_from_task(polygons, BRUSH)
    assert isinstance(prompt.shape, Polygon)


def test_ellipses_and_turned_boxes():
    ellipse = {
        **box(0, 0, 1, 1, id="e"),
        "type": "ellipselabels",
        "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "ellipselabels": ["Dog"]},
    }
    turned = box(50, 10, 30, 40, rotation=45, id="t")
    one, two = prompts_from_task({"predictions": [annotation(ellipse, turned)]}, BRUSH)
    assert one.shape == Ellipse(50, 50, 10, 5, 0)
    assert one.labels == ("Dog",)
    assert two.box.rotation == 45


def test_clicks_left_over_are_one_object_marks_are_several():
    clicks = [click(10, 10, id="a"), click(20, 20, id="b", is_positive=False)]
    assert ids({"annotations": [annotation(*clicks)]}) == ["a"]
    marks = [{k: v for k, v in item.items() if k != "is_positive"} for item in clicks]
    assert ids({"annotations": [annotation(*marks)]}) == ["a", "b"]


def test_a_mark_in_a_box_belongs_to_it():
    mark = {k: v for k, v in click(12, 12, id="m").items() if k != "is_positive"}
    [prompt] = prompts_from_task({"annotations": [annotation(box(10, 10, 5, 5), mark)]}, BRUSH)
    assert prompt.source_ids == ("b1", "m")


def test_a_label_without_a_place_is_not_hidden():
    [prompt] = prompts_from_task({"predictions": [annotation(box(1, 1, 5, 5, "Bird"))]}, BRUSH)
    assert prompt.labels == ("Bird",)  # region_results then says which label is missing


@pytest.mark.parametrize(
    "task",
    [
        {},
        None,
        [],
        {"annotations": None, "predictions": None},
        {"annotations": [1, 2], "predictions": "x"},
        {"annotations": [{"result": "text"}]},
        {"predictions": [{"result": [{"value": 3}]}, {}, {"result": {}}]},
        {"annotations": [{"result": [None]}], "predictions": [{}]},
    ],
)
def test_odd_tasks_hold_nothing(task):
    assert prompts_from_task(task, BRUSH) == []
