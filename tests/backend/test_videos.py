"""``<Video>``: boxes in, tracked boxes out; commands of a region and of the whole video."""

from __future__ import annotations

import threading
import time

import pytest

from backend.labelstudio.keyframes import box_at, read_sequence
from backend.media.cache import MediaFile
from backend.tracking.owners import NO_DRAFT
from tests.pixels.clips import WIDTH, steady, write_clip
from tests.waiting import PATIENCE, until

FRAMES = 30
CONFIG = """<View>
  <Video name="video" value="$video" framerate="30"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Ball"/><Label value="Car"/></Labels>
  <TextArea name="rcmd" toName="video" perRegion="true"/>
  <TextArea name="cmd" toName="video"/>
</View>"""


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=steady(FRAMES, 30))


@pytest.fixture
def bench(make_bench, clip):
    bench = make_bench()
    bench.shelf.fetch = lambda uri, *, task_id=None: MediaFile(clip, "clip", clip.stat().st_size)
    bench.engine.wait_ready(PATIENCE)
    return bench


def keyframe(frame, x, y=20, *, enabled=True, size=(20, 30)):
    place = {"x": x, "y": y, "width": size[0], "height": size[1], "rotation": 0}
    return {"frame": frame, "enabled": enabled, "time": frame / 30, **place}


def region(identifier, *keyframes, label="Ball"):
    value = {"framesCount": FRAMES, "duration": 1.0, "sequence": list(keyframes)}
    return {
        "value": {**value, "labels": [label]},
        "id": identifier,
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "origin": "manual",
    }


def command(text, identifier=None):
    """Of the whole video, or of the region called ``identifier``."""
    return {
        "value": {"text": [text]},
        "id": identifier or "cmd-1",
        "from_name": "rcmd" if identifier else "cmd",
        "to_name": "video",
        "type": "textarea",
    }


class Editor:
    """The boxes an annotator has, replaced by id, saved in a draft."""

    def __init__(self, bench, owner=None):
        self.bench = bench
        self.owner = owner  # the number of the user; with one, an empty draft is none
        self.regions: dict[str, dict] = {}
        self.texts: list[str] = []

    def send(self, *results):
        task = {"id": 9, "data": {"video": "/data/upload/1/a.mp4"}}
        task["drafts"] = [{"id": 1, "result": list(self.regions.values())}]
        if self.owner is not None:
            named = {"user": "a@b.co", "created_username": f"a@b.co, {self.owner}"}
            task["drafts"] = [{**task["drafts"][0], **named}] if self.regions else []
        reply = self.bench.predict(list(results), task=task, config=CONFIG)
        self.texts = []
        for item in reply["result"]:
            if item["type"] == "videorectangle":
                self.regions[item["id"]] = item
            elif item["type"] == "textarea":
                self.texts += item["value"]["text"]
        return [item for item in reply["result"] if item["type"] == "videorectangle"]

    def keyframes(self, identifier):
        return read_sequence(self.regions[identifier]["value"])

    def box(self, identifier, frame):
        return box_at(self.keyframes(identifier), frame)


@pytest.fixture
def editor(bench):
    return Editor(bench)


PIXEL = 100 / WIDTH


def test_a_box_is_carried_through_the_video(editor):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    [answer] = editor.send(command("track"))
    assert (answer["id"], answer["value"]["labels"]) == ("r1", ["Ball"])
    for frame in (1, 10, 30):
        assert editor.box("r1", frame).x == pytest.approx(10 + (frame - 1) * PIXEL, abs=PIXEL)
    assert len(editor.keyframes("r1")) < 10
    assert editor.texts == ["SAM 2: frames 1-30 of 30 done"]


def test_a_job_takes_the_label_config_that_its_request_brought(editor, bench):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    editor.send(command("track"))
    editor.send(command("status"))
    assert bench.parse.cache_info().misses == 1


def test_a_human_keyframe_is_kept_exactly(editor):
    editor.regions["r1"] = region("r1", keyframe(1, 10.123), keyframe(12, 50.5))
    editor.send(command("track"))
    assert editor.box("r1", 1).x == 10.123
    assert editor.box("r1", 12).x == 50.5
    assert editor.box("r1", 20).x == pytest.approx(50.5 + 8 * PIXEL, abs=PIXEL)


