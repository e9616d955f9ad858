"""The dialogue against what a real Label Studio sent."""

from __future__ import annotations

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle

from backend.labelstudio.geometry import Box
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.prompts import PointPrompt, prompts_from_task
from backend.labelstudio.tags import Shape
from backend.labelstudio.write_results import region_id
from tests.labelstudio import captured
from tests.labelstudio.masks import region_mask


@pytest.mark.parametrize("name", captured.names())
def test_every_recorded_request_is_understood(name):
    for request in captured.requests(name):
        prompts = request.prompts
        context = request.context or {}
        on_images = any(
            item.get("type") != "textarea" and request.config.image(item["to_name"])
            for item in context.get("result", [])
        )
        assert bool(prompts.objects) == on_images
        for prompt in prompts.objects:
            assert prompt.has_positive
            assert prompt.labels
            assert (prompt.original_width, prompt.original_height) != (None, None)
            assert request.config.find_answer(prompt.image, prompt.labels, prompt.from_name)
        for task in request.body["tasks"]:
            prompts_from_task(task, request.config)


@pytest.mark.parametrize("name", captured.names())
def test_every_recorded_setup_is_understood(name):
    for body in captured.setups(captured.load(name)):
        config = parse_label_config(body["schema"])
        assert all("no <TextArea>" in problem for problem in config.problems)
        assert config.usable


def test_one_click():
    request = captured.request("02a_kp_click1")
    [prompt] = request.prompts.objects
    assert prompt.image == "image"
    assert prompt.labels == ("Cat",)
    assert prompt.points == (PointPrompt(27.0032930845225, 47.07281375777534, True),)
    assert prompt.box is None
    assert (prompt.original_width, prompt.original_height) == (800, 600)
    assert prompt.item_index is None
    assert prompt.source_ids == ("NTnk9zkbCg",)
    assert prompt.from_name == "kp"
    answer = request.config.find_answer("image", prompt.labels, prompt.from_name)
    assert answer.control.name == "brush"


def test_pending_clicks_of_a_label_come_together_and_alt_is_negative():
    [prompt] = captured.request("02c_kp_click3_alt_negative").prompts.objects
    assert [point.positive for point in prompt.points] == [True, True, False]
    assert prompt.source_ids == ("NTnk9zkbCg", "MuC3tB2AVI", "lz0CjpAEGG")


def test_further_clicks_keep_the_region_id():
    ids = {
        region_id(captured.request(name).prompts.objects[0])
        for name in ("02a_kp_click1", "02b_kp_click2_pos", "02c_kp_click3_alt_negative")
    }
    assert len(ids) == 1
    [other_label] = captured.request("02c2_other_label_click").prompts.objects
    assert other_label.labels == ("Dog",)
    assert region_id(other_label) not in ids


def test_a_dragged_click_keeps_the_region_id_and_moves():
    [before] = captured.request("02w_kp_for_edit").prompts.objects
    [after] = captured.request("02w2_kp_drag").prompts.objects
    assert region_id(before) == region_id(after)
    assert before.points != after.points


def test_box_has_no_sign():
    [prompt] = captured.request("02g_box").prompts.objects
    assert prompt.box == Box(
        54.99451152579583,
        15.020124405415295,
        33.040614709110855,
        39.95609220636664,
        0,
    )
    assert prompt.points == ()
    assert prompt.labels == ("Dog",)
    [alt] = captured.request("02j_box_alt").prompts.objects
    assert alt.has_positive


@pytest.mark.parametrize("name", ["02y_generic_kp", "02y2_generic_box"])
def test_separate_labels_two_results_with_one_id_are_one_prompt(name):
    request = captured.request(name)
    assert len(request.context["result"]) == 2
    [prompt] = request.prompts.objects
    assert len(prompt.source_ids) == 1
    assert len(prompt.points) + (prompt.box is not None) == 1
    assert prompt.labels == (("Dog",) if prompt.box else ("Cat",))
    answer = request.config.find_answer("image", prompt.labels, prompt.from_name)
    assert (answer.control.name, answer.labels_tag.name) == ("brush", "labels")


