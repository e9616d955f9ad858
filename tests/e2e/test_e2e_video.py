"""A video in a real browser: two boxes on its first frame become two tracks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from demo.clip import FRAMES, OBJECTS, sample_clip
from demo.projects import VIDEO_PROJECT
from tests.e2e.editor import Editor
from tests.e2e.masks import centre, corners
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

MASKS = sample_clip().masks
LABELS = {each.label: each.name for each in OBJECTS}
Corners = tuple[float, float, float, float]


def by_label(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tracked boxes of a result list by their label; there must be one of each at most."""
    boxes = [item for item in results if item["type"] == "videorectangle"]
    found = {label: item for item in boxes for label in item["value"].get("labels", ())}
    assert len(found) == len(boxes)
    return found


def boxes_by_frame(sequence: list[dict[str, Any]]) -> dict[int, Corners]:
    """The boxes that Label Studio shows: those of the key frames, and between them."""
    names = ("x", "y", "width", "height")
    keys = {key["frame"]: np.array([key[name] for name in names]) for key in sequence}
    shown = dict(keys)
    for before, after in pairwise(sequence):
        if before["enabled"]:
            start, end = before["frame"], after["frame"]
            for frame in range(start + 1, end):
                share = (frame - start) / (end - start)
                shown[frame] = keys[start] + (keys[end] - keys[start]) * share
    last = sequence[-1]
    if last["enabled"]:
        shown |= dict.fromkeys(range(last["frame"], FRAMES + 1), keys[last["frame"]])
    return {frame: (x, y, x + w, y + h) for frame, (x, y, w, h) in shown.items()}


def box_iou(a: Corners, b: Corners) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both)


def test_two_boxes_become_two_tracks(editor: Editor, services: Services) -> None:
    project, task = services.demo_task("Boxes", VIDEO_PROJECT)
    editor.open(project, task)
    with editor.saved():
        for label, name in LABELS.items():
            editor.draw_box(corners(MASKS[name][0]), label)
        editor.unselect()
    [draft] = services.api.request("GET", f"/api/tasks/{task}/drafts")
    drawn = by_label(draft["result"])
    assert set(drawn) == set(LABELS)

    together = by_label(editor.say("track").results)
    assert {label: item["id"] for label, item in together.items()} == {
        label: item["id"] for label, item in drawn.items()
    }
    editor.click(*centre(MASKS["bud"][0]))
    alone = by_label(editor.say("track", control="sam2_box").results)
    assert set(alone) == {"Flower"}
    assert alone["Flower"]["id"] == drawn["Flower"]["id"]
    editor.submit()

    [annotation] = services.api.annotations(task)
    saved = by_label(annotation["result"])
    assert set(saved) == set(LABELS)
    for label, item in saved.items():
        assert item["id"] == drawn[label]["id"]
        sequence = item["value"]["sequence"]
        frames = [key["frame"] for key in sequence]
        assert frames == sorted(set(frames))
        assert sequence[0] == drawn[label]["value"]["sequence"][0]
        shown = boxes_by_frame(sequence)
        true = [corners(mask) for mask in MASKS[LABELS[label]]]
        overlaps = [
            box_iou(shown[index + 1], box) if index + 1 in shown else 0.0
            for index, box in enumerate(true)
        ]
        print(f"{label}: {len(frames)} key frames, mean box IoU {np.mean(overlaps):.3f}")
        assert np.mean(overlaps) >= 0.6
