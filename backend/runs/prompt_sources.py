"""What a task holds to start from: boxes and masks of its annotation, else of a prediction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from backend.labelstudio.json_values import Results, mappings, text
from backend.labelstudio.model_names import model_of
from backend.labelstudio.prompts import prompts_from_task
from backend.labelstudio.read_results import newest_results, read_results
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.video_regions import read_video_regions

_MASKS = frozenset({"brush", "brushlabels", "bitmask", "bitmasklabels"})


def marks_of(task: Mapping[str, Any], model_version: str) -> Results:
    """The results of the newest annotation that counts; without one, of the newest prediction
    that this model did not make itself. Every result has an id, the same in every run: regions
    are known by it in a track."""
    marks = []
    found = newest_results(task, "annotations", "predictions", not_by=model_version)
    for position, item in enumerate(found):  # detectors' predictions often come without ids
        name = hashlib.sha256(f"{task.get('id')} {position}".encode()).hexdigest()[:10]
        marks.append(item if text(item.get("id")) else {**item, "id": name})
    return marks


def mark_kinds(marks: Sequence[Mapping[str, object]], config: LabelConfig) -> set[str]:
    """What the marks are on: "image", "sequence", "video"; empty where there is nothing to do.

    On images only boxes and clicks ask for something: masks are there already.
    """
    kinds = set()
    if read_video_regions(marks, config):
        kinds.add("video")
    sequences = {tag.name for tag in config.images if tag.is_sequence}
    if any(region.image in sequences for region in read_results(marks, config).regions):
        kinds.add("sequence")
    prompts = prompts_from_task({"annotations": [{"result": list(marks)}]}, config)
    if any(prompt.image not in sequences for prompt in prompts):
        kinds.add("image")
    return kinds


def why_nothing_to_do(marks: Sequence[Mapping[str, object]]) -> str:
    """What marks are that ``mark_kinds`` finds nothing to do for, in words."""
    types = Counter(text(mark.get("type")) or "untyped" for mark in marks)
    masks = {name: types[name] for name in sorted(types) if name in _MASKS}
    if masks:
        return f"only masks already ({', '.join(masks)})"
    return f"only {', '.join(sorted(types))}" if types else "nothing"


def own_predictions(task: Mapping[str, Any], model_version: str) -> list[int]:
    """The ids of this model's predictions."""
    every = mappings(task.get("predictions"))
    ids = [each.get("id") for each in every if model_of(each.get("model_version")) == model_version]
    return [number for number in ids if isinstance(number, int)]