def test_rotated_picture_keeps_unrotated_coordinates():
    [prompt] = captured.request("02z_rotated_click").prompts.objects
    assert prompt.image_rotation == 90
    assert (prompt.original_width, prompt.original_height) == (800, 600)


def test_exif_sizes_are_those_of_the_upright_picture():
    [prompt] = captured.request("02m_exif_autoaccept_click").prompts.objects
    assert (prompt.original_width, prompt.original_height) == (600, 800)


def test_prompts_on_two_pages_are_two_objects():
    request = captured.request("03d_page5_second_prompt_same_label")
    first, second = request.prompts.objects
    assert (first.item_index, second.item_index) == (3, 5)
    assert region_id(first) != region_id(second)
    image = request.config.images[0]
    assert media_uri(request.task["data"], image, 3).endswith("frame_0003.jpg")
    assert media_uri(request.task["data"], image, 5).endswith("frame_0005.jpg")


def test_submitting_sends_an_empty_context():
    request = captured.request("02l_submit")
    assert request.context == {"result": []}
    assert (request.prompts.objects, request.prompts.commands) == ((), ())
    assert request.prompts.ignored == ()


def test_command_in_the_text_area_of_a_sequence():
    [command] = captured.request("03s_seqcmd_command_track").prompts.commands
    assert (command.newest, command.area, command.to_name) == ("track", "cmd", "image")
    assert command.item_index is None
    [per_item] = captured.request("03s_seqcmdpi_command_track").prompts.commands
    assert per_item.item_index == 2


def test_text_area_of_a_region_is_no_command():
    request = captured.request("04t_perregion_textarea")
    assert (request.prompts.objects, request.prompts.commands) == ((), ())
    assert any("rcmd" in reason for reason in request.prompts.ignored)


def test_video_is_named_as_the_reason():
    prompts = captured.request("04b_change_label_of_selected_box").prompts
    assert (prompts.objects, prompts.commands) == ((), ())
    assert prompts.ignored == ("region e1wb-MSHFp: video is no <Image>",)


def test_a_mask_saved_under_the_label_of_the_box_tool_is_no_box():
    # accepted while a label of the rectangle tool was selected: the same RLE twice
    request = captured.request("02l_submit")
    saved = request.task["annotations"][0]["result"]
    assert any(item["type"] == "rectanglelabels" and "rle" in item["value"] for item in saved)
    [left] = prompts_from_task(request.task, request.config)
    assert left.source_ids == ("6UqTJXNOdp",)  # the only box that never became a mask


def test_brush_masks_that_label_studio_saved_decode_as_its_own_sdk_does():
    masks = {}
    for name in captured.names():
        for item in captured.results(captured.load(name)):
            if item["value"].get("rle") and "original_width" in item:
                masks[bytes(item["value"]["rle"])] = item
    assert len(masks) > 10
    for rle, item in masks.items():
        height, width = item["original_height"], item["original_width"]
        if rle[:4] != (4 * width * height).to_bytes(4, "big"):  # a reply of a wrong size
            with pytest.raises(ValueError, match="values"):
                region_mask(item)
            continue
        expected = decode_rle(rle).reshape(height, width, 4)[..., 3] > 0
        np.testing.assert_array_equal(region_mask(item), expected)


def test_regions_that_the_editor_accepted_are_read_back():
    kinds = {}
    for item in captured.load("02R_mixed_all_types__autoaccept")["serialized"]:
        if item["type"] not in ("textarea", "keypointlabels"):
            kinds[item["type"]] = region_mask(item)
    wanted = {shape + "labels" for shape in Shape} - {"keypointlabels", "ellipselabels"}
    assert kinds.keys() == wanted
    for mask in kinds.values():
        assert mask.shape == (600, 800)
        assert 0.001 < mask.mean() < 0.5
    # the two drawn shapes whose area is known
    assert kinds["rectanglelabels"].mean() == pytest.approx(0.29 * 0.30, rel=0.01)
    assert kinds["polygonlabels"].mean() == pytest.approx(0.30 * 0.27 / 2, rel=0.01)
