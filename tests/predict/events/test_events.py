"""One event, one reply: what the public example documents, and what it gets wrong."""

from __future__ import annotations

import pytest

from backend.predict.events.messages import read_context
from tests.pixels.clips import HEIGHT, WIDTH
from tests.predict.events.conftest import (
    CONFIG,
    FRAMES,
    Editor,
    box,
    left_of,
    mask_of,
    point,
)
from tests.waiting import until

PICTURE = """<View><Image name="image" value="$image"/>
<BitmaskLabels name="mask" toName="image"><Label value="Cat"/></BitmaskLabels></View>"""


class TestCapabilities:
    def test_prompts_targets_and_model(self, editor, bench):
        value = editor.value("capabilities")
        assert value["prompts"] == ["point", "box"]
        tracked = {t["tag"] for t in value["targets"] if "track" in t.get("features", ())}
        assert tracked == {"VideoRectangle", "VideoVectorLabels"}
        assert {t["output"] for t in value["targets"]} == {"mask", "bbox", "polygon"}
        assert value["model_info"] == {"name": "SAM2", "version": bench.engine.model_version}

    def test_it_needs_neither_task_nor_label_config(self, bench):
        editor = Editor(bench, config="<View")
        [prediction] = editor.post({"event": "capabilities"}, tasks=[])["results"]
        assert prediction["result"][0]["type"] == "capabilities"


class TestPrewarm:
    def test_frames_in_the_direction_of_travel(self, editor):
        item = editor.send("prewarm", frame=6, window=3, direction="forward")["result"][0]
        assert (item["type"], item["to_name"]) == ("prewarm_ack", "video")
        assert item["value"]["status"] == "ok"
        assert item["value"]["frame_count"] == FRAMES
        assert item["value"]["cached"] + item["value"]["pending"] == [5, 6, 7, 8]
        back = editor.value("prewarm", frame=6, window=3, direction="backward")
        assert sorted(back["cached"] + back["pending"]) == [2, 3, 4, 5]

    def test_a_frame_is_encoded_once_and_clicks_find_it(self, editor, bench):
        editor.value("prewarm", time_ms=0, window=3)
        until(lambda: bench.predictor.embeds == 4)
        until(lambda: editor.value("prewarm", time_ms=0, window=3)["pending"] == [])
        editor.send("predict", time_ms=2, result=[point(50, 50)])
        assert bench.predictor.embeds == 4

    def test_frames_no_longer_wanted_are_left_out(self, editor, bench):
        bench.predictor.hold.clear()
        editor.value("prewarm", frame=1, window=20)
        until(bench.predictor.entered.is_set)
        editor.value("prewarm", frame=29, window=20)
        bench.predictor.hold.set()
        until(lambda: editor.value("prewarm", frame=29, window=20)["pending"] == [])
        assert bench.predictor.embeds == 3  # frame 1 was under way

    @pytest.mark.parametrize("window", [10**9, "7", -3, None, [], 1e300, "many"])
    def test_any_window_is_bounded(self, editor, window):
        value = editor.value("prewarm", frame=1, window=window)
        assert 1 <= len(value["cached"] + value["pending"]) <= 33
        assert 0 <= read_context({"window": window}).window <= 32  # the clip is shorter than that

    def test_a_picture_has_nothing_to_prepare(self, bench):
        editor = Editor(bench, config=PICTURE, data={"image": "/data/upload/1/a.png"})
        assert editor.value("prewarm") == {
            "status": "ok",
            "cached": [0],
            "pending": [],
            "frame_count": 1,
        }


