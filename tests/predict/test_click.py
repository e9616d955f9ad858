"""What an annotator gets for clicks and boxes, over the HTTP contract."""

from __future__ import annotations

import time

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle

from backend.labelstudio import read_results
from backend.labelstudio.commands import HELP
from tests.backend.conftest import box, click
from tests.waiting import PATIENCE


def masks(reply):
    """The brush masks of a reply by region id."""
    found = {}
    for item in reply["result"]:
        if item["type"] == "brushlabels":
            size = (item["original_height"], item["original_width"], 4)
            found[item["id"]] = np.reshape(decode_rle(item["value"]["rle"]), size)[:, :, 3] > 0
    return found


def status(reply):
    """The text for the annotator, "" where it is emptied, None where nothing is said."""
    areas = [item for item in reply["result"] if item["type"] == "textarea"]
    return "".join(areas[0]["value"]["text"]) if areas else None


def test_a_click_gives_the_mask_under_it_with_its_label(bench):
    reply = bench.predict([click(50, 50, "Dog")])
    [region] = [item for item in reply["result"] if item["type"] == "brushlabels"]
    assert region["value"]["brushlabels"] == ["Dog"]
    assert (region["from_name"], region["to_name"]) == ("mask", "image")
    [mask] = masks(reply).values()
    assert mask[100, 150]
    assert mask.sum() == pytest.approx(np.pi * 20**2, rel=0.05)
    assert status(reply) == ""
    assert reply["score"] == pytest.approx(0.9)


def test_the_same_prompts_and_added_ones_replace_the_region(bench):
    first = bench.predict([click(50, 50)])
    again = bench.predict([click(50, 50)])
    more = bench.predict([click(50, 50), click(60, 50), click(40, 40, positive=False)])
    assert masks(first).keys() == masks(again).keys() == masks(more).keys()
    other = bench.predict([click(10, 10)])
    assert masks(other).keys().isdisjoint(masks(first))


def test_signs_and_multimask_reach_the_model(bench):
    bench.predict([click(50, 50), click(60, 50, positive=False)])
    call = bench.predictor.calls[-1]
    assert call["labels"].tolist() == [1, 0]
    assert call["multimask"] is False
    np.testing.assert_allclose(call["points"], [[150, 100], [180, 100]])


def test_the_second_click_fetches_decodes_and_encodes_nothing(bench):
    bench.predict([click(50, 50)])
    bench.predict([click(20, 20)])
    exposition = bench.client.get("/metrics").text
    assert bench.predictor.embeds == 1
    assert 'sam2_stage_seconds_count{stage="encode"} 1.0' in exposition
    assert 'sam2_stage_seconds_count{stage="decode"} 1.0' in exposition
    assert 'sam2_embedding_lookups_total{outcome="hit"} 1.0' in exposition


def test_a_correction_starts_from_the_answer_it_corrects(bench):
    bench.predict([click(50, 50)])
    assert bench.predictor.calls[-1]["mask"] is None
    bench.predict([click(50, 50), click(60, 50)])
    assert bench.predictor.calls[-1]["mask"] is not None
    bench.predict([click(51, 50), click(60, 50)])  # dragged: a new first click
    assert bench.predictor.calls[-1]["mask"] is None


class TestBoxThenPoints:
    def test_points_in_a_fresh_box_correct_it_in_place(self, bench):
        boxed = bench.predict([box(20, 20, 40, 40)])
        refined = bench.predict([click(50, 50, positive=False)])
        np.testing.assert_allclose(bench.predictor.calls[-1]["box"], [60, 40, 180, 120])
        assert masks(boxed).keys() == masks(refined).keys()
        [before], [after] = masks(boxed).values(), masks(refined).values()
        assert before[100, 150]
        assert not after[100, 150]

    def test_points_outside_are_another_object_and_end_it(self, bench):
        boxed = bench.predict([box(20, 20, 40, 40)])
        other = bench.predict([click(90, 90)])
        assert bench.predictor.calls[-1]["box"] is None
        assert masks(other).keys().isdisjoint(masks(boxed))
        bench.predict([click(50, 50)])
        assert bench.predictor.calls[-1]["box"] is None

    def test_another_label_page_or_task_is_another_object(self, bench):
        bench.predict([box(20, 20, 40, 40)])
        bench.predict([click(50, 50, "Dog")])
        assert bench.predictor.calls[-1]["box"] is None
        other = {"id": 8, "data": {"image": "/data/upload/1/a.png"}}
        bench.predict([click(50, 50)], task=other)
        assert bench.predictor.calls[-1]["box"] is None
        bench.predict([click(50, 50)], project="1.999")
        assert bench.predictor.calls[-1]["box"] is None

    def test_a_box_is_fresh_for_a_minute(self, bench):
        bench.predict([box(20, 20, 40, 40)])
        bench.now += 61
        bench.predict([click(50, 50)])
        assert bench.predictor.calls[-1]["box"] is None

    @pytest.mark.parametrize("kind", ["drafts", "annotations"])
    def test_an_accepted_answer_is_not_replaced(self, bench, kind):
        boxed = bench.predict([box(20, 20, 40, 40)])
        task = {
            "id": 7,
            "data": {"image": "/data/upload/1/a.png"},
            kind: [{"id": 1, "result": boxed["result"]}],
        }
        other = bench.predict([click(50, 50)], task=task)
        assert bench.predictor.calls[-1]["box"] is None
        assert masks(other).keys().isdisjoint(masks(boxed))


