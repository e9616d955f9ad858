"""Label configs with <Video>: what is read, and what is said about those that cannot work."""

from __future__ import annotations

import pytest

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.tags import tags_on
from tests.labelstudio import captured

VIDEO = '<Video name="v" value="$v"/>'
BOXES = '<VideoRectangle name="r" toName="v"/>'
LABELS = '<Labels name="l" toName="v"><Label value="A"/></Labels>'
COMMAND = '<TextArea name="c" toName="v" perRegion="true"/>'


def parse(body: str):
    return parse_label_config(f"<View>{body}</View>")


def test_what_is_there_for_a_video():
    config = captured.request("04n_textarea_cmd_multi_reply").config
    assert config.video("video").framerate == "30"
    assert [tag.name for tag in tags_on(config.video_rectangles, "video")] == ["box"]
    [labels] = tags_on(config.labels_tags, "video")
    assert [label.name for label in labels.labels] == ["Ball", "Car"]
    assert [area.name for area in tags_on(config.text_areas, "video")] == ["cmd"]
    assert tags_on(config.region_text_areas, "video") == ()
    assert config.problems == ()
    assert config.usable


def test_text_areas_of_a_box_are_told_from_those_of_the_video():
    config = captured.request("04t_perregion_textarea").config
    assert [area.name for area in tags_on(config.region_text_areas, "video")] == ["rcmd"]
    assert [area.name for area in tags_on(config.text_areas, "video")] == ["cmd"]
    assert [area.name for area in config.text_areas] == ["cmd"]


def test_each_video_has_its_own_tags():
    config = parse(
        '<Video name="a" value="$a" framerate="$fps"/><Video name="b" value="$b"/>'
        '<VideoRectangle name="ra" toName="a"/><VideoRectangle name="rb" toName="b"/>'
        '<Labels name="lb" toName="b"><Label value="x" alias="y"/></Labels>'
        '<TextArea name="t" toName="a"/><TextArea name="u" toName="b"/>'
    )
    assert [tag.name for tag in tags_on(config.video_rectangles, "a")] == ["ra"]
    assert (config.video("a").framerate, config.video("b").framerate) == ("$fps", None)
    assert tags_on(config.labels_tags, "a") == ()
    [labels] = tags_on(config.labels_tags, "b")
    assert [label.name for label in labels.labels] == ["y"]
    assert config.video("c") is None
    assert config.problems == ()


def test_the_only_video_needs_no_to_name():
    config = parse('<VIDEO name="v" value="$v"/><videorectangle name="r"/><TextArea name="t"/>')
    assert [tag.name for tag in tags_on(config.video_rectangles, "v")] == ["r"]
    assert config.problems == ()


PROBLEMS = {
    "only masks": (
        VIDEO + '<BrushLabels name="b" toName="v"><Label value="A"/></BrushLabels>',
        "<BrushLabels name=b> is on <Video name=v>, but open-source Label Studio has no masks on "
        'a <Video>: use <VideoRectangle name="box" toName="v"/> for boxes, or the frames in '
        '<Image valueList="$frames"> for masks',
        False,
    ),
    "nothing to draw with": (
        VIDEO + LABELS,
        "no <VideoRectangle> for <Video name=v>: add "
        '<VideoRectangle name="box" toName="v"/> to track boxes, or use the frames in '
        '<Image valueList="$frames"> for masks',
        False,
    ),
    "no text area": (
        VIDEO + BOXES + LABELS,
        "no <TextArea> for <Video name=v> that can be typed into: tracking starts only when a "
        'selected box gets another label; add <TextArea name="command" toName="v" '
        'perRegion="true"/> to type track',
        True,
    ),
    "a text area that only shows": (
        VIDEO + BOXES + LABELS + '<TextArea name="t" toName="v" maxSubmissions="0"/>',
        "no <TextArea> for <Video name=v> that can be typed into: tracking starts only when a "
        'selected box gets another label; add <TextArea name="command" toName="v" '
        'perRegion="true"/> to type track',
        True,
    ),
    "neither text area nor labels": (
        VIDEO + BOXES,
        "no <TextArea> and no <Labels> for <Video name=v>: nothing sends a request; add "
        '<TextArea name="command" toName="v" perRegion="true"/> to type track',
        True,
    ),
    "video without value": (
        '<Video name="v"/>' + BOXES + LABELS + COMMAND,
        '<Video name=v> has no value: add value="$video"',
        True,
    ),
    "framerate that is no number": (
        '<Video name="v" value="$v" framerate="fast"/>' + BOXES + LABELS + COMMAND,
        '<Video name=v> has framerate="fast", which is no positive number: write the frames per '
        'second of the file, such as framerate="25"',
        True,
    ),
    "toName of nothing": (
        VIDEO + BOXES + LABELS + COMMAND + '<VideoRectangle name="x" toName="w"/>',
        '<VideoRectangle name=x> has toName="w", but no <Image> or <Video> has that name: '
        "correct it",
        True,
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem_is_named_with_its_fix(name):
    body, expected, usable = PROBLEMS[name]
    config = parse(body)
    assert config.problems == (expected,)
    assert config.usable is usable


@pytest.mark.parametrize("framerate", ["25", "29.97", "$fps", "0.04", ""])
def test_framerates_that_work(framerate):
    config = parse(
        f'<Video name="v" value="$v" framerate="{framerate}"/>' + BOXES + LABELS + COMMAND
    )
    assert config.problems == ()


IMAGE = (
    '<Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="A"/></BrushLabels>'
    '<KeyPointLabels name="k" toName="i"><Label value="A"/></KeyPointLabels>'
    '<TextArea name="s" toName="i"/>'
)


def test_a_video_to_look_at_is_no_problem():
    config = parse(IMAGE + VIDEO)
    assert config.problems == ()
    assert config.usable


def test_a_picture_to_look_at_beside_a_video_is_no_problem():
    config = parse('<Image name="i" value="$i"/>' + VIDEO + BOXES + LABELS + COMMAND)
    assert config.problems == ()
    assert config.usable


def test_a_video_and_a_picture_that_are_both_worked_on():
    assert parse(IMAGE + VIDEO + BOXES + LABELS + COMMAND).problems == ()
    problems = parse(IMAGE + VIDEO + BOXES + LABELS).problems
    assert [problem for problem in problems if "no <TextArea>" in problem]


@pytest.mark.parametrize("tag", ["VideoVectorLabels", "VideoVector"])
def test_outlines_on_a_video_are_a_way_of_newer_editors(tag):
    config = parse(VIDEO + f'<{tag} name="o" toName="v"><Label value="A"/></{tag}>')
    assert [(each.name, each.to_name) for each in config.video_vectors] == [("o", "v")]
    assert config.usable
    assert config.problems == ()