def test_own_keyframes_are_not_prompts_when_they_come_back(editor, bench):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    editor.send(command("track"))
    bench.steps.clear()
    editor.send(command("track"))
    assert bench.steps == []


def test_a_correction_changes_only_what_follows(editor, bench):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    editor.send(command("track"))
    before = [editor.box("r1", frame) for frame in range(1, 15)]
    corrected = [
        {**entry} for entry in editor.regions["r1"]["value"]["sequence"] if entry["frame"] < 16
    ]
    editor.regions["r1"] = region("r1", *corrected, keyframe(16, 60))
    bench.steps.clear()
    editor.send(command("track"))
    assert min(bench.steps) >= 15  # frame 16 of the editor
    after = [editor.box("r1", frame) for frame in range(1, 15)]
    assert [box.x for box in after] == pytest.approx([box.x for box in before], abs=0.5)
    assert editor.box("r1", 20).x == pytest.approx(60 + 4 * PIXEL, abs=PIXEL)


def test_a_draft_older_than_the_last_answer_does_not_undo_a_correction(editor, bench):
    """A region command brings the boxes of now; a global one after it may bring an old draft."""
    old = region("r1", keyframe(1, 10))
    corrected = region("r1", keyframe(1, 10), keyframe(16, 60))
    editor.regions["r1"] = corrected
    editor.send(corrected, command("track", "r1"))
    task = {"id": 9, "data": {"video": "/data/upload/1/a.mp4"}}
    task["drafts"] = [{"id": 1, "result": [old], "updated_at": "2020-01-01T00:00:00Z"}]
    reply = bench.predict([command("track")], task=task, config=CONFIG)
    [answer] = [item for item in reply["result"] if item["type"] == "videorectangle"]
    assert box_at(read_sequence(answer["value"]), 16).x == 60


def test_two_objects_keep_their_ids_and_labels(editor):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    editor.regions["r2"] = region("r2", keyframe(5, 60, 50), label="Car")
    answers = editor.send(command("track"))
    assert {a["id"]: a["value"]["labels"] for a in answers} == {"r1": ["Ball"], "r2": ["Car"]}
    assert editor.box("r2", 4) is None
    assert editor.box("r2", 9).y == pytest.approx(50, abs=1)


def test_a_command_of_a_region_tracks_only_it_and_answers_there(editor):
    one, two = region("r1", keyframe(1, 10)), region("r2", keyframe(1, 60), label="Car")
    editor.regions |= {"r1": one, "r2": two}
    [answer] = editor.send(one, command("track", "r1"))
    assert answer["id"] == "r1"
    assert editor.texts == ["SAM 2: frames 1-30 of 30 done"]


def test_relabelling_a_box_tracks_the_boxes_of_that_label(editor):
    one = region("r1", keyframe(1, 10), label="Car")
    editor.regions["r1"] = one
    [answer] = editor.send(one)
    assert answer["value"]["labels"] == ["Car"]
    assert editor.box("r1", 30).x > 20


def test_a_range_and_an_end(editor):
    editor.regions["r1"] = region("r1", keyframe(10, 10))
    editor.send(command("track 5-15"))
    assert editor.box("r1", 4) is None
    assert editor.box("r1", 5) is not None
    assert editor.box("r1", 15) is not None
    assert editor.box("r1", 16) is None


def test_an_object_that_ends_is_not_tracked_on(editor):
    editor.regions["r1"] = region("r1", keyframe(1, 10), keyframe(8, 20, enabled=False))
    editor.send(command("track"))
    assert editor.box("r1", 8) is not None
    assert editor.box("r1", 9) is None