def test_a_rotated_box_asks_for_its_middle_and_not_for_the_hulls_corners(bench):
    bench.predict([box(50, 20, 30, 30, rotation=45)])
    call = bench.predictor.calls[-1]
    assert call["labels"].tolist() == [1, 0, 0, 0, 0]
    assert call["box"][0] < 150 < call["box"][2]


def test_a_size_that_disagrees_with_the_file_is_rescaled(bench, caplog):
    item = click(50, 50)
    item["original_width"], item["original_height"] = 600, 400
    reply = bench.predict([item])
    np.testing.assert_allclose(bench.predictor.calls[-1]["points"], [[150, 100]])
    [mask] = masks(reply).values()
    assert mask.shape == (400, 600)
    assert mask[200, 300]
    assert "600x400" in caplog.text


class TestReasons:
    SEQUENCE = """<View><Image name="image" valueList="$frames"/>
      <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
      <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>
      <TextArea name="status" toName="image" editable="false"/></View>"""

    def test_media_that_cannot_be_had(self, bench):
        task = {"id": 7, "data": {"image": "/data/upload/1/missing.png"}}
        reply = bench.predict([click(50, 50)], task=task)
        assert status(reply) == "SAM 2: the picture is not there"
        assert masks(reply) == {}

    def test_the_next_success_clears_it(self, bench):
        bench.predict(
            [click(50, 50)], task={"id": 7, "data": {"image": "/data/upload/1/missing.png"}}
        )
        assert status(bench.predict([click(50, 50)])) == ""

    def test_a_task_without_the_image(self, bench):
        reply = bench.predict([click(50, 50)], task={"id": 7, "data": {"text": "x"}})
        assert "image" in status(reply)

    def test_nothing_under_the_click(self, bench):
        reply = bench.predict([click(50, 50), click(50, 50, positive=False, identifier="kp2")])
        assert "no object there" in status(reply)
        assert masks(reply) == {}

    def test_only_background(self, bench):
        reply = bench.predict([click(50, 50, positive=False)])
        assert "click on the object first" in status(reply)
        assert bench.predictor.calls == []

    def test_a_label_without_a_place(self, bench):
        reply = bench.predict([click(50, 50, "Only a prompt")])
        assert "Only a prompt" in status(reply)
        assert masks(reply) == {}

    def test_a_model_that_is_too_slow(self, make_bench):
        bench = make_bench(click_budget_seconds=0.2)
        bench.engine.wait_ready(PATIENCE)
        bench.predictor.hold.clear()
        assert "try again" in status(bench.predict([click(50, 50)]))

    def test_prompts_beyond_the_budget_are_left_out_together(self, make_bench, caplog):
        bench = make_bench(click_budget_seconds=0.2)
        bench.engine.wait_ready(PATIENCE)
        bench.predictor.hold.clear()
        boxes = [box(number, 10, 1, 20, identifier=f"b{number}") for number in range(50)]
        assert "49 of 50 prompts had no time: left out" in status(bench.predict(boxes))
        assert caplog.text.count("this prompt is not answered") == 1

    def test_the_budget_begins_when_the_request_is_here(self, bench, monkeypatch):
        """A request that waited for a thread, and to be read, until its time was over."""
        read = []

        def counted(*args):
            read.append(args)
            return region_of(*args)

        region_of = read_results._region
        monkeypatch.setattr(read_results, "_region", counted)
        monkeypatch.setattr(read_results, "SURELY_READ", 3)
        boxes = [box(number, 10, 1, 20, identifier=f"b{number}") for number in range(50)]
        reply = bench.predict(boxes, arrived=time.monotonic() - PATIENCE)
        assert len(read) == 3
        assert bench.predictor.calls == []
        assert masks(reply) == {}
        assert "47 of 50 regions had no time to be read" in status(reply)
        assert "2 of 3 prompts had no time: left out" in status(reply)

    def test_what_is_passed_over_beside_an_answer_is_said(self, bench):
        bad = {**box(20, 20, 40, 40, identifier="bad"), "value": {"x": "none", "y": 1}}
        reply = bench.predict([click(50, 50), bad])
        assert len(masks(reply)) == 1
        assert status(reply) == "SAM 2: region bad: x is not a number"

    def test_a_download_that_is_too_slow(self, make_bench):
        bench = make_bench(click_budget_seconds=0.2)
        bench.shelf.hold.clear()
        assert "still being downloaded" in status(bench.predict([click(50, 50)]))

    def test_a_defect_of_the_model(self, bench, caplog):
        bench.predictor.predict = None
        reply = bench.predict([click(50, 50)])
        assert "failed on this prompt" in status(reply)
        assert "could not be answered" in caplog.text

    def test_one_bad_page_does_not_spoil_the_others(self, bench):
        config = self.SEQUENCE
        task = {"id": 7, "data": {"frames": ["/a.png", "/missing.png"]}}
        clicks = [click(50, 50, identifier=f"kp{page}", page=page) for page in (0, 1)]
        reply = bench.predict(clicks, task=task, config=config)
        brushes = [item for item in reply["result"] if item["type"] == "brushlabels"]
        assert [item["item_index"] for item in brushes] == [0]
        assert "not there" in status(reply)


