"""Boxes on <Video>: what a request means, whose the key frames are, and what is answered."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.labelstudio.geometry import Box
from backend.labelstudio.keyframes import Keyframe, merge_human
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.video_regions import (
    Trigger,
    answered_regions,
    human_keyframes,
    read_video_regions,
    video_context,
    video_results,
    video_status,
)
from tests.labelstudio import captured

CONFIG = parse_label_config("""<View>
  <Video name="film" value="$video" framerate="25"/>
  <VideoRectangle name="rect" toName="film"/>
  <Labels name="kind" toName="film"><Label value="Ball"/><Label value="Car"/></Labels>
  <TextArea name="order" toName="film" perRegion="true"/>
  <TextArea name="remark" toName="film" perRegion="true"/>
  <TextArea name="all" toName="film"/>
</View>""")


def sequence(*frames, enabled=True):
    return [
        {"frame": n, "enabled": enabled, "rotation": 0, "x": n, "y": 5, "width": 9, "height": 8}
        for n in frames
    ]


def box_item(id="r1", frames=(1,), labels=("Ball",), **more):
    value = {"framesCount": 100, "duration": 4, "sequence": sequence(*frames)}
    if labels:
        value["labels"] = list(labels)
    return {
        "id": id,
        "from_name": "rect",
        "to_name": "film",
        "type": "videorectangle",
        "value": value,
        "origin": "manual",
        **more,
    }


def text_item(*entries, id="r1", area="order", frames=(1,)):
    value = {"framesCount": 100, "duration": 4, "sequence": sequence(*frames)}
    return {
        "id": id,
        "from_name": area,
        "to_name": "film",
        "type": "textarea",
        "value": {**value, "text": list(entries)},
        "origin": "manual",
    }


def context(*items, config=CONFIG):
    return video_context({"result": list(items)}, config)


# What a recorded request means: trigger, regions with labels, command.
RECORDED = {
    "04b_change_label_of_selected_box": ("label", {"e1wb-MSHFp": "Car"}, None),
    "04c2_label_ball_again": ("label", {"e1wb-MSHFp": "Ball"}, None),
    "04f_then_label_it": ("label", {"PGWIBsmQes": "Car"}, None),
    "04g_textarea_enter": ("global text", {}, "track"),
    "04k_relabel_second_to_car_reply_same_id": ("label", {"n44ajKUlJ7": "Car"}, None),
    "04l_relabel_first_to_car_context_has_both": (
        "label",
        {"PS-6oUqpVb": "Car", "n44ajKUlJ7": "Car"},
        None,
    ),
    "04n_textarea_cmd_multi_reply": ("global text", {}, "track 1-45"),
    "04o_brush_on_video": (
        "label",
        {"PS-6oUqpVb": "Car", "n44ajKUlJ7": "Car", "objB": "Car"},
        None,
    ),
    "04t_perregion_textarea": ("region command", {"Ri6_0HlsVm": "Ball"}, "track"),
    "04u_global_cmd2": ("global text", {}, "second"),
    "04u_global_cmd4_empty_status": ("global text", {}, "fourth"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_request(name):
    request = captured.request(name)
    found = video_context(request.context, request.config)
    trigger, regions, command = RECORDED[name]
    assert found.trigger == trigger
    assert {region.id: " ".join(region.labels) for region in found.regions} == regions
    assert found.command == command
    assert {region.to_name for region in found.regions} <= {"video"}


def test_the_editors_empty_requests_mean_nothing():
    requests = captured.requests("04p_submit")
    assert len(requests) == 5
    for request in requests:
        found = video_context(request.context, request.config)
        assert found.trigger is Trigger.NOTHING
        assert found.command is None


def test_a_recorded_region_with_all_it_has():
    request = captured.request("04t_perregion_textarea")
    [region] = video_context(request.context, request.config).regions
    assert (region.from_name, region.to_name) == ("box", "video")
    assert (region.frames_count, region.duration) == (90, 3)
    assert region.keyframes == (Keyframe(1, Box(5.078125, 35, 15, 30), True),)
    assert [echo["from_name"] for echo in region.echoes] == ["rchoice", "rcmd"]
    assert region.command == "track"


def test_a_command_for_one_of_two_boxes_with_a_label():
    # recorded: the editor sends both, and a second command behind the status of the first
    first, second, *_ = captured.requests("04x_two_boxes_one_commanded")
    for request, boxes in ((first, [1]), (second, [1, 40, 61, 70, 100])):
        found = video_context(request.context, request.config)
        assert found.trigger is Trigger.REGION_COMMAND
        assert [region.id for region in found.regions] == ["lj9mEDfkkN", "FF7DwrSjmc"]
        [meant] = found.commanded
        assert (meant.id, meant.command) == ("lj9mEDfkkN", "track")
        assert [each.frame for each in meant.keyframes] == boxes
    assert second.context["result"][2]["value"]["text"][0].startswith("SAM 2: ")


def test_a_command_right_after_another_comes_with_the_draft_from_before():
    *_, third, fourth = captured.requests("04x_two_boxes_one_commanded")
    assert video_context(fourth.context, fourth.config).command == "status"
    drafts = [request.task["drafts"][0]["result"] for request in (third, fourth)]
    assert drafts[0] == drafts[1]


def test_boxes_of_a_recorded_draft():
    request = captured.request("04n_textarea_cmd_multi_reply")
    regions = read_video_regions(request.task["drafts"][0]["result"], request.config)
    assert [(region.id, region.labels) for region in regions] == [
        ("PS-6oUqpVb", ("Ball",)),
        ("n44ajKUlJ7", ("Car",)),
        ("dcc0cd60e7", ("Ball",)),
    ]
    assert [len(region.keyframes) for region in regions] == [20, 20, 8]
    assert not regions[0].keyframes[-1].enabled


def test_boxes_of_a_recorded_annotation_beside_spans_texts_and_ruins():
    request = captured.requests("04p_submit")[-1]
    regions = read_video_regions(request.task["annotations"][0]["result"], request.config)
    assert [region.id for region in regions] == [
        "PS-6oUqpVb",
        "n44ajKUlJ7",
        "dcc0cd60e7",
        "objA",
        "objB",
        "objC",
    ]


@pytest.mark.parametrize("name", RECORDED)
def test_unchanged_regions_are_answered_as_they_came(name):
    request = captured.request(name)
    results = request.context["result"]
    answered = [
        item
        for region in read_video_regions(results, request.config)
        for item in video_results(region, region.keyframes, request.config, framerate=30.0)
    ]
    came = [
        {key: value for key, value in item.items() if key != "origin"}
        for item in results
        if "sequence" in item["value"]
    ]
    assert answered == came


def test_labels_written_as_an_item_of_their_own():
    separate = {**box_item(), "type": "labels", "from_name": "kind"}
    for items in ([box_item(labels=()), separate], [separate, box_item(labels=())]):
        [region] = read_video_regions(items, CONFIG)
        assert region.labels == ("Ball",)
        assert region.from_name == "rect"
        [answer] = video_results(region, region.keyframes, CONFIG, framerate=25.0)
        assert answer["type"] == "videorectangle"
        assert answer["value"]["labels"] == ["Ball"]


def test_names_of_another_config_become_those_of_this_one():
    item = box_item(from_name="other")
    del item["to_name"]
    [region] = read_video_regions([item], CONFIG)
    assert (region.from_name, region.to_name) == ("rect", "film")


def test_an_answer_has_what_a_human_entered_and_the_new_boxes():
    came = [
        box_item(meta={"text": ["look here"]}, readonly=False, parentID="p"),
        {**text_item(), "type": "choices", "from_name": "c", "value": {"choices": ["A"]}},
        text_item("fast", area="remark"),
    ]
    came[2]["value"]["labels"] = ["Ball"]
    [region] = read_video_regions(came, CONFIG)
    tracked = [Keyframe(1, Box(1, 5, 9, 8)), Keyframe(40, Box(7, 5, 9, 8), enabled=False)]
    box, choice, remark = video_results(region, tracked, CONFIG, framerate=25.0, score=0.75)
    assert box["meta"] == {"text": ["look here"]}
    assert (box["readonly"], box["parentID"], box["score"]) == (False, "p", 0.75)
    assert "origin" not in box
    assert {item["id"] for item in (box, choice, remark)} == {"r1"}
    assert choice["value"]["choices"] == ["A"]
    assert remark["value"]["text"] == ["fast"]
    for item in (box, choice, remark):
        assert [each["frame"] for each in item["value"]["sequence"]] == [1, 40]
        assert [each["time"] for each in item["value"]["sequence"]] == [1 / 25, 40 / 25]
        assert (item["value"]["framesCount"], item["value"]["duration"]) == (100, 4)
    # with labels in an echo the editor would give the region a second label result
    assert "labels" not in choice["value"]
    assert "labels" not in remark["value"]


def test_a_region_without_key_frames_is_not_answered():
    [region] = read_video_regions([box_item()], CONFIG)
    assert video_results(region, [], CONFIG, framerate=25.0) == []


def test_a_region_without_id_and_length():
    item = box_item(frames=(3, 50))
    del item["id"], item["value"]["framesCount"], item["value"]["duration"]
    [region] = read_video_regions([item], CONFIG)
    [answer] = video_results(region, region.keyframes, CONFIG, framerate=25.0)
    assert "id" not in answer
    assert answer["value"]["framesCount"] == 50
    assert answer["value"]["duration"] == 2.0


def answered(*items, answer=""):
    """A box with texts as it comes back with new key frames; and one that comes back as it was."""
    [region] = read_video_regions(items, CONFIG)
    results = video_results(region, region.keyframes, CONFIG, framerate=25.0)
    with_track = answered_regions(results, [region], answer)
    [box, *texts] = answered_regions([], [region], answer)
    assert box == items[0]
    assert [text["value"]["text"] for text in texts] == [
        item["value"]["text"] for item in with_track[1:]
    ]
    return with_track


def test_a_command_for_a_box_goes_with_the_answer():
    [only] = answered(box_item(), text_item("track"))
    assert only["type"] == "videorectangle"
    _, kept, other = answered(
        box_item(), text_item("a red one", "trck"), text_item("fast", area="remark")
    )
    assert kept["value"]["text"] == ["a red one"]
    assert kept["value"]["sequence"]
    assert other["value"]["text"] == ["fast"]


def test_an_answer_stands_in_the_place_of_the_command_where_there_is_no_other():
    _, shown = answered(box_item(), text_item("old", "track"), answer="41 of 300 done")
    assert shown["from_name"] == "order"
    assert shown["value"]["text"] == ["old", "SAM 2: 41 of 300 done"]
    again = context(box_item(), shown)
    assert again.trigger is Trigger.LABEL  # our own status is no command and no note
    shown["value"]["text"].append("track")
    assert context(box_item(), shown).trigger is Trigger.REGION_COMMAND


def test_a_note_for_a_box_starts_nothing():
    assert context(box_item(), text_item("a red one")).trigger is Trigger.NOTE


def test_only_the_box_with_the_command_is_commanded():
    found = context(
        box_item(), text_item("SAM 2: done"), box_item("r2"), text_item("track back", id="r2")
    )
    assert found.trigger is Trigger.REGION_COMMAND
    assert [region.id for region in found.regions] == ["r1", "r2"]
    assert [region.id for region in found.commanded] == ["r2"]
    assert found.command == "track back"


def test_a_command_counts_whatever_area_it_is_in():
    found = context(box_item(), text_item("a red one"), text_item("stop", area="remark"))
    assert found.command == "stop"


def test_a_global_status_keeps_the_id_of_the_text_it_replaces():
    request = captured.request("04u_global_cmd3_status_reply")
    known = request.context["result"]
    [status] = video_status("done", request.config, "video", known)
    assert (status["id"], status["type"], status["from_name"]) == ("qnyqFN0bj1", "textarea", "cmd")
    assert status["value"] == {"text": ["SAM 2: done"]}
    assert "item_index" not in status
    [empty] = video_status(None, request.config, "video", known)
    assert empty["value"] == {"text": []}
    [first] = video_status("done", request.config, "video")
    assert first["id"]


def test_regions_of_pictures_are_not_for_videos():
    request = captured.request("02g_box")
    assert video_context(request.context, request.config).trigger is Trigger.NOTHING


@pytest.mark.parametrize(
    "item",
    [
        box_item(to_name="gone"),
        {**box_item(), "value": {"sequence": []}},
        {**box_item(), "value": {"sequence": 7}},
    ],
)
def test_what_is_no_box_on_a_video_is_passed_over(item):
    assert context(item).trigger is Trigger.NOTHING


def human_and_model(region, *args):
    human = {each.frame for each in human_keyframes(region, *args)}
    model = {each.frame for each in region.keyframes} - human
    return sorted(human), sorted(model)


def region_of(*keyframes):
    [region] = read_video_regions([box_item()], CONFIG)
    item = video_results(region, keyframes, CONFIG, framerate=25.0)
    [back] = read_video_regions(item, CONFIG)
    return back


def at(frame, x=5.0, enabled=True):
    return Keyframe(frame, Box(x, 5.0, 10.0, 10.0), enabled)


def test_key_frames_that_were_sent_are_the_models():
    region = region_of(at(1), at(20, 6.0), at(40, 7.0004), at(60, 8.002))
    sent = {20: [at(20, 6.0)], 40: [at(40, 7.0)], 60: [at(60, 8.0)]}
    assert human_and_model(region, sent) == ([1, 60], [20, 40])
    assert human_and_model(region, {}) == ([1, 20, 40, 60], [])


def test_a_draft_from_before_the_last_answer_holds_no_human_key_frames():
    sent = {41: [at(41, enabled=False), at(41)], 80: [at(80, enabled=False)]}
    late = region_of(at(1), at(41, enabled=False))
    assert human_and_model(late, sent, [at(1)]) == ([1], [41])
    fresh = region_of(at(1), at(41), at(80, enabled=False))
    assert human_and_model(fresh, sent, [at(1)]) == ([1], [41, 80])


def test_a_switched_off_key_frame_of_the_model_is_the_humans_word():
    region = region_of(at(1), at(20, enabled=False))
    assert human_and_model(region, {20: [at(20)]}, []) == ([1, 20], [])
    assert human_keyframes(region, {20: [at(20)]}, [])[-1] == at(20, enabled=False)


def test_a_key_frame_added_after_the_end_of_a_track_does_not_end_it():
    # the editor copies "not enabled" from the key frame before
    region = region_of(at(1), at(41, enabled=False), at(60, 9.0, enabled=False))
    sent = {41: [at(41, enabled=False)]}
    assert human_and_model(region, sent) == ([1, 60], [41])
    assert human_keyframes(region, sent)[-1] == at(60, 9.0)


def test_a_human_key_frame_that_was_closed_for_an_absence_is_still_open():
    human = (at(1), at(50, 7.0))
    merged = merge_human(human, [at(1), at(50, 7.0, enabled=False), at(70, 8.0)])
    assert not merged[1].enabled
    sent = {each.frame: [each] for each in merged}
    assert human_keyframes(region_of(*merged), sent, human) == human
    assert human_and_model(region_of(*merged), sent, human) == ([1, 50], [70])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_comes_back_unchanged_is_split_as_it_was_merged(data):
    numbers = data.draw(st.lists(st.integers(1, 60), unique=True, min_size=1, max_size=12))
    flags = st.booleans()
    everything = [at(n, data.draw(st.floats(0, 80)), data.draw(flags)) for n in sorted(numbers)]
    mine = [each for each in everything if data.draw(flags)]
    merged = merge_human(mine, [each for each in everything if each not in mine])
    sent = {each.frame: [each] for each in merged}
    assert list(human_keyframes(region_of(*merged), sent, mine)) == mine


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
CONTEXTS = [
    (request.context, request.config)
    for name in RECORDED
    if name.startswith(("04t", "04f", "04u", "04k"))
    for request in captured.requests(name)
]


def paths(node, prefix=()):
    yield prefix
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from paths(node[key], (*prefix, key))


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CONTEXTS), st.data())
def test_recorded_contexts_with_something_wrong(recorded, data):
    broken, config = copy.deepcopy(recorded[0]), recorded[1]
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from([path for path in paths(broken) if path]))
        parent = broken
        for key in way:
            parent = parent[key]
        parent[last] = data.draw(JSON)
    found = video_context(broken, config)
    for region in found.regions:
        assert region.keyframes
        assert region.to_name == "video"
        for item in video_results(region, region.keyframes, config, framerate=30.0):
            assert item["value"]["sequence"]


@given(JSON)
def test_any_json_as_context(value):
    assert video_context(value, CONFIG).trigger in Trigger
    assert isinstance(read_video_regions(value, CONFIG), list)
    video_status("x", CONFIG, "film", value)
