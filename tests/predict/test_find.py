"""``find``, typed into the text box, with a detector on loopback and a fake model."""

from __future__ import annotations

import base64
import io
import json
import threading
from contextlib import ExitStack

import pytest
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from backend.labelstudio.commands import STATUS_PREFIX
from backend.media.cache import MediaFile
from backend.predict.find import OFFERED
from benchmarks.support.recording_server import Reply, recording_server
from tests.backend.conftest import CONFIG, click
from tests.pixels.clips import steady, write_clip
from tests.waiting import LONGER, PATIENCE

SEQUENCE = CONFIG.replace('value="$image"', 'valueList="$pages"').replace(
    '<TextArea name="status"', '<TextArea name="cmd" toName="image"/>\n<TextArea name="status"'
)
TYPED = CONFIG.replace(
    '<TextArea name="status"', '<TextArea name="cmd" toName="image"/>\n<TextArea name="status"'
)
VIDEO = """<View>
  <Video name="video" value="$video" framerate="30"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Cat"/><Label value="Dog"/></Labels>
  <TextArea name="rcmd" toName="video" perRegion="true"/>
  <TextArea name="cmd" toName="video"/>
</View>"""
FRAMES = 30


class Detector:
    """Answers with the boxes of ``found``, and keeps what it was asked."""

    def __init__(self, server):
        self.server = server
        self.url = server.url
        self.asked = []
        self.found = [rectangle(10, 20, 30, 40), rectangle(60, 20, 20, 40, "dog", 0.5)]
        self.pictures = []
        self.fetch = None
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()
        server.route("/setup", Reply(200, b"{}"))
        server.route("/predict", self.predict)

    def predict(self, seen):
        body = json.loads(seen.body)
        self.asked.append(body)
        [address] = body["tasks"][0]["data"].values()
        if address.startswith("data:"):
            file = base64.b64decode(address.partition(",")[2])
        else:
            file = self.fetch(address)
        self.pictures.append(Image.open(io.BytesIO(file)))
        assert self.hold.wait(LONGER)
        answer = {"results": [{"result": self.found}]}
        return Reply(self.status, json.dumps(answer).encode())


def rectangle(x, y, width, height, label="cat", score=0.9):
    value = {"x": x, "y": y, "width": width, "height": height, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "from_name": "b", "to_name": "i", "score": score,
            "value": value, "id": f"{x}-{label}"}  # fmt: skip


@pytest.fixture
def detector():
    with recording_server() as server:
        found = Detector(server)
        yield found
        found.hold.set()


def typed(text, page=None, name="cmd", to_name="image", identifier="t"):
    item = {"type": "textarea", "from_name": name, "to_name": to_name, "id": identifier}
    return {**item, "value": {"text": [text]}} | ({} if page is None else {"item_index": page})


@pytest.fixture
def find(make_bench, detector):
    """``find("find cat")``: the masks by label and box, and what is said."""
    benches = []

    def send(text, *, config=TYPED, task=None, page=None, **settings):
        if not benches:
            benches.append(make_bench(**{"detector_url": detector.url, **settings}))
        reply = benches[0].predict([typed(text, page)], config=config, task=task)["result"]
        said = [each["value"]["text"] for each in reply if each["type"] == "textarea"]
        masks = [each for each in reply if each["type"] == "brushlabels"]
        return masks, " ".join(said[0]).removeprefix(STATUS_PREFIX)

    send.benches = benches
    return send


def test_boxes_become_masks_of_their_labels(find, detector):
    masks, said = find("find")
    assert [each["value"]["brushlabels"] for each in masks] == [["Cat"], ["Dog"]]
    assert all(each["value"]["rle"] and each["score"] == pytest.approx(0.9) for each in masks)
    assert (masks[0]["original_width"], masks[0]["original_height"]) == (300, 200)
    assert said == "found 1 Cat, 1 Dog"
    boxes = [call["box"].tolist() for call in find.benches[0].predictor.calls]
    assert boxes == [[30, 40, 120, 120], [180, 40, 240, 120]]
    [asked] = detector.asked
    assert asked["params"]["context"] is None
    assert asked["label_config"] == TYPED
    assert detector.pictures[0].size == (300, 200)
    assert find.benches[0].metrics.mean_seconds("detect") > 0


