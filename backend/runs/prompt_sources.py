"""What a task holds to start from: boxes and masks of its annotation, else of a prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from backend.labelstudio.json_values import mappings, text
from backend.labelstudio.read_results import newest_results

Results = list[dict[str, Any]]


def marks_of(task: Mapping[str, Any], model_version: str) -> Results:
    """The results of the newest annotation that counts; without one, of the newest prediction
    that this model did not make itself. Every result has an id, the same in every run."""
    marks = newest_results(task, "annotations", "predictions", not_by=model_version)
    return _with_ids(marks, str(task.get("id")))


def has_prediction(task: Mapping[str, Any], model_version: str) -> bool:
    """Whether this model's prediction is there already."""
    return any(True for _ in _own(task, model_version))


def own_predictions(task: Mapping[str, Any], model_version: str) -> list[int]:
    """The ids of this model's predictions."""
    found = (each.get("id") for each in _own(task, model_version))
    return [number for number in found if isinstance(number, int)]


def _own(task: Mapping[str, Any], model_version: str) -> Iterator[Mapping[str, object]]:
    for each in mappings(task.get("predictions")):
        if each.get("model_version") == model_version:
            yield each


def _with_ids(results: Results, task: str) -> Results:
    """Detectors' predictions often come without ids, by which regions are known in a track."""
    made = []
    for position, item in enumerate(results):
        name = hashlib.sha256(f"{task} {position}".encode()).hexdigest()[:10]
        made.append(item if text(item.get("id")) else {**item, "id": name})
    return made