def test_retrieve_predictions_tracks_existing_boxes_both_ways(bench):
    boxes = [region("r1", keyframe(10, 10))]
    tasks = [
        {"id": 9, "data": {"video": "/a.mp4"}, "predictions": [{"id": 3, "result": boxes}]},
        {"id": 10, "data": {"video": "/a.mp4"}},
    ]
    body = {"tasks": tasks, "project": "1.1", "label_config": CONFIG, "params": {"context": None}}
    first, second = bench.client.post("/predict", json=body).json["results"]
    assert second == []
    [tracked] = first["result"]
    keyframes = read_sequence(tracked["value"])
    assert box_at(keyframes, 1).x == pytest.approx(10 - 9 * PIXEL, abs=PIXEL)
    assert box_at(keyframes, 30).x == pytest.approx(10 + 20 * PIXEL, abs=PIXEL)


def test_every_video_of_a_task_is_retrieved(bench):
    second = CONFIG.replace('name="', 'name="second_').replace('toName="video"', 'toName="second"')
    second = second.replace('"second_video"', '"second"').replace("$video", "$other")
    config = CONFIG.replace("</View>", second.replace("<View>", ""))
    other = region("r2", keyframe(10, 50)) | {"from_name": "second_box", "to_name": "second"}
    boxes = [region("r1", keyframe(10, 10)), other]
    data = {"video": "/a.mp4", "other": "/b.mp4"}
    tasks = [
        {"id": 9, "data": data, "predictions": [{"id": 3, "result": boxes}]},
        {"id": 10, "data": data},
    ]
    body = {"tasks": tasks, "project": "1.1", "label_config": config, "params": {"context": None}}
    first, _ = bench.client.post("/predict", json=body).json["results"]
    tracked = {item["id"]: item for item in first["result"]}
    assert {name: item["to_name"] for name, item in tracked.items()} == {
        "r1": "video",
        "r2": "second",
    }
    for name, x in (("r1", 10), ("r2", 50)):
        shown = box_at(read_sequence(tracked[name]["value"]), 20)
        assert shown.x == pytest.approx(x + 10 * PIXEL, abs=PIXEL)


def test_many_retrieved_videos_are_stored_one_by_one(bench):
    tasks = [
        {
            "id": number,
            "data": {"video": "/a.mp4"},
            "predictions": [{"id": number, "result": [region(f"r{number}", keyframe(10, 10))]}],
        }
        for number in range(1, 6)
    ]
    body = {"tasks": tasks, "project": "1.1", "label_config": CONFIG, "params": {"context": None}}
    bench.track_hold.clear()
    assert bench.client.post("/predict", json=body).json["results"] == [[]] * 5
    bench.track_hold.set()
    until(lambda: len(bench.published) == 5)
    assert sorted(each["task"] for each in bench.published) == [1, 2, 3, 4, 5]


def test_opening_a_video_task_tracks_nothing(bench):
    task = {"id": 9, "data": {"video": "/a.mp4"}}
    task["annotations"] = [{"id": 3, "result": [region("r1", keyframe(10, 10))]}]
    body = {"tasks": [task], "project": "1.1", "label_config": CONFIG}
    assert bench.client.post("/predict", json=body).json["results"] == [[]]
    assert bench.store.jobs() == []


def test_reasons_and_help(editor, bench):
    editor.send(command("track"))
    assert "draw one" in editor.texts[0]
    editor.send(command("help"))
    assert "track both" in editor.texts[0]
    editor.send(command("just a note"))
    assert editor.texts == []
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    editor.send(command("track 50-60"))
    assert "frames are 1-30" in editor.texts[0]


def test_a_note_on_the_video_is_never_replaced(editor):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    item = command("track")
    item["value"]["text"] = ["a note of mine", "track"]
    [answer] = editor.send(item)
    assert answer["id"] == "r1"
    note, status = editor.texts
    assert note == "a note of mine"
    assert status.startswith("SAM 2: ")


def test_a_command_of_a_box_is_gone_with_the_answer(editor):
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    for typed, part in [("trck", "did you mean track?"), ("help", "stride=3"), ("track", "done")]:
        item = command(typed, "r1")
        item["value"] |= editor.regions["r1"]["value"]
        [answer] = editor.send(editor.regions["r1"], item)
        assert answer["id"] == "r1"  # comes back without its text
        [status] = editor.texts
        assert part in status


