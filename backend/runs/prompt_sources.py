"""What a task holds to start from: boxes and masks of its annotation, else of a prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from backend.labelstudio.json_values import mappings, text
from backend.labelstudio.read_results import result_lists

Results = list[dict[str, Any]]


def marks_of(task: Mapping[str, Any], model_version: str) -> Results:
    """The results of the newest annotation that counts; without one, of the newest prediction
    that this model did not make itself. Every result has an id, the same in every run."""
    for kind in ("annotations", "predictions"):
        for entry in result_lists(task.get(kind)):
            own = kind == "predictions" and entry.get("model_version") == model_version
            if entry.get("result") and not entry.get("was_cancelled") and not own:
                return _with_ids(entry.get("result"), str(task.get("id")))
    return []


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


def _with_ids(results: object, task: str) -> Results:
    """Detectors' predictions often come without ids, by which regions are known in a track."""
    made = []
    for position, item in enumerate(mappings(results)):
        name = hashlib.sha256(f"{task} {position}".encode()).hexdigest()[:10]
        made.append(dict(item) if text(item.get("id")) else {**item, "id": name})
    return made