def test_what_is_named_is_asked_for(find, detector):
    detector.found = [rectangle(10, 20, 30, 40, "tabby"), rectangle(60, 20, 20, 40, "poodle")]
    masks, said = find("find tabby=Cat, poodle")
    context = detector.asked[0]["params"]["context"]
    assert context["result"][0]["value"]["text"] == ["tabby . poodle"]
    assert [each["value"]["brushlabels"] for each in masks] == [["Cat"]]
    assert said == (
        "found 1 Cat; no label for 1 poodle: name one, as in find poodle=Cat, or set "
        "DETECTOR_LABELS"
    )


def test_settings_name_labels_and_the_least_score(find, detector):
    detector.found = [rectangle(10, 20, 30, 40, "tabby"), rectangle(60, 20, 20, 40, "dog", 0.5)]
    masks, said = find("find", detector_labels=(("Tabby", "Cat"),), detector_score=0.6)
    assert [each["value"]["brushlabels"] for each in masks] == [["Cat"]]
    assert said == "found 1 Cat; 1 less sure than 0.6 are left out"


def test_found_again_it_is_there_already(find, detector):
    masks, _ = find("find")
    task = {"id": 7, "data": {"image": "/data/upload/1/a.png"}}
    again, said = find("find", task={**task, "drafts": [{"id": 1, "result": masks[:1]}]})
    assert (len(again), said) == (0, "2 are there already")  # the second was sent just now
    find.benches[0].now += 60
    again, said = find("find", task={**task, "drafts": [{"id": 1, "result": masks[:1]}]})
    assert said == "found 1 Dog; 1 is there already"
    assert [each["id"] for each in again] == [masks[1]["id"]]


def test_nothing_is_found(find, detector):
    detector.found = []
    assert find("find") == (
        [],
        "the detector finds nothing; some need to be told what to look for, as in find person, dog",
    )
    assert find("find dog")[1] == "the detector finds nothing"


def test_without_a_detector_it_says_so(find, detector):
    masks, said = find("find", detector_url=None)
    assert not masks
    assert said == (
        "no detector is connected: the operator sets DETECTOR_URL to another ML backend"
    )


def test_a_detector_that_fails_is_named_with_the_fix(find, detector):
    detector.status = 500
    masks, said = find("find")
    assert not masks
    assert said.startswith("the detector at http://127.0.0.1:")
    assert said.endswith("answered 500 Internal Server Error: its own log says why.")


def test_a_detector_that_takes_long_ends_with_the_budget(find, detector):
    detector.hold.clear()
    masks, said = find("find", click_budget_seconds=2.0)
    assert not masks
    assert "try again" in said


def test_a_click_need_not_wait_for_a_detector(find, detector):
    find("find")
    bench = find.benches[0]
    detector.hold.clear()
    asking = threading.Thread(target=find, args=("find cat",))
    asking.start()
    try:
        reply = bench.predict([click(50, 50)], config=TYPED)["result"]
        assert [each["type"] for each in reply] == ["brushlabels", "textarea"]
        assert asking.is_alive()
    finally:
        detector.hold.set()
        asking.join(PATIENCE)


def test_pictures_are_fetched_from_here_while_the_detector_is_asked(find, detector):
    seen = []

    def fetch(address):
        path = address.removeprefix("http://sam2:9090")
        seen.append(path)
        reply = find.benches[0].client.get(path)
        assert (reply.status_code, reply.mimetype) == (200, "image/jpeg")
        return reply.data

    detector.fetch = fetch
    masks, _ = find("find", detector_fetch_url="http://sam2:9090")
    assert len(masks) == 2
    assert detector.pictures[0].size == (300, 200)
    gone = find.benches[0].client.get(seen[0])
    assert gone.status_code == 404