class TestTextBox:
    CONFIG = """<View><Image name="image" value="$image"/>
      <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
      <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>
      <TextArea name="cmd" toName="image"/></View>"""

    def say(self, bench, *entries, config=CONFIG):
        item = {
            "value": {"text": list(entries)},
            "id": "t1",
            "from_name": "cmd",
            "to_name": "image",
            "type": "textarea",
        }
        return bench.predict([item], config=config)

    @pytest.mark.parametrize(("word", "part"), [("help", "Alt+click"), ("status", "demo is ready")])
    def test_commands_are_answered(self, bench, word, part):
        bench.engine.wait_ready(PATIENCE)
        assert part in status(self.say(bench, word))

    def test_a_note_is_left_alone_and_never_replaced(self, bench):
        assert self.say(bench, "a ginger cat")["result"] == []
        missing = {"id": 7, "data": {"image": "/missing.png"}}
        reply = bench.predict([click(50, 50)], config=self.CONFIG, task=missing)
        assert status(reply) is None

    def test_a_command_after_a_note_is_answered_below_it(self, bench):
        bench.engine.wait_ready(PATIENCE)
        [shown] = self.say(bench, "a ginger cat", "status")["result"]
        assert shown["value"]["text"][0] == "a ginger cat"
        assert "demo is ready" in shown["value"]["text"][1]

    def test_after_a_mistyped_word_the_dialogue_goes_on(self, bench):
        said: list[str] = []
        for word, answer in [
            ("trck", "no command trck; did you mean track?"),
            ("help", HELP),
            ("clear", None),
            ("/x", "no command /x; the commands are "),
        ]:
            [shown] = self.say(bench, *said, word)["result"]
            note, *lines = said = shown["value"]["text"]
            assert note == "trck"  # it may be one
            assert len(lines) == (answer is not None)
            assert all(line.startswith(f"SAM 2: {answer}") for line in lines)

    @pytest.mark.parametrize(
        ("entries", "left", "answer"),
        [
            (["help"], [], "Alt+click"),
            (["trck"], [], "no command trck; did you mean track?"),
            (["a ginger cat"], None, "your text stays as a note"),
            (["a ginger cat", "clear"], ["a ginger cat"], ""),
        ],
    )
    def test_with_a_line_for_answers_the_box_holds_nothing_but_notes(
        self, bench, entries, left, answer
    ):
        line = '<TextArea name="says" toName="image" maxSubmissions="0"/></View>'
        config = self.CONFIG.replace("</View>", line)
        says, *box = self.say(bench, *entries, config=config)["result"]
        assert says["from_name"] == "says"
        assert answer in "".join(says["value"]["text"])
        if left is None:
            assert box == []
        else:
            [shown] = box
            assert (shown["from_name"], shown["value"]["text"]) == ("cmd", left)
            assert shown.get("dynamic", False) is not bool(left)  # what is empty is not saved
        missing = {"id": 7, "data": {"image": "/missing.png"}}
        reply = bench.predict([click(50, 50)], config=config, task=missing)
        assert status(reply) == "SAM 2: the picture is not there"

    def test_a_note_in_the_draft_is_known_after_a_restart(self, bench):
        note = {"value": {"text": ["a ginger cat"]}, "from_name": "cmd", "type": "textarea"}
        task = {
            "id": 7,
            "data": {"image": "/missing.png"},
            "drafts": [{"id": 1, "result": [note]}],
        }
        reply = bench.predict([click(50, 50)], config=self.CONFIG, task=task)
        assert reply["result"] == []

    def test_a_defect_of_the_service_is_no_500(self, bench, caplog):
        bench.engine.wait_ready(PATIENCE)
        bench.engine.status = None  # broken
        assert "failed on this request" in status(self.say(bench, "status"))
        assert "could not be answered" in caplog.text

    def test_clear_forgets_the_box(self, bench):
        bench.predict([box(20, 20, 40, 40)])
        assert status(self.say(bench, "clear")) == ""
        bench.predict([click(50, 50)])
        assert bench.predictor.calls[-1]["box"] is None