class TestPredict:
    def test_a_grey_png_white_in_the_object(self, editor):
        prediction = editor.send("predict", time_ms=0, result=[box(25, 25, 50, 50)])
        [item] = prediction["result"]
        assert (item["type"], item["from_name"], item["to_name"]) == ("bitmask", "box", "video")
        mask = mask_of(item["value"])
        assert mask[HEIGHT // 2, WIDTH // 2] and not mask[5, 5]
        assert mask.mean() == pytest.approx(0.25, abs=0.02)
        assert item["score"] == prediction["score"] == pytest.approx(0.9)

    def test_the_time_on_screen_goes_before_the_number(self, editor):
        """The example rounds down with the file's stated rate; here it is the table of timestamps,
        and the editor's nudge of 2 ms past a frame's start is on that frame."""
        at = {"result": [point(50, 50)]}
        for context, frame in (
            ({"time_ms": 402.0, "frame": 1}, 12),
            ({"time_ms": 399.9}, 11),
            ({"frame": 13}, 12),
            ({"time_ms": 10**9}, FRAMES - 1),
            ({"time_ms": -5}, 0),
            ({"frame": 0}, 0),
            ({"frame": 10**400}, 0),
            ({"time_ms": "402"}, 12),
            ({"time_ms": None, "frame": 13}, 12),
            ({"time_ms": "soon", "frame": [3]}, 0),
            ({}, 0),
        ):
            value = editor.value("predict", **at, **context)
            assert value["frame"] == frame, context
            assert value["time_ms"] == pytest.approx(frame / 30 * 1000, abs=0.1)

    def test_without_an_event_a_place_in_the_video_means_predict(self, editor):
        [prediction] = editor.post({"frame": 13, "result": [point(50, 50)]})["results"]
        assert prediction["result"][0]["value"]["frame"] == 12

    def test_points_and_box_work_together(self, editor, bench):
        """The example drops the box when it tracks, and reads the sign of points in one place."""
        outside = {**point(5, 5), "is_positive": False}
        del outside["value"]["positive"]
        prompts = [point(40, 40), box(20, 20, 50, 50), point(80, 80, positive=False), outside]
        editor.value("predict", time_ms=0, result=prompts)
        [call] = bench.predictor.calls
        corners = [0.2 * WIDTH, 0.2 * HEIGHT, 0.7 * WIDTH, 0.7 * HEIGHT]
        assert list(call["box"]) == pytest.approx(corners)
        assert list(call["labels"]) == [1, 0, 0]
        assert not call["multimask"]

    def test_objects_are_told_apart(self, editor):
        prompts = [
            box(10, 10, 20, 20, object_id="a"),
            box(60, 10, 20, 20, object_id="b"),
            point(20, 20, object_id="a"),
        ]
        items = editor.send("predict", time_ms=0, result=prompts)["result"]
        assert [item["value"]["object_id"] for item in items] == ["a", "b"]
        assert left_of(items[1]["value"]) == pytest.approx(0.6 * WIDTH, abs=1)

    def test_labels_tell_objects_apart_too(self, editor):
        prompts = [
            point(20, 50, keypointlabels=["Ball"]),
            point(80, 50, keypointlabels=["Car"]),
        ]
        items = editor.send("predict", time_ms=0, result=prompts)["result"]
        found = {item["value"]["object_id"]: item["value"]["labels"] for item in items}
        assert found == {"Ball": ["Ball"], "Car": ["Car"]}

    def test_two_boxes_without_a_name_are_two_objects(self, editor):
        prompts = [box(10, 10, 20, 20), box(60, 10, 20, 20), point(62, 35, positive=False)]
        items = editor.send("predict", time_ms=0, result=prompts)["result"]
        masks = [mask_of(item["value"]) for item in items]
        assert len({item["value"]["object_id"] for item in items}) == 2
        whole = 0.2 * 0.2
        assert masks[0].mean() == pytest.approx(whole, abs=0.01)
        assert masks[1].mean() < masks[0].mean()  # the click took a corner away

    def test_clicks_on_the_background_only_get_a_reason(self, editor):
        prediction = editor.send("predict", time_ms=0, result=[point(5, 5, positive=False)])
        assert prediction["result"] == []
        assert "background" in prediction["error"]

    def test_an_empty_mask_is_no_answer(self, editor):
        at = [point(50, 50), point(50, 50, positive=False)]
        prediction = editor.send("predict", time_ms=0, result=at)
        assert prediction["result"] == []
        assert "no object there" in prediction["error"]

    @pytest.mark.parametrize(
        "result",
        [
            None,
            [],
            {},
            "x",
            [None, 3],
            [{"type": "keypointlabels"}],
            [{"type": "keypointlabels", "value": {"x": "a", "y": None}}],
            [point(1e9, 5)],
            [point(float("inf"), 5)],
            [box(10, 10, 0, 5)],
            [{"type": [], "value": {"x": {}, "labels": 3}}],
            [{"type": "videorectangle", "value": {"sequence": []}}],
            [{"type": "brushlabels", "value": {"format": "rle", "rle": [1, 2]}}],
        ],
    )
    def test_no_usable_prompt(self, editor, result):
        prediction = editor.send("predict", time_ms=0, result=result)
        assert prediction["result"] == []
        assert "no prompt" in prediction["error"]

    def test_too_many_prompts(self, editor, bench):
        many = [point(50, 50, object_id=str(number)) for number in range(65)]
        assert "64 objects" in editor.send("predict", time_ms=0, result=many)["error"]
        flood = [point(50, 50)] * 2001
        assert "2001 prompts" in editor.send("predict", time_ms=0, result=flood)["error"]
        assert bench.predictor.embeds == 0

    def test_a_video_that_cannot_be_had(self, editor, bench):
        bench.shelf.fetch = type(bench.shelf).fetch.__get__(bench.shelf)
        editor.task["data"] = {"video": "/data/missing.mp4"}
        prediction = editor.send("predict", time_ms=0, result=[point(5, 5)])
        assert prediction["result"] == []
        assert prediction["error"] == "the picture is not there"
        editor.task["data"] = {"video": "/data/picture.mp4"}  # the shelf gives a PNG
        assert editor.send("predict", time_ms=0, result=[point(5, 5)])["error"]

    @pytest.mark.parametrize("data", [None, {}, {"video": 3}, {"video": {}}, "x", {"other": "a"}])
    def test_a_task_without_a_video(self, editor, data):
        editor.task["data"] = data
        prediction = editor.send("predict", time_ms=0, result=[point(5, 5)])
        assert prediction["result"] == []
        assert "<Video name=video>" in prediction["error"] or "data" in prediction["error"]

    def test_a_picture(self, bench):
        editor = Editor(bench, config=PICTURE, data={"image": "/data/upload/1/a.png"})
        bench.shelf.fetch = type(bench.shelf).fetch.__get__(bench.shelf)
        [item] = editor.send("predict", result=[point(50, 50)])["result"]
        assert (item["type"], item["from_name"], item["to_name"]) == ("bitmask", "mask", "image")
        assert (item["value"]["width"], item["value"]["height"]) == (300, 200)

    def test_outlines_are_made_by_the_editor_from_the_mask(self, bench):
        config = '<View><Video name="v" value="$video"/><VideoVector name="o" toName="v"/></View>'
        editor = Editor(bench, config=config)
        [item] = editor.send("predict", time_ms=0, result=[point(50, 50)])["result"]
        assert (item["type"], item["from_name"], item["to_name"]) == ("bitmask", "o", "v")

    def test_a_label_config_with_nothing_to_draw(self, bench):
        config = '<View><Video name="v" value="$video"/><Choices name="c" toName="v"/></View>'
        editor = Editor(bench, config=config)
        for event in ("predict", "track"):
            prediction = editor.send(event, time_ms=0, result=[point(5, 5)])
            assert prediction["result"] == []
            assert "no tag that takes masks" in prediction["error"]


class TestOthers:
    @pytest.mark.parametrize("event", ["x", 3, [], {}, True, "TRACK", ""])
    def test_an_unknown_event_is_answered_harmlessly(self, editor, event):
        prediction = editor.send(event, result=[point(5, 5)])
        assert [item for item in prediction["result"] if item["type"] == "bitmask"] == []

    @pytest.mark.parametrize(
        "event", ["prewarm", "predict", "track", "track_progress", "track_cancel", "release"]
    )
    def test_no_task_no_answer(self, editor, event):
        assert editor.post({"event": event}, tasks=[])["results"] == []

    def test_the_requests_of_the_open_source_editor_are_not_taken(self, bench):
        reply = bench.predict([], config=CONFIG)
        assert reply["result"] == []

    def test_events_are_counted(self, editor, bench):
        editor.send("predict", time_ms=0, result=[point(50, 50)])
        editor.send("predict", time_ms=0, result=[])
        text = bench.client.get("/metrics").text
        assert 'sam2_predictions_total{kind="predict",outcome="ok"} 1.0' in text
        assert 'sam2_predictions_total{kind="predict",outcome="error"} 1.0' in text