def test_pictures_are_offered_without_credentials_by_name_only(make_bench):
    bench = make_bench(basic_auth_user="ada", basic_auth_pass="lovelace")
    pictures = bench.finder.pictures
    with pictures.offering(b"a picture") as name:
        assert len(name) == 32
        assert bench.client.get(f"/pictures/{name}.jpg").data == b"a picture"
        for path in (name, f"{name}x.jpg", ".jpg", f"../jobs?{name}.jpg", f"{name[:-1]}.jpg"):
            assert bench.client.get(f"/pictures/{path}").status_code in (401, 404)
    assert bench.client.get(f"/pictures/{name}.jpg").status_code == 404


def test_no_more_pictures_are_offered_than_a_bound(make_bench):
    pictures = make_bench().finder.pictures
    with ExitStack() as held:
        names = [held.enter_context(pictures.offering(b"a")) for _ in range(OFFERED + 1)]
        assert [pictures.get(name) is not None for name in names] == [False, *OFFERED * [True]]


class TestSequences:
    TASK = {"id": 7, "data": {"pages": [f"/data/upload/1/{n}.png" for n in range(4)]}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("text", "page", "result", "at"),
        [
            ("find", None, [], 1),
            ("find", 2, [], 3),
            ("find at 4", 2, [], 4),
            ("find", None, [{"id": "x", "item_index": 1}], 2),
        ],
        ids=["first", "of the text box", "named", "of the newest region"],
    )
    def test_the_page_at_hand(self, find, detector, text, page, result, at):
        task = {**self.TASK, "drafts": [{"id": 1, "result": result}]}
        masks, said = find(text, config=SEQUENCE, task=task, page=page)
        assert said == f"found 1 Cat, 1 Dog on page {at}"
        assert [each["item_index"] for each in masks] == [at - 1, at - 1]
        assert find.benches[0].shelf.fetched[0] == f"/data/upload/1/{at - 1}.png"
        [asked] = detector.asked
        assert set(asked["tasks"][0]["data"]) == {"image"}
        assert "valueList" not in asked["label_config"]

    def test_a_page_that_there_is_not(self, find, detector):
        assert find("find at 5", config=SEQUENCE, task=self.TASK) == (
            [],
            "there is no page 5: the pages are 1-4",
        )
        assert not detector.asked

    def test_what_was_found_is_tracked_on(self, find, detector):
        masks, _ = find("find cat", config=SEQUENCE, task=self.TASK)
        drafts = [{"id": 1, "result": masks}]
        tracked, _ = find("track", config=SEQUENCE, task={**self.TASK, "drafts": drafts})
        assert {each["item_index"] for each in tracked} == {1, 2, 3}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=steady(FRAMES, 30))


