"""Frame numbers against what Label Studio 1.23.2 and Chromium showed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.timing import (
    Timeline,
    frame_on_screen,
    frames_count,
    keyframe_time,
    seek_time,
    tag_framerate,
)
from tests.pixels.clips import number_of
from tests.pixels.in_process import video_frames

HERE = Path(__file__).parent
IN_LABEL_STUDIO = json.loads(HERE.joinpath("label_studio_frames.json").read_text())
IN_CHROMIUM = json.loads(HERE.joinpath("chromium.json").read_text())["measured"]

steps = st.lists(st.integers(1000, 400_000), min_size=0, max_size=40)
framerates = st.sampled_from([1.0, 5.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0, 120.0])


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    start = draw(st.integers(0, 800_000))
    times = [moment / 1e6 for moment in accumulate(draw(steps), initial=start)]
    return Timeline(times, draw(framerates), draw(st.integers(1, 300)))


@pytest.mark.parametrize("row", IN_LABEL_STUDIO, ids=lambda row: f"{row['tag']}-{row['file_fps']}")
def test_frames_shown_in_label_studio(row: dict[str, Any]) -> None:
    """The editor's table: number in the editor, file frame seen, currentTime (frame 1: 0, before
    anything has been sought)."""
    framerate = tag_framerate(row["tag"], {})
    count = frames_count(row["duration"], framerate)
    assert (framerate, count) == (float(row["framerate"]), row["length"])
    file_frames = row["duration"] * row["file_fps"]
    timeline = Timeline([n / row["file_fps"] for n in range(file_frames)], framerate, count)
    for number, shown, time in row["shown"]:
        assert timeline.file_frame(number) == shown
        if number > 1:
            assert seek_time(number, framerate) == pytest.approx(time, abs=1e-6)


@pytest.mark.parametrize("row", IN_CHROMIUM, ids=lambda row: f"{row['clip']}-{row['framerate']}")
def test_frames_shown_in_chromium(row: dict[str, Any], clip: Callable[[str], Path]) -> None:
    """Every number of the editor leads to the picture that Chromium showed at its time."""
    with video_frames(clip(row["clip"])) as frames:
        count = len(row["shown"])
        timeline = Timeline(frames.times, row["framerate"], count)
        found = [number_of(frames[timeline.file_frame(n)]) for n in range(1, count + 1)]
        assert found == row["shown"]
        assert frames.duration == pytest.approx(row["duration"], abs=1e-6)
        assert [frames.width, frames.height] == row["size"]


@given(timelines())
def test_both_ways_agree(timeline: Timeline) -> None:
    shown = [timeline.file_frame(number) for number in range(1, timeline.frames_count + 1)]
    assert shown == sorted(shown)
    for index in range(len(timeline.times)):
        numbers = [number for number, frame in enumerate(shown, 1) if frame == index]
        number = timeline.editor_frame(index)
        if numbers:
            assert number == numbers[0]
        else:  # skipped by the editor: between its neighbours
            assert number == 1 or shown[number - 1] < index
            assert number == len(shown) or number == 1 or shown[number] > index
    assert timeline.editor_frames() == [*map(timeline.editor_frame, range(len(timeline.times)))]


@pytest.mark.parametrize("fps", [23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0])
def test_equal_rates_number_every_frame_once(fps: float) -> None:
    times = [n / fps for n in range(20_000)]
    timeline = Timeline(times, fps, frames_count(20_000 / fps, fps))
    assert timeline.frames_count == 20_000
    for index in range(0, 20_000, 97):
        assert timeline.editor_frame(index) == index + 1
        assert timeline.file_frame(index + 1) == index


@given(timelines(), st.integers(-5, 0), st.integers(1, 1000))
def test_numbers_outside_mean_the_ends(timeline: Timeline, below: int, above: int) -> None:
    last = timeline.frames_count
    assert timeline.file_frame(below) == timeline.file_frame(1)
    assert timeline.file_frame(last + above) == timeline.file_frame(last)


def test_the_first_frame_is_on_screen_before_its_time() -> None:
    assert frame_on_screen(0.1, [0.5, 0.54]) == 0
    assert frame_on_screen(0.539999, [0.5, 0.54]) == 0
    assert frame_on_screen(0.54, [0.5, 0.54]) == 1


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (None, 24.0), ("", 24.0), ("25", 25.0), (" 29.97 ", 29.97), ("0", 24.0), ("often", 24.0),
        ("0.04", 25.0), ("$fps", 30.0), ("$meta.fps", 12.5), ("$rates[1]", 50.0), ("$none", 24.0),
        ("$text", 60.0), ("30000/1001", 24.0), ("nan", 24.0), ("inf", 24.0), ("$meta", 24.0),
        ("$rates[9]", 24.0),
    ],
)  # fmt: skip
def test_framerate_of_the_tag(attribute: str | None, expected: float) -> None:
    data = {"fps": 30, "meta": {"fps": 12.5}, "rates": [25, 50], "text": "60"}
    assert tag_framerate(attribute, data) == expected


def test_negative_framerate_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        tag_framerate("-25", {})


@pytest.mark.parametrize(
    ("duration", "framerate", "expected"),
    [
        (3, 30, 90),
        (3, 29.97, 90),
        (2.969633, 24, 71),
        (59.5224, 25, 1488),
        (0.0, 24, 1),
        (0.5, 1, 1),
    ],
)
def test_frames_count(duration: float, framerate: float, expected: int) -> None:
    assert frames_count(duration, framerate) == expected


def test_time_beside_a_keyframe() -> None:
    """As in the requests recorded from the editor at framerate 30."""
    recorded = {1: 0.03333333333333333, 10: 0.3333333333333333, 11: 0.36666666666666664,
                20: 0.6666666666666666, 30: 1, 44: 1.4666666666666666}  # fmt: skip
    assert {frame: keyframe_time(frame, 30.0) for frame in recorded} == recorded


@pytest.mark.parametrize(
    ("times", "framerate", "count"), [([], 24.0, 10), ([0.0], 0.0, 10), ([0.0], 24.0, 0)]
)
def test_an_impossible_timeline_is_refused(
    times: list[float], framerate: float, count: int
) -> None:
    with pytest.raises(ValueError, match="a timeline needs"):
        Timeline(times, framerate, count)
