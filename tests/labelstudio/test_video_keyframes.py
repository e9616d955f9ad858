"""Key frames: what the editor shows between them, thinned, merged with a human's, and written."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.labelstudio.geometry import Box
from backend.labelstudio.keyframes import (
    Keyframe,
    box_at,
    merge_human,
    read_sequence,
    sequence_value,
    thin,
)
from tests.labelstudio import captured

HERE = Box(10.0, 10.0, 20.0, 20.0)


def iou(one: Box, other: Box) -> float:
    """IoU of upright boxes, reckoned another way than in the code: by inclusion of intervals."""
    across = max(0.0, min(one.x + one.width, other.x + other.width) - max(one.x, other.x))
    down = max(0.0, min(one.y + one.height, other.y + other.height) - max(one.y, other.y))
    both = one.width * one.height + other.width * other.height
    return across * down / (both - across * down)


def same(one: Box | None, other: Box | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.x, one.y, one.width, one.height) == pytest.approx(
        (other.x, other.y, other.width, other.height), abs=1e-9
    )


@pytest.mark.parametrize("position", range(40))
def test_boxes_are_those_that_the_editor_shows(position):
    track = captured.load("04w_boxes_on_frames")["tracks"][position]
    keyframes = read_sequence(track)
    assert len(keyframes) == len(track["sequence"])
    for frame, shown in enumerate(track["shown"], start=1):
        box = box_at(keyframes, frame)
        if shown is None:
            assert box is None
        else:
            found = [box.x, box.y, box.width, box.height, box.rotation]
            assert found == pytest.approx(shown, abs=1e-6)


def test_a_recorded_sequence_is_read_and_written_back_as_it_was():
    found = 0
    for name in ("04n_textarea_cmd_multi_reply", "04o_brush_on_video", "04t_perregion_textarea"):
        for item in captured.results(captured.load(name)):
            value = item["value"]
            if item["type"] != "videorectangle":
                continue
            written = sequence_value(
                read_sequence(value),
                frames_count=value["framesCount"],
                duration=value["duration"],
                framerate=30.0,
            )
            assert written == {key: value[key] for key in ("framesCount", "duration", "sequence")}
            found += 1
    assert found > 8


def entry(frame, x=1.0, **more):
    return {"frame": frame, "enabled": True, "x": x, "y": 2, "width": 3, "height": 4, **more}


def test_sequences_come_out_sorted_and_the_last_of_a_frame_counts():
    found = read_sequence({"sequence": [entry(9), entry(2, 5), entry(9, 7), entry(1)]})
    assert [(each.frame, each.box.x) for each in found] == [(1, 1.0), (2, 5.0), (9, 7.0)]


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        None,
        entry(0),
        entry(-3),
        entry(1.5),
        entry("first"),
        entry(1, float("nan")),
        entry(1, None),
        entry(1, 1e6),
        entry(1, width=-2),
    ],
)
def test_odd_entries_are_passed_over(broken):
    assert [each.frame for each in read_sequence({"sequence": [broken, entry(5)]})] == [5]


def test_an_entry_without_enabled_is_not_enabled_as_in_the_editor():
    [found] = read_sequence({"sequence": [{**entry(5), "enabled": None}]})
    assert not found.enabled
    assert found.box.rotation == 0.0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["sequence", "frame", "enabled", "x", "y", "width", "height", "rotation"]
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_json_as_value(value):
    found = read_sequence(value)
    frames = [each.frame for each in found]
    assert frames == sorted(set(frames))
    assert all(frame >= 1 for frame in frames)


SIZES = st.floats(4, 40)
PLACES = st.floats(0, 60)
BOXES = st.builds(Box, PLACES, PLACES, SIZES, SIZES)


@st.composite
def tracks(draw) -> dict[int, Box | None]:
    """Pieces of motion, jitter and absence, on frames that may have gaps between them."""
    boxes: dict[int, Box | None] = {}
    frame = draw(st.integers(1, 9))
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, 25))
        start, end = draw(BOXES), draw(BOXES)
        jitter = draw(st.sampled_from([0.0, 0.0, 0.3]))
        absent = draw(st.booleans()) and bool(boxes)
        for step in range(length):
            share = step / length
            noise = jitter * ((step * 7919) % 13 - 6) / 6
            boxes[frame] = (
                None
                if absent
                else Box(
                    start.x + (end.x - start.x) * share + noise,
                    start.y + (end.y - start.y) * share - noise,
                    start.width + (end.width - start.width) * share,
                    start.height + (end.height - start.height) * share + abs(noise),
                )
            )
            frame += draw(st.sampled_from([1, 1, 1, 2])) if step == 0 else 1
    return boxes


@settings(max_examples=200, deadline=None)
@given(tracks(), st.data(), st.sampled_from([0.9, 0.98, 1.0]))
def test_thinned_boxes_are_true_on_every_frame(boxes, data, tolerance):
    keep = data.draw(st.sets(st.sampled_from(sorted(boxes)), max_size=5))
    thinned = thin(boxes, keep, tolerance)
    frames = [each.frame for each in thinned]
    assert frames == sorted(set(frames))
    assert set(frames) >= {frame for frame in keep if boxes[frame] is not None}
    for each in thinned:
        assert each.box == boxes[each.frame]
    for frame, box in boxes.items():
        shown = box_at(thinned, frame)
        if box is None:
            assert shown is None
        else:
            assert shown is not None
            # a box lies on the line that it was made on but for the rounding of a few additions
            assert same(shown, box) or iou(shown, box) >= tolerance
    assert box_at(thinned, max(boxes) + 1) is None
    assert thin(boxes, {*keep, *frames}, tolerance) == thinned


@settings(max_examples=100, deadline=None)
@given(tracks())
def test_thinning_what_is_shown_shows_the_same_object_in_the_same_places(boxes):
    first = thin(boxes)
    shown = {frame: box_at(first, frame) for frame in boxes}
    again = thin(shown, [each.frame for each in first])
    assert [each.frame for each in again] == [each.frame for each in first]


def linear(frames: int) -> dict[int, Box | None]:
    return {frame: Box(frame * 0.2, 5 + frame * 0.1, 10.0, 15.0) for frame in range(1, frames + 1)}


def test_straight_motion_needs_two_key_frames():
    assert [each.frame for each in thin(linear(300))] == [1, 300]


def test_a_turn_needs_one_more():
    boxes = linear(300)
    for frame in range(151, 301):
        boxes[frame] = boxes[150]._replace(x=boxes[150].x - (frame - 150) * 0.2)
    thinned = thin(boxes)
    assert len(thinned) < 10
    assert any(140 <= each.frame <= 160 for each in thinned)


def test_an_object_that_leaves_and_returns_has_two_stays():
    boxes = linear(300)
    for frame in range(101, 121):
        boxes[frame] = None
    thinned = thin(boxes, frames_count=300)
    assert [(each.frame, each.enabled) for each in thinned] == [
        (1, True),
        (100, False),
        (121, True),
        (300, True),
    ]
    shown = {frame: box_at(thinned, frame) for frame in range(1, 301)}
    assert [frame for frame, box in shown.items() if box is None] == list(range(101, 121))


def test_a_stay_of_one_frame():
    boxes = dict.fromkeys(range(1, 30)) | {7: HERE}
    assert thin(boxes) == (Keyframe(7, HERE, enabled=False),)


def test_a_track_ends_with_the_frames_that_were_looked_at():
    part = {frame: box for frame, box in linear(300).items() if frame <= 41}
    assert not thin(part, frames_count=300)[-1].enabled
    assert thin(linear(300), frames_count=300)[-1].enabled


def test_nothing_was_found():
    assert thin({}) == ()
    assert thin({1: None, 2: None}) == ()


def test_turned_boxes_are_not_taken_for_upright_ones():
    boxes = linear(50)
    boxes[20] = boxes[20]._replace(rotation=30.0)
    assert {19, 20, 21} <= {each.frame for each in thin(boxes)}
    still = dict.fromkeys(range(1, 50), Box(5.0, 5.0, 9.0, 9.0, 33.3))
    assert [each.frame for each in thin(still)] == [1, 49]


def test_the_key_frames_between_are_hardly_more_than_needed():
    # pixels of 1280 x 720: the corners of a tracked mask are whole pixels
    boxes = {
        frame: Box(
            round(100 + 2.3 * frame) / 12.8, round(50 + 1.1 * frame) / 7.2, 200 / 12.8, 160 / 7.2
        )
        for frame in range(1, 301)
    }
    assert len(thin(boxes)) < 10


@pytest.mark.parametrize("jitter", [0.0, 0.05, 1.0])
def test_ten_thousand_frames_are_quick(jitter):
    boxes = {
        frame: Box(frame * 0.005 + jitter * ((frame * 7919) % 13) / 13, 10.0, 12.0, 9.0)
        for frame in range(1, 10_001)
    }
    began = time.process_time()
    thin(boxes)
    assert time.process_time() - began < 5.0  # 0.3 s; a search over all pairs takes minutes


def frames(*numbers: int, enabled: bool = True) -> list[Keyframe]:
    return [Keyframe(number, Box(number, 1.0, 2.0, 3.0), enabled) for number in numbers]


def test_a_humans_key_frames_stay_as_they_are():
    human = [Keyframe(20, Box(1.0, 1.0, 1.0, 1.0, 12.0))]
    merged = merge_human(human, frames(1, 20, 30))
    assert [each.frame for each in merged] == [1, 20, 30]
    assert merged[1] == human[0]


def test_a_human_key_frame_beyond_what_was_tracked_is_left_alone():
    [last] = frames(41, enabled=False)
    [mine] = frames(100)
    assert merge_human([mine], [*frames(1), last])[-1] == mine


def test_no_line_is_drawn_from_a_human_key_frame_across_an_absence():
    boxes = linear(100)
    for frame in range(51, 71):
        boxes[frame] = None
    human = [Keyframe(50, boxes[50])]
    merged = merge_human(human, thin(boxes, [50], frames_count=100))
    assert all(box_at(merged, frame) is None for frame in range(51, 71))
    assert box_at(merged, 71) is not None


def test_where_a_human_ends_the_object_the_model_does_not_bring_it_back():
    human = [*frames(30, enabled=False), *frames(80)]
    merged = merge_human(human, frames(1, 30, 50, 60, 80, 100))
    assert [(each.frame, each.enabled) for each in merged] == [
        (1, True),
        (30, False),
        (80, True),
        (100, True),
    ]


@settings(max_examples=200, deadline=None)
@given(tracks(), st.data())
def test_merged_key_frames_show_the_track_and_the_human(boxes, data):
    present = [frame for frame, box in boxes.items() if box is not None]
    chosen = data.draw(st.sets(st.sampled_from(present), max_size=4)) if present else set()
    human = []
    for frame in sorted(chosen):
        box = data.draw(BOXES)
        boxes[frame] = box
        human.append(Keyframe(frame, box))
    merged = merge_human(human, thin(boxes, chosen))
    numbers = [each.frame for each in merged]
    assert numbers == sorted(set(numbers))
    by_frame = {each.frame: each for each in merged}
    for each in human:
        assert by_frame[each.frame].box == each.box
    for frame, box in boxes.items():
        shown = box_at(merged, frame)
        assert (shown is None) == (box is None)
        if box is not None and shown is not None:
            assert same(shown, box) or iou(shown, box) >= 0.98