class TestVideos:
    @pytest.fixture
    def bench(self, make_bench, detector, clip):
        bench = make_bench(detector_url=detector.url)
        found = MediaFile(clip, "clip", clip.stat().st_size)
        bench.shelf.fetch = lambda uri, *, task_id=None: found
        return bench

    def send(self, bench, *results, drafts=()):
        task = {"id": 9, "data": {"video": "/data/upload/1/a.mp4"}}
        task["drafts"] = [{"id": 1, "result": list(drafts)}]
        reply = bench.predict(list(results), task=task, config=VIDEO)["result"]
        boxes = [each for each in reply if each["type"] == "videorectangle"]
        said = [each["value"]["text"] for each in reply if each["type"] == "textarea"]
        return boxes, " ".join(said[0]).removeprefix(STATUS_PREFIX) if said else None

    def test_boxes_on_a_frame_which_track_carries_on(self, bench, detector):
        boxes, said = self.send(bench, typed("find at 11", to_name="video"))
        assert said == "found 1 Cat, 1 Dog on frame 11; wait 5 seconds, then track"
        assert [each["value"]["labels"] for each in boxes] == [["Cat"], ["Dog"]]
        [key] = boxes[0]["value"]["sequence"]
        assert (key["frame"], key["enabled"]) == (11, True)
        assert [round(key[side]) for side in ("x", "y", "width", "height")] == [10, 20, 30, 40]
        assert boxes[0]["value"]["framesCount"] == FRAMES
        tracked, _ = self.send(bench, typed("track", to_name="video"), drafts=boxes)
        assert [each["id"] for each in tracked] == [each["id"] for each in boxes]
        assert all(len(each["value"]["sequence"]) > 1 for each in tracked)

    def test_a_box_of_its_own_says_which_frame(self, bench, detector):
        place = {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0}
        sequence = [{"frame": 7, "enabled": True, "time": 7 / 30, **place}]
        value = {"framesCount": FRAMES, "duration": 1.0, "sequence": sequence, "labels": ["Cat"]}
        drawn = {"id": "r", "type": "videorectangle", "from_name": "box", "to_name": "video"}
        drawn["value"] = value
        word = {**typed("find", name="rcmd", to_name="video"), "id": "r"}
        boxes, _ = self.send(bench, drawn, word)
        found = [each for each in boxes if each["id"] != "r"]
        assert [each["value"]["sequence"][0]["frame"] for each in found] == [7, 7]
        assert "r" in {each["id"] for each in boxes}

    def test_without_either_it_is_the_first(self, bench, detector):
        _, said = self.send(bench, typed("find", to_name="video"))
        assert said.startswith("found 1 Cat, 1 Dog on frame 1;")

    def test_a_frame_that_there_is_not(self, bench, detector):
        _, said = self.send(bench, typed("find at 31", to_name="video"))
        assert said == "there is no frame 31: the frames are 1-30"


def test_a_backend_that_reads_as_grounding_sam_does(find, detector):
    """HumanSignal's example (label-studio-ml-backend, commit d02cedf): nothing without a context;
    the first text of the first result; the first RectangleLabels and BrushLabels on an Image,
    found with the SDK; the picture downloaded; boxes that have no label."""
    asked = []

    def predict(seen):
        body = json.loads(seen.body)
        context = body["params"].pop("context")
        asked.append(body["project"].split(".", 1)[0])
        if not context or not context.get("result"):
            return Reply(200, b'{"results": []}')
        interface = LabelInterface(body["label_config"])
        control, image, key = interface.get_first_tag_occurence("RectangleLabels", "Image")
        interface.get_first_tag_occurence("BrushLabels", "Image")
        caption = context["result"][0]["value"]["text"][0]
        path = body["tasks"][0]["data"][key].removeprefix("http://sam2:9090")
        file = find.benches[0].client.get(path).data
        width, height = Image.open(io.BytesIO(file)).size
        asked.append(caption)
        region = {
            "id": "0a1b2c3d4",
            "from_name": control,
            "to_name": image,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"rotation": 0, "width": 30.0, "height": 40.0, "x": 10.0, "y": 20.0},
            "score": 0.5,
            "type": "rectanglelabels",
            "readonly": False,
        }
        answer = {"result": [region], "score": 0.5, "model_version": "DINOBackend-v0.0.1"}
        return Reply(200, json.dumps({"results": [answer]}).encode())

    detector.server.route("/predict", predict)
    settings = {"detector_fetch_url": "http://sam2:9090"}
    for config, data in ((TYPED, {"image": "/a.png"}), (SEQUENCE, {"pages": ["/a.png"]})):
        task = {"id": 7, "data": data}
        masks, said = find("find", config=config, task=task, **settings)
        assert (masks, said.partition(";")[2]) == (
            [],
            " some need to be told what to look for, as in find person, dog",
        )
        masks, said = find("find tabby=Cat", config=config, task=task)
        assert [each["value"]["brushlabels"] for each in masks] == [["Cat"]]
        _, said = find("find cat, dog", config=config, task=task)
        assert said == ("1 came without a label: look for one thing at a time, such as find person")
        find.benches[0].now += 60
    assert asked == 2 * ["1", "1", "tabby", "1", "cat . dog"]
