"""What an annotator and a project lead notice of the service: messages, waiting, restarts."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from demo.api import LabelStudioApi
from demo.sample_photos import PhotoObject
from tests.e2e.editor import Editor
from tests.e2e.masks import at, brush_masks, iou, true_object
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BUD = true_object("quince.jpg", "bud")
BOWL = true_object("bowl.jpg", "bowl")
# What a connected backend may add to the opening of a task: its own limit is 0.2 s.
SLOW_SECONDS = 8.0
# A second point on the bud.
PETAL = (75.0, 30.0)


class PhotoServer(ThreadingHTTPServer):
    """Serves one photo at every address: to browsers at once, to others ``delay`` seconds later,
    or not at all while it is ``broken``."""

    broken = False
    delay = 0.0
    photo = BUD.photo.read_bytes()

    @property
    def url(self) -> str:
        """Address of the photo."""
        return f"http://127.0.0.1:{self.server_port}/photo.jpg"


class _Handler(BaseHTTPRequestHandler):
    server: PhotoServer

    def do_GET(self) -> None:  # the name is http.server's
        browser = "Mozilla" in self.headers.get("User-Agent", "")
        if not browser:
            time.sleep(self.server.delay)
            if self.server.broken:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(self.server.photo)))
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(self.server.photo)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def photos() -> Iterator[PhotoServer]:
    """A server elsewhere that Label Studio's page reads its images from."""
    with PhotoServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_error_stands_in_the_text_box_until_the_next_success(
    editor: Editor, services: Services, label_config: str, photos: PhotoServer
) -> None:
    photos.broken = True
    project = services.project("Errors, with text", label_config)
    [task] = services.api.create_tasks(project, [{"image": photos.url}])

    editor.open(project, task)
    editor.point(*BUD.click, "Flower")
    state = editor.state()
    assert state.suggestions == []
    [line] = state.text
    assert "404" in line

    photos.broken = False
    answer = editor.point(*PETAL, "Flower")
    assert len(brush_masks(answer.results)) == 1
    assert editor.state().text == []


def test_an_error_without_a_text_box_leaves_the_editor_usable(
    editor: Editor, services: Services, config_without_status: str, photos: PhotoServer
) -> None:
    photos.broken = True
    project = services.project("Errors, without text", config_without_status)
    [task] = services.api.create_tasks(project, [{"image": photos.url}])

    editor.open(project, task)
    answer = editor.point(*BUD.click, "Flower")
    assert answer.results == []
    assert editor.state().suggestions == []

    photos.broken = False
    answer = editor.point(*PETAL, "Flower")
    assert len(brush_masks(answer.results)) == 1
    editor.accept()
    assert len(editor.state().masks) == 1


def test_opening_a_task_does_not_wait_for_its_image_to_be_encoded(
    editor: Editor, services: Services, label_config: str, photos: PhotoServer
) -> None:
    """Label Studio's page waits for the backend, so the backend must not wait for the image.

    Compared with a project without a backend, opened in turn, so that a busy machine slows
    both down; one that waited would add ``SLOW_SECONDS``.
    """
    photos.delay = SLOW_SECONDS
    connected = services.project("Opening", label_config)
    alone = services.api.create_project("Opening, no backend", label_config)
    seconds: dict[int, list[float]] = {connected: [], alone: []}
    for turn in range(3):
        for project, measured in seconds.items():
            image = f"{photos.url}?{turn}"  # one that the backend has not seen
            [task] = services.api.create_tasks(project, [{"image": image}])
            measured.append(_seconds_to_open(editor, project, task))
            assert services.api.predictions(task) == []
    added = statistics.median(seconds[connected]) - statistics.median(seconds[alone])
    assert added < SLOW_SECONDS / 2


def test_clicks_go_on_after_a_restart_of_the_backend(
    editor: Editor, services: Services, label_config: str
) -> None:
    project = services.project("Restart", label_config)
    [task] = services.photo_tasks(project, BUD.photo)
    editor.open(project, task)
    [(first, _)] = brush_masks(editor.point(*BUD.click, "Flower").results)

    services.stop_backend()
    try:
        while_down = editor.point(*PETAL, "Flower")
    finally:
        services.start_backend()
    assert while_down.errors
    assert editor.state().suggestions == []  # Label Studio's page drops it, the points stay

    answer = editor.point(88.0, 20.0, "Flower")
    assert len(answer.request["context"]["result"]) == 3
    [(mask, _)] = brush_masks(answer.results)
    assert at(mask, *BUD.click)
    assert iou(mask, first) >= 0.5
    assert len(editor.state().suggestions) == 1


def test_retrieve_predictions_turns_boxes_into_masks(services: Services, label_config: str) -> None:
    project = services.project("Retrieve", label_config)
    objects = (BUD, BOWL)
    tasks = services.photo_tasks(project, *[item.photo for item in objects])
    for task, item in zip(tasks, objects, strict=True):
        _annotate_with_box(services.api, task, item)

    services.api.retrieve_predictions(project, tasks)

    for task, item in zip(tasks, objects, strict=True):
        [prediction] = services.api.predictions(task)
        [(mask, region)] = brush_masks(prediction["result"])
        assert region["value"]["brushlabels"] == [item.label]
        assert iou(mask, item.mask) >= 0.7


def _annotate_with_box(api: LabelStudioApi, task: int, item: PhotoObject) -> None:
    left, top, right, bottom = item.box
    height, width = item.mask.shape
    value = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
    result = {
        "id": "annotated-box",
        "type": "rectanglelabels",
        "from_name": "box",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, "rectanglelabels": [item.label]},
    }
    api.request("POST", f"/api/tasks/{task}/annotations/", json={"result": [result]})


def _seconds_to_open(editor: Editor, project: int, task: int) -> float:
    """How long Label Studio's page waits for the task's data."""
    with editor.page.expect_response(re.compile(rf"/api/tasks/{task}\?")) as caught:
        editor.open(project, task)
    caught.value.finished()
    return caught.value.request.timing["responseEnd"] / 1000
