"""A run whose prompts come from a detector on loopback, over a fake model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.labelstudio.detector_client import DetectorClient, DetectorError
from backend.labelstudio.keyframes import box_at, read_sequence
from backend.runs.run import ATTEMPTS
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, recording_server
from tests.command_line import LabelStudio, use_fake_model
from tests.labelstudio.masks import region_mask
from tests.pixels.clips import HEIGHT as CLIP_HEIGHT
from tests.pixels.clips import WIDTH as CLIP_WIDTH
from tests.pixels.clips import number_of, steady, write_clip
from tests.runs.service import Service, pages_of, running_service, stored

WIDTH, HEIGHT, PAGES, FRAMES = 60, 40, 6, 30
IMAGE = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
</View>"""
SEQUENCE = IMAGE.replace('value="$image"', 'valueList="$frames"')
VIDEO = """<View>
  <Video name="video" value="$video" framerate="30"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Cat"/><Label value="Dog"/></Labels>
</View>"""
Found = list[dict[str, Any]]


def rectangle(label: str, x: float, y: float, width: float, height: float, **more: Any) -> Any:
    value = {"x": x, "y": y, "width": width, "height": height, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "value": value, "score": 0.9, **more}


class Detector:
    """Finds what ``find`` says for a picture; ``asked`` are the numbers of the pictures, which are
    grey by page or carry their frame's number."""

    def __init__(self, server: RecordingServer) -> None:
        self.find: Callable[[int], Found] = lambda number: []
        self.asked: list[int] = []
        self.contexts: list[Any] = []
        self.status = 200
        server.route("/setup", Reply(200, b"{}"))
        server.route("/predict", self._predict)

    def _predict(self, seen: Seen) -> Reply:
        if self.status != 200:
            return Reply(self.status)
        body = json.loads(seen.body)
        [address] = body["tasks"][0]["data"].values()
        file = io.BytesIO(base64.b64decode(address.partition(",")[2]))
        pixels = np.asarray(Image.open(file))
        clip = pixels.shape[:2] == (CLIP_HEIGHT, CLIP_WIDTH)
        number = number_of(pixels) if clip else round(float(pixels.mean()) / 10)
        self.asked.append(number)
        self.contexts.append(body["params"]["context"])
        return Reply(200, json.dumps({"results": [{"result": self.find(number)}]}).encode())


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Detector]:
    with recording_server() as server:
        monkeypatch.setenv("DETECTOR_URL", server.url)
        yield Detector(server)


