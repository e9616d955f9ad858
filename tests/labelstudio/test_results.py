"""Masks as Label Studio results, and back."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.label_interface import LabelInterface

from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.commands import STATUS_PREFIX
from backend.labelstudio.geometry import Box
from backend.labelstudio.label_config import RecentConfigs, parse_label_config
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.write_results import (
    LabelMismatch,
    region_id,
    region_results,
    status_results,
    with_note,
)
from tests.labelstudio import captured
from tests.labelstudio.configs import box, with_answer, with_separate_labels
from tests.labelstudio.masks import region_mask

ANSWERS = ["BrushLabels", "BitmaskLabels", "PolygonLabels", "VectorLabels", "RectangleLabels"]
MASKS = arrays(bool, st.tuples(st.integers(1, 33), st.integers(1, 33)))


def blob(height=301, width=403):
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 4, height // 3), 25, 0, 360, 1, -1)
    return mask.astype(bool)


def answer(mask, tag="BrushLabels", *, config=None, prompt=None, identifier="region-one"):
    prompt = prompt or ObjectPrompt("img", labels=("Cat",), from_name="kp")
    config = config or with_answer(tag)
    return region_results(prompt, mask, score=0.87, config=config, region_id=identifier)


def together(results):
    return np.logical_xor.reduce([region_mask(result) for result in results])


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels"])
@given(mask=MASKS)
def test_masks_come_back_exactly(tag, mask):
    results = answer(mask, tag)
    assert bool(results) == bool(mask.any())
    for result in results:
        np.testing.assert_array_equal(region_mask(result), mask)


@pytest.mark.parametrize("tag", ["PolygonLabels", "VectorLabels"])
def test_outlines_come_back_nearly(tag):
    mask = blob()
    mask[100:130, 190:220] = False
    mask[5:30, 5:40] = True
    results = answer(mask, tag)
    assert iou(together(results), mask) >= 0.98
    assert all(result["value"]["closed"] is True for result in results)


@pytest.mark.parametrize(
    ("tag", "key"), [("PolygonLabels", "points"), ("VectorLabels", "vertices")]
)
def test_the_detail_of_the_settings_rules_the_corners(tag, key):
    xml = f"""<View><Image name="img" value="$image"/>
      <{tag} name="answer" toName="img"><Label value="Cat"/></{tag}></View>"""
    corners, alike = [], []
    for detail in (0.5, None, 2.0, 6.0):
        [result] = answer(blob(), config=RecentConfigs(detail).parse(xml))
        corners.append(len(result["value"][key]))
        alike.append(iou(region_mask(result), blob()))
    assert corners[0] >= corners[1] > corners[2] > corners[3]
    assert alike[1] >= 0.98


def test_rectangle_is_the_tight_box():
    mask = blob()
    [result] = answer(mask, "RectangleLabels")
    rows, columns = np.nonzero(mask)
    expected = np.zeros_like(mask)
    expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    np.testing.assert_array_equal(region_mask(result), expected)


@pytest.mark.parametrize("tag", ANSWERS)
def test_fields_of_every_answer(tag):
    prompt = ObjectPrompt(
        "img",
        item_index=3,
        labels=("Dog",),
        original_width=403,
        original_height=301,
        image_rotation=90.0,
        from_name="kp",
    )
    [result] = answer(blob(), tag, prompt=prompt)
    assert result["id"] == "region-one"
    assert (result["from_name"], result["to_name"]) == ("answer", "img")
    assert result["type"] == tag.lower()
    assert result["value"][tag.lower()] == ["Dog"]
    assert (result["original_width"], result["original_height"]) == (403, 301)
    assert result["image_rotation"] == 90
    assert result["item_index"] == 3
    assert result["score"] == 0.87
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("tag", ANSWERS)
def test_values_have_the_keys_that_the_editor_wrote_itself(tag):
    saved = {
        item["type"]: item["value"].keys()
        for item in captured.load("02R_mixed_all_types__autoaccept")["serialized"]
    }
    [result] = answer(blob(), tag)
    assert result["value"].keys() == saved[tag.lower()]


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels", "RectangleLabels"])
def test_label_studios_own_validation_accepts_predictions(tag):
    labels = '<Label value="Cat"/><Label value="Dog"/>'
    xml = f"""<View><Image name="img" value="$image"/>
      <{tag} name="answer" toName="img">{labels}</{tag}></View>"""
    results = answer(blob(), config=parse_label_config(xml))
    interface = LabelInterface(xml)
    prediction = {"model_version": "m", "score": 0.5, "result": results}
    assert interface.validate_prediction(prediction, return_errors=True) == []
    wrong = {**prediction, "result": [{**results[0], "from_name": "gone"}]}
    assert interface.validate_prediction(wrong, return_errors=True) != []


def test_without_item_index_none_is_written():
    [result] = answer(blob())
    assert "item_index" not in result


def test_bitmask_is_black_on_transparent():
    mask = blob(7, 5)
    [result] = answer(mask, "BitmaskLabels")
    data = result["value"]["imageDataURL"].removeprefix("data:image/png;base64,")
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (7, 5, 4)
    np.testing.assert_array_equal(picture[..., 3], mask * 255)
    assert not picture[..., :3].any()


def test_vertices_form_a_chain():
    [result] = answer(blob(), "VectorLabels")
    vertices = result["value"]["vertices"]
    assert vertices[0]["prevPointId"] is None
    for before, after in itertools.pairwise(vertices):
        assert after["prevPointId"] == before["id"]
    assert len({vertex["id"] for vertex in vertices}) == len(vertices)
    assert result["value"]["closed"] is True


@pytest.mark.parametrize("tag", ["PolygonLabels", "VectorLabels"])
def test_parts_are_regions_with_ids_of_their_own(tag):
    mask = np.zeros((60, 90), dtype=bool)
    mask[5:20, 5:20] = mask[30:55, 40:80] = mask[5:12, 60:80] = True
    results = answer(mask, tag)
    assert len(results) == 3
    ids = [result["id"] for result in results]
    assert ids[0] == "region-one"
    assert len(set(ids)) == 3
    assert ids == [result["id"] for result in answer(mask, tag)]
    assert set(ids[1:]).isdisjoint(
        result["id"] for result in answer(mask, tag, identifier="region-two")
    )
    assert iou(together(results), mask) >= 0.98


def test_a_mask_in_parts_is_one_brush_region():
    mask = np.zeros((60, 90), dtype=bool)
    mask[5:20, 5:20] = mask[30:55, 40:80] = True
    assert len(answer(mask)) == 1


@pytest.mark.parametrize("tag", ANSWERS)
def test_no_region_for_an_empty_mask(tag):
    assert answer(np.zeros((6, 8), dtype=bool), tag) == []


def test_the_mask_takes_the_size_the_editor_knows():
    prompt = ObjectPrompt("img", labels=("Cat",), original_width=806, original_height=602)
    [result] = answer(blob(), prompt=prompt)
    mask = region_mask(result)
    assert mask.shape == (602, 806)
    np.testing.assert_array_equal(mask, np.kron(blob(), np.ones((2, 2), dtype=bool)))


@pytest.mark.parametrize("tag", ["Brush", "Bitmask", "Polygon", "Vector", "Rectangle"])
def test_separate_labels_give_two_results_with_one_id(tag):
    shape, named = answer(blob(), config=with_separate_labels(tag))
    assert shape["id"] == named["id"]
    assert (shape["type"], shape["from_name"]) == (tag.lower(), "answer")
    assert (named["type"], named["from_name"]) == ("labels", "labels")
    assert named["value"]["labels"] == ["Cat"]
    assert "labels" not in shape["value"]
    np.testing.assert_array_equal(region_mask(shape), region_mask(named))


def test_prompts_without_label_give_regions_without_label():
    bare = ObjectPrompt("img", from_name="kp")
    [result] = answer(blob(), prompt=bare)
    assert "brushlabels" not in result["value"]
    [plain] = answer(blob(), prompt=bare, config=with_separate_labels("Brush"))
    assert plain["type"] == "brush"


def test_the_alias_is_written():
    config = parse_label_config("""<View><Image name="img" value="$i"/>
      <BrushLabels name="b" toName="img"><Label value="Cat" alias="c"/></BrushLabels>
      <KeyPointLabels name="kp" toName="img"><Label value="Cat" alias="katze"/></KeyPointLabels>
    </View>""")
    prompt = ObjectPrompt("img", labels=("katze",), from_name="kp")
    [result] = answer(blob(), config=config, prompt=prompt)
    assert result["value"]["brushlabels"] == ["c"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            with_answer("BrushLabels"),
            "label Zebra is not in <BrushLabels name=answer>: add it to the label config",
        ),
        (
            with_separate_labels("Brush"),
            "label Zebra is not in <Labels name=labels>: add it to the label config",
        ),
        (
            parse_label_config('<View><Image name="img" value="$i"/></View>'),
            "the label config has no answer tag for <Image name=img>: add "
            '<BrushLabels name="brush" toName="img">',
        ),
    ],
)
def test_labels_are_not_guessed(config, message):
    prompt = ObjectPrompt("img", labels=("Zebra",), from_name="kp")
    with pytest.raises(LabelMismatch) as raised:
        answer(blob(), config=config, prompt=prompt)
    assert str(raised.value) == message


# --- ids -----------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=12)
PAGES = st.none() | st.integers(0, 500)


@given(st.sets(st.tuples(NAMES, PAGES, NAMES), max_size=30))
def test_ids_are_unique_and_stable(places):
    prompts = [
        ObjectPrompt(image, item_index=page, source_ids=(first,)) for first, page, image in places
    ]
    ids = [region_id(prompt) for prompt in prompts]
    assert len(set(ids)) == len(prompts)
    assert ids == [region_id(prompt) for prompt in prompts]
    assert all(len(identifier) >= 10 and identifier.isalnum() for identifier in ids)


def test_ids_differ_by_object_page_and_picture():
    prompts = [
        ObjectPrompt(image, item_index=page, source_ids=(first,))
        for image in ("left", "right")
        for page in (None, 0, 1)
        for first in ("a", "b")
    ]
    assert len({region_id(prompt) for prompt in prompts}) == len(prompts)


@given(NAMES, st.lists(NAMES, max_size=4), st.floats(0, 100))
def test_further_prompts_do_not_change_the_id(first, more, x):
    prompt = ObjectPrompt("img", source_ids=(first,), points=(PointPrompt(1, 1, True),))
    grown = replace(
        prompt,
        source_ids=(first, *more),
        points=prompt.points + tuple(PointPrompt(x, x, False) for name in more),
    )
    assert region_id(prompt) == region_id(grown)


def test_an_anchor_keeps_the_id_of_an_earlier_answer():
    boxed = ObjectPrompt("img", source_ids=("b1",), box=Box(1, 1, 5, 5))
    later = ObjectPrompt("img", source_ids=("p1",), points=(PointPrompt(2, 2, True),))
    assert region_id(later, anchor="b1") == region_id(boxed)
    assert region_id(later) != region_id(boxed)


# --- the status box --------------------------------------------------------------------------


def test_status_text():
    config = with_answer("BrushLabels")
    [result] = status_results("still loading", config, "img")
    assert result["type"] == "textarea"
    assert (result["from_name"], result["to_name"]) == ("status", "img")
    assert result["value"] == {"text": [STATUS_PREFIX + "still loading"]}
    assert "item_index" not in result
    [again] = status_results(STATUS_PREFIX + "ready", config, "img", 4)
    assert again["value"] == {"text": [STATUS_PREFIX + "ready"]}
    assert again["id"] == result["id"]


@pytest.mark.parametrize("nothing", [None, ""])
def test_status_is_cleared_with_an_empty_list(nothing):
    [result] = status_results(nothing, with_answer("BrushLabels"), "img")
    assert result["value"] == {"text": []}


def test_status_per_page():
    config = parse_label_config(
        '<View><Image name="i" valueList="$i"/><TextArea name="t" toName="i" perItem="true"/>'
        "</View>"
    )
    [third] = status_results("x", config, "i", 3)
    [fourth] = status_results("x", config, "i", 4)
    assert (third["item_index"], fourth["item_index"]) == (3, 4)
    assert third["id"] != fourth["id"]


def test_no_status_without_a_global_text_area():
    config = parse_label_config(
        '<View><Image name="i" value="$i"/><TextArea name="t" toName="i" perRegion="true"/></View>'
    )
    assert status_results("x", config, "i") == []
    assert status_results("x", with_answer("BrushLabels"), "other") == []


def test_the_status_has_the_form_that_worked_in_the_editor():
    saved = captured.load("02R_brush_plus_status_text__autoaccept")["serialized"]
    [theirs] = [item for item in saved if item["type"] == "textarea"]
    [ours] = status_results("x", with_answer("BrushLabels"), "img")
    assert ours.keys() | {"origin"} == theirs.keys()
    assert ours["value"].keys() == theirs["value"].keys()


# --- reading regions -------------------------------------------------------------------------


def item(value, width=80, height=60):
    return {**box(0, 0, 1, 1), "original_width": width, "original_height": height, "value": value}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (item({}), "no geometry"),
        (item({"rle": 5}), "not a list"),
        (item({"rle": [1, "a"]}), "not a byte"),
        (item({"rle": [0, 1, 999]}), "not a byte"),
        (item({"rle": [0, 1]}), "ends before"),
        (item({"rle": encode_brush(np.ones((6, 4), bool))}), "values"),
        (item({"rle": [1]}, 10**9, 10**9), "outside 1 to"),
        (item({"x": 1, "y": 1, "width": 5, "height": 5}, 10**6, 10**6), "outside 1 to"),
        (item({"imageDataURL": None}), "not a base64 PNG"),
        (item({"imageDataURL": "data:image/png;base64,%%%"}), "not base64"),
        (item({"imageDataURL": "data:image/png;base64,QUJD"}), "not a PNG"),
        (item({"points": [[1, 2]]}), "enclose nothing"),
        (item({"points": "x"}), "not a list"),
        (item({"points": [[1], [2], [3]]}), "not a pair"),
        (item({"points": [[1, "x"], [2, 3], [3, 4]]}), "not a number"),
        (item({"vertices": 3}), "not a list"),
        (item({"vertices": [1, 2, 3]}), "not a pair"),
        (item({"x": 1, "y": 1, "radiusX": 0, "radiusY": 5}), "empty"),
        (item({"x": 1, "y": 1, "width": 5, "height": "nan"}), "not a number"),
    ],
)
def test_regions_that_cannot_be_read_say_why(result, message):
    with pytest.raises(ValueError, match=message):
        region_mask(result)


def png(width, height):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return "data:image/png;base64," + base64.b64encode(header + b"\x08\x06\0\0\0").decode()


def test_a_png_that_declares_a_huge_picture_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match="outside 1 to"):
        region_mask(item({"imageDataURL": png(2**31 - 1, 2**31 - 1)}))
    with pytest.raises(ValueError, match="cannot be decoded"):
        region_mask(item({"imageDataURL": png(80, 60)}))


def test_opaque_bitmasks_are_what_is_not_black():
    grey = np.zeros((60, 80), dtype=np.uint8)
    grey[10:20, 30:50] = 255
    data = base64.b64encode(cv2.imencode(".png", grey)[1].tobytes()).decode()
    found = region_mask(item({"imageDataURL": "data:image/png;base64," + data}))
    np.testing.assert_array_equal(found, grey > 0)


@pytest.mark.parametrize("earlier", [{}, {"meta": {"text": ["SAM 2: look here: 3"]}}, {"meta": 0}])
def test_a_note_replaces_only_our_own(earlier):
    result = {"id": "r", **earlier}
    assert with_note(result, "unsure")["meta"] == {"text": ["SAM 2: unsure"]}
    assert result == {"id": "r", **earlier}


@pytest.mark.parametrize("text", ["the left one", ["the left one"]])
def test_a_note_never_replaces_a_humans(text):
    result = {"id": "r", "meta": {"text": text}}
    assert with_note(result, "unsure") == result