def test_a_file_that_is_no_video_is_told(editor, bench, tmp_path):
    fake = tmp_path / "page.mp4"
    fake.write_text("<html>log in</html>", encoding="utf-8")
    bench.shelf.fetch = lambda uri, *, task_id=None: MediaFile(fake, "x", 10)
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    editor.send(command("track"))
    assert editor.texts[0].startswith("SAM 2: ")


def test_a_long_track_is_stored_when_it_ends(make_bench, clip):
    bench = make_bench(track_budget_seconds=0.3)
    bench.shelf.fetch = lambda uri, *, task_id=None: MediaFile(clip, "clip", 1)
    bench.engine.wait_ready(PATIENCE)
    editor = Editor(bench)
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    bench.track_hold.clear()
    editor.send(command("track"))
    assert "type status" in editor.texts[0]
    bench.track_hold.set()
    until(lambda: bench.published)
    until(lambda: not bench.store.due())
    [stored] = bench.published[0]["result"]
    assert stored["id"] == "r1"
    assert box_at(read_sequence(stored["value"]), 30).x > 20
    editor.send(command("status"))
    assert editor.box("r1", 30).x > 20


def test_a_result_waits_longer_for_its_video_than_a_reply_would(make_bench, clip, caplog):
    """The file may have left the cache while it was tracked."""
    bench = make_bench(track_budget_seconds=0.3)
    bench.engine.wait_ready(PATIENCE)
    slow = threading.Event()

    def fetch(uri, *, task_id=None):
        if slow.is_set():
            time.sleep(1)
        return MediaFile(clip, "clip", 1)

    bench.shelf.fetch = fetch
    editor = Editor(bench)
    editor.regions["r1"] = region("r1", keyframe(1, 10))
    bench.track_hold.clear()
    editor.send(command("track"))
    slow.set()
    bench.track_hold.set()
    until(lambda: bench.published)
    assert "could not be delivered" not in caplog.text


def test_what_is_retrieved_too_late_for_the_reply_is_stored(make_bench, clip):
    bench = make_bench(retrieve_budget_seconds=0.3)
    bench.shelf.fetch = lambda uri, *, task_id=None: MediaFile(clip, "clip", 1)
    bench.engine.wait_ready(PATIENCE)
    boxes = [region("r1", keyframe(10, 10))]
    task = {"id": 9, "data": {"video": "/a.mp4"}, "predictions": [{"id": 3, "result": boxes}]}
    body = {"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {"context": None}}
    bench.track_hold.clear()
    assert bench.client.post("/predict", json=body).json["results"] == [[]]
    assert bench.published == []
    bench.track_hold.set()
    until(lambda: bench.published)
    [stored] = bench.published
    assert stored["task"] == 9
    assert box_at(read_sequence(stored["result"][0]["value"]), 30).x > 20
    until(lambda: not bench.store.due())
    assert len(bench.published) == 1


def test_two_annotators_have_tracks_of_their_own(bench):
    anna, bert = Editor(bench, owner=1), Editor(bench, owner=2)
    anna.regions["r1"] = region("r1", keyframe(1, 10))
    anna.send(command("track"))
    tracked = anna.regions["r1"]
    for word in ("status", "track", "clear"):
        assert bert.send(command(word)) == []
        assert word == "clear" or NO_DRAFT in bert.texts[0]
    bert.regions["r1"] = region("r1", keyframe(1, 10))  # even under the same id
    bert.send(command("track"))
    steps = len(bench.steps)
    assert steps > FRAMES
    bert.send(command("clear"))
    [again] = anna.send(command("status"))
    assert again["value"] == tracked["value"]
    anna.send(command("track"))
    assert len(bench.steps) == steps


def test_a_box_tracked_before_there_was_a_draft_is_gone_on_with(bench):
    """The request itself holds the box, and its draft holds it later."""
    for owner, name in ((1, "r1"), (2, "r2")):
        person = Editor(bench, owner=owner)
        [answer] = person.send(region(name, keyframe(1, 10)), command("track", name))
        assert len(answer["value"]["sequence"]) > 1
        steps = len(bench.steps)
        person.send(command("track"))
        assert len(bench.steps) == steps
        assert "30 of 30 done" in person.texts[0]
