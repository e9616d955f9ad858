"""Every label config in examples/ works, and does what the README beside it says."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from label_studio_sdk.label_interface import LabelInterface

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.tags import VideoTag, tags_on

FOLDER = Path(__file__).parents[2] / "examples"
ANSWERS = {
    "frame_sequence.xml": {"image": "brushlabels"},
    "image_bitmask.xml": {"image": "bitmasklabels"},
    "image_brush.xml": {"image": "brushlabels"},
    "image_polygon.xml": {"image": "polygonlabels"},
    "image_rectangle.xml": {"image": "rectanglelabels"},
    "image_separate_labels.xml": {"image": "brush"},
    "image_vector.xml": {"image": "vectorlabels"},
    "two_images.xml": {"before": "brushlabels", "after": "brushlabels"},
}


VIDEOS = {"video_boxes.xml": False, "video_boxes_region_command.xml": True}  # text area of a box


def test_every_example_is_tested_and_listed():
    assert {path.name for path in FOLDER.glob("*.xml")} == {*ANSWERS, *VIDEOS}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in (*ANSWERS, *VIDEOS):
        assert f"({name})" in readme


@pytest.mark.parametrize("name", ANSWERS)
def test_example(name):
    xml = (FOLDER / name).read_text(encoding="utf-8")
    LabelInterface(xml).validate()  # raises what Label Studio would answer on saving it
    config = parse_label_config(xml)
    assert config.problems == ()
    assert {image.name for image in config.images} == ANSWERS[name].keys()
    for image, result_type in ANSWERS[name].items():
        assert config.status_area(image) is not None
        sources = tags_on(config.labels_tags, image) or tags_on(config.prompts, image)
        assert sources
        for source in sources:
            for label in source.labels:
                answer = config.find_answer(image, (label.name,), source.name)
                assert answer.control.result_type == result_type


@pytest.mark.parametrize("name", VIDEOS)
def test_video_example(name):
    xml = (FOLDER / name).read_text(encoding="utf-8")
    LabelInterface(xml).validate()
    config = parse_label_config(xml)
    assert config.problems == ()
    assert config.usable
    assert tags_on(config.video_rectangles, "video")
    assert all(tag.labels for tag in tags_on(config.labels_tags, "video"))
    assert tags_on(config.labels_tags, "video")
    assert bool(tags_on(config.region_text_areas, "video")) is VIDEOS[name]
    assert any(not area.read_only for area in tags_on(config.text_areas, "video"))


def test_the_sequence_has_pages_and_a_command_line():
    config = parse_label_config((FOLDER / "frame_sequence.xml").read_text(encoding="utf-8"))
    assert config.images[0].is_sequence
    assert any(not area.read_only for area in tags_on(config.text_areas, "image"))


def shipped():
    """The examples, and the demo's configs."""
    for path in (*FOLDER.glob("*.xml"), *(FOLDER.parent / "demo").glob("*.xml")):
        yield pytest.param(path.read_text(encoding="utf-8"), id=f"{path.parent.name}/{path.name}")


@pytest.mark.parametrize("xml", list(shipped()))
def test_answers_stand_above_the_picture_and_are_not_saved(xml):
    LabelInterface(xml).validate()
    config = parse_label_config(xml)
    assert config.problems == ()
    root = ElementTree.fromstring(xml)
    order = [node.get("name") for node in root.iter()]
    for shown in (*config.images, *config.videos):
        line = config.status_area(shown.name)
        [area] = root.iterfind(f".//TextArea[@name='{line.name}']")
        # The editor's Result.canBeSubmitted is false where the condition cannot be met; unlike
        # those of a View, it does not hide a TextArea.
        assert (area.get("visibleWhen"), area.get("whenTagName")) == ("choice-selected", line.name)
        assert line.read_only
        others = (*config.prompts, *config.labels_tags, shown)
        assert all(order.index(line.name) < order.index(each.name) for each in others)
        if isinstance(shown, VideoTag):  # one on a <Video> gets a region in the timeline
            assert line.tied_to not in (video.name for video in config.videos)
