"""``find`` in a real browser: what a detector finds becomes masks, and boxes that are tracked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.support.recording_server import Reply, Seen, recording_server
from demo.clip import FRAMES
from demo.projects import PHOTO_PROJECT, VIDEO_PROJECT
from tests.e2e.editor import Editor
from tests.e2e.masks import brush_masks, corners, iou, true_object
from tests.e2e.services import Services
from tests.e2e.test_e2e_video import MASKS, box_iou, boxes_by_frame

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BUD = true_object("quince.jpg", "bud")
FRAME = 9  # of the clip, from 0


class Detector:
    """Finds what it is given."""

    def __init__(self) -> None:
        self.found: list[tuple[str, tuple[float, float, float, float]]] = []
        self.asked: list[Any] = []

    def __call__(self, seen: Seen) -> Reply:
        body = json.loads(seen.body)
        self.asked.append(body["params"]["context"])
        result = [
            {
                "type": "rectanglelabels",
                "score": 0.9,
                "value": {
                    "x": left,
                    "y": top,
                    "width": right - left,
                    "height": bottom - top,
                    "rectanglelabels": [label],
                },
            }
            for label, (left, top, right, bottom) in self.found
        ]
        return Reply(200, json.dumps({"results": [{"result": result}]}).encode())


@pytest.fixture(scope="module")
def detector(services: Services) -> Iterator[Detector]:
    """A detector that the backend knows while these tests run."""
    found = Detector()
    with recording_server() as server:
        server.route("/setup", Reply(200, b"{}"))
        server.route("/predict", found)
        services.stop_backend()
        services.start_backend(DETECTOR_URL=server.url)
        yield found
        services.stop_backend()
        services.start_backend()


def test_what_is_named_gets_a_mask_that_is_saved(
    editor: Editor, services: Services, detector: Detector
) -> None:
    project = services.project("Find", PHOTO_PROJECT.label_config)
    [task] = services.photo_tasks(project, BUD.photo)
    detector.found = [("bud", BUD.box)]
    editor.open(project, task, auto_accept=True)
    answer = editor.say("find bud=Flower")
    assert detector.asked[-1]["result"][0]["value"]["text"] == ["bud"]
    [(mask, item)] = brush_masks(answer.results)
    assert item["value"]["brushlabels"] == ["Flower"]
    assert iou(mask, BUD.mask) >= 0.7
    assert [each.label for each in editor.state().masks] == ["Flower"]
    assert editor.lines("sam2_says") == ["SAM 2: found 1 Flower"]
    assert editor.lines("sam2") == []

    editor.say("find bud=Flower")  # a region of the same id would replace it
    assert editor.lines("sam2_says") == ["SAM 2: 1 is there already"]
    assert len(editor.state().masks) == 1
    editor.submit()
    [annotation] = services.api.annotations(task)
    [(saved, _)] = brush_masks(annotation["result"])
    assert iou(saved, mask) == 1.0


def test_on_a_video_what_is_found_on_a_frame_is_tracked(
    editor: Editor, services: Services, detector: Detector
) -> None:
    project, task = services.demo_task("Find on a video", VIDEO_PROJECT)
    truth = {label: corners(masks[FRAME]) for label, masks in MASKS.items()}
    detector.found = [("flower", truth["bud"])]
    editor.open(project, task)
    answer = editor.say(f"find at {FRAME + 1}")
    with editor.saved():
        pass  # with what was found
    [line] = editor.lines("sam2_says")
    assert line.startswith(f"SAM 2: found 1 Flower on frame {FRAME + 1}")
    [found] = [each for each in answer.results if each["type"] == "videorectangle"]
    [key] = found["value"]["sequence"]
    assert key["frame"] == FRAME + 1

    answer = editor.say("track")
    [tracked] = [each for each in answer.results if each["type"] == "videorectangle"]
    boxes = boxes_by_frame(tracked["value"]["sequence"])
    assert max(boxes) == FRAMES
    assert box_iou(boxes[FRAME + 1], truth["bud"]) >= 0.5