@pytest.fixture
def service(
    label_studio: LabelStudio, run: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    use_fake_model(monkeypatch)
    with running_service() as service:
        yield service


@pytest.fixture
def addresses(label_studio: LabelStudio, tmp_path: Path) -> list[str]:
    return pages_of(label_studio, tmp_path, PAGES, (WIDTH, HEIGHT))


def test_on_pictures_boxes_become_masks(
    service: Service, label_studio: LabelStudio, addresses: list[str], detector: Detector
) -> None:
    label_studio.add_project(5, IMAGE)
    for task in (1, 2):
        label_studio.add_task(task, 5, {"image": addresses[task]})
    detector.find = lambda number: (
        [rectangle("cat", 10, 10, 30, 50), rectangle("DOG", 50, 10, 20, 50)] if number == 1 else []
    )
    run = service.run(source="detector", concurrency=1)
    results = stored(label_studio, 1)["result"]
    assert [each["value"]["brushlabels"] for each in results] == [["Cat"], ["Dog"]]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[4:24, 6:24] = True
    assert (region_mask(results[0]) == expected).all()
    assert len({each["id"] for each in results}) == 2
    assert detector.contexts == [None, None]
    assert label_studio.tasks[2]["predictions"] == []
    assert service.messages(run["id"])[2] == "nothing was found"


def test_what_is_looked_for_and_how_many(
    service: Service, label_studio: LabelStudio, addresses: list[str], detector: Detector
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(1, 5, {"image": addresses[1]})
    detector.find = lambda number: [
        rectangle("tabby", 10, 10, 30, 50, score=0.5),
        rectangle("poodle", 50, 10, 20, 50),
        rectangle("kite", 80, 10, 10, 50),
    ]
    service.run(source="detector", text="tabby=Cat, poodle", label="Dog", cap=2)
    results = stored(label_studio, 1)["result"]
    assert [each["value"]["brushlabels"] for each in results] == [["Dog"], ["Dog"]]
    text = detector.contexts[0]["result"][0]["value"]["text"]
    assert text == ["tabby . poodle"]


def test_what_has_no_label_is_said(
    service: Service, label_studio: LabelStudio, addresses: list[str], detector: Detector
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(1, 5, {"image": addresses[1]})
    detector.find = lambda number: [rectangle("kite", 10, 10, 30, 50)]
    run = service.run(source="detector")
    assert "no label for 1 kite" in service.messages(run["id"])[1]


def test_on_sequences_what_is_new_joins(
    service: Service, label_studio: LabelStudio, addresses: list[str], detector: Detector
) -> None:
    """The fake model moves what it tracks by one pixel of 60 a page."""
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, {"frames": addresses})

    def find(page: int) -> Found:
        found = [rectangle("cat", 10 + 100 * page / WIDTH, 10, 30, 40)]
        return [*found, rectangle("dog", 60, 50, 20, 40)] if page >= 2 else found

    detector.find = find
    service.run(source="detector", every=2, direction="forward")
    assert detector.asked == [0, 2, 4]
    pages: dict[str, list[int]] = {"Cat": [], "Dog": []}
    for each in stored(label_studio, 7)["result"]:
        pages[each["value"]["brushlabels"][0]].append(each["item_index"])
    assert {label: sorted(found) for label, found in pages.items()} == {
        "Cat": [0, 1, 2, 3, 4, 5],
        "Dog": [2, 3, 4, 5],
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=steady(FRAMES, 30))


@pytest.mark.parametrize(("direction", "first"), [("forward", 16), ("both", 1)])
def test_an_object_that_enters_late_is_found_and_tracked(
    service: Service,
    label_studio: LabelStudio,
    detector: Detector,
    clip: Path,
    direction: str,
    first: int,
) -> None:
    label_studio.add_project(5, VIDEO)
    address = label_studio.serve("/data/upload/5/a.mp4", clip)
    label_studio.add_task(7, 5, {"video": address})

    def find(frame: int) -> Found:
        """A cat all the time, a dog from frame 12 (of the file) on; both go right as the fake model
        expects, a pixel a frame."""
        moved = 100 * frame / CLIP_WIDTH
        found = [rectangle("cat", 5 + moved, 10, 20, 30)]
        return [*found, rectangle("dog", 40 + moved, 50, 20, 30)] if frame >= 12 else found

    detector.find = find
    service.run(source="detector", every=5, direction=direction)
    assert detector.asked == [0, 5, 10, 15, 20, 25]
    boxes = {
        each["value"]["labels"][0]: read_sequence(each["value"])
        for each in stored(label_studio, 7)["result"]
    }
    assert set(boxes) == {"Cat", "Dog"}
    assert len(stored(label_studio, 7)["result"]) == 2
    assert (boxes["Cat"][0].frame, boxes["Dog"][0].frame) == (1, first)
    at_20 = box_at(boxes["Dog"], 20)
    assert at_20 is not None
    assert at_20.x == pytest.approx(40 + 100 * 19 / CLIP_WIDTH, abs=0.6)


def test_a_run_waits_for_a_detector_that_is_away(
    service: Service, label_studio: LabelStudio, addresses: list[str], detector: Detector
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(1, 5, {"image": addresses[1]})
    detector.find = lambda number: [rectangle("cat", 10, 10, 30, 50)]
    detector.status = 503
    name = service.start(source="detector")
    waiting = service.until(name, lambda now: now["state"] == "waiting")
    assert "answered 503" in waiting["message"]
    detector.status = 200
    service.ended(name)
    assert len(stored(label_studio, 1)["result"]) == 1


def test_a_detector_that_fails_on_a_picture_fails_that_task(
    service: Service, label_studio: LabelStudio, addresses: list[str], detector: Detector
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(1, 5, {"image": addresses[1]})
    detector.status = 422
    name = service.start(source="detector")
    service.until(name, lambda now: now["state"] in ("done", "failed"))
    assert "answered 422" in service.messages(name)[1]


def test_a_picture_that_a_detector_is_always_late_with_fails_and_the_run_goes_on(
    service: Service,
    label_studio: LabelStudio,
    addresses: list[str],
    detector: Detector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label_studio.add_project(5, IMAGE)
    for number in (1, 2):
        label_studio.add_task(number, 5, {"image": addresses[number]})
    detector.find = lambda number: [rectangle("cat", 10, 10, 30, 50)]
    client, late_with = service.dispatcher.finder.check(), [1, 2]
    asked: list[int] = []

    def predict(task: Any, *args: Any) -> Any:
        asked.append(task["id"])
        if task["id"] in late_with:
            raise DetectorError(
                "The detector did not answer within 100 s.", passing=True, late=True
            )
        return DetectorClient.predict(client, task, *args)

    def gone() -> str:
        raise DetectorError("The detector cannot be reached.", passing=True)

    monkeypatch.setattr(client, "predict", predict)
    monkeypatch.setattr(client, "check", gone)
    name = service.start(source="detector", concurrency=1)
    service.until(name, lambda now: now["state"] == "waiting" and len(asked) > 2 * ATTEMPTS)
    late_with.remove(2)
    monkeypatch.setattr(client, "check", lambda: "")
    service.ended(name)
    assert service.messages(name)[1].startswith("failed: The detector did not answer within 100 s.")
    assert len(stored(label_studio, 2)["result"]) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"text": "a cat. And more"}, "text must be names of at most five words"),
        ({"text": "cat at 5"}, "text must be names of at most five words"),
    ],
)
def test_a_text_that_names_nothing_is_refused(
    service: Service, label_studio: LabelStudio, options: dict[str, Any], reason: str
) -> None:
    label_studio.add_project(5, IMAGE)
    reply = service.client.post("/runs", json={"project": 5, "source": "detector", **options})
    assert reply.status_code == 400
    assert reason in reply.text


def test_an_address_given_with_a_run_is_not_heard_of(
    service: Service, label_studio: LabelStudio, detector: Detector
) -> None:
    label_studio.add_project(5, IMAGE)
    for name in ("detector_url", "url", "detector"):
        body = {"project": 5, "source": "detector", name: "http://10.0.0.1:9091"}
        reply = service.client.post("/runs", json=body)
        assert reply.status_code == 400, name
        assert name in reply.text
    assert service.client.post(
        "/runs", json={"project": 5, "source": "http://10.0.0.1:9091"}
    ).status_code == 400  # fmt: skip


def test_without_a_detector_there_is_no_such_run(
    label_studio: LabelStudio, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_model(monkeypatch)
    label_studio.add_project(5, IMAGE)
    with running_service() as service:
        reply = service.client.post("/runs", json={"project": 5, "source": "detector"})
        assert reply.status_code == 400
        assert "no detector is connected: the operator sets DETECTOR_URL" in reply.text
