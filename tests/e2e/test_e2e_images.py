"""Rotated photos, sequences of images and other label configs, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from demo.backend import REPOSITORY
from tests.e2e.editor import Editor
from tests.e2e.masks import brush_masks, iou, true_object
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

EXAMPLES = REPOSITORY / "examples"
BUD = true_object("quince.jpg", "bud")
DAHLIA = true_object("dahlia.jpg", "dahlia")
BOWL = true_object("bowl.jpg", "bowl")
ORIENTATION = 0x0112
ROTATE_CLOCKWISE = 6  # the viewer has to turn the stored picture by 90 degrees clockwise


def test_the_mask_is_where_the_click_was_in_an_exif_rotated_photo(
    editor: Editor, services: Services, label_config: str, tmp_path: Path
) -> None:
    rotated = tmp_path / "rotated.jpg"
    with Image.open(BUD.photo) as photo:
        exif = Image.Exif()
        exif[ORIENTATION] = ROTATE_CLOCKWISE
        stored = photo.transpose(Image.Transpose.ROTATE_90)
        stored.save(rotated, quality=95, exif=exif)
    project = services.project("Rotated", label_config)
    [task] = services.photo_tasks(project, rotated)

    editor.open(project, task)
    answer = editor.point(*BUD.click, "Flower")
    [(mask, _)] = brush_masks(answer.results)
    assert mask.shape == BUD.mask.shape
    assert iou(mask, BUD.mask) >= 0.7


def test_a_click_on_the_second_page_of_a_sequence_gives_that_pages_mask(
    editor: Editor, services: Services
) -> None:
    config = (EXAMPLES / "frame_sequence.xml").read_text(encoding="utf-8")
    project = services.project("Sequence", config)
    pages = [services.api.upload(project, item.photo) for item in (DAHLIA, BUD, BOWL)]
    [task] = services.api.create_tasks(project, [{"frames": pages}])

    editor.open(project, task, auto_accept=True)
    editor.go_to_page(1)
    answer = editor.point(*BUD.click, "Animal")
    [(_, item)] = brush_masks(answer.results)
    assert item["item_index"] == 1
    assert [mask.page for mask in editor.state().masks] == [1]
    editor.submit()

    [annotation] = services.api.annotations(task)
    [(saved, item)] = brush_masks(annotation["result"])
    assert item["item_index"] == 1
    assert item["value"]["brushlabels"] == ["Animal"]
    assert iou(saved, BUD.mask) >= 0.7


def test_labels_apart_from_the_tools(editor: Editor, services: Services) -> None:
    config = (EXAMPLES / "image_separate_labels.xml").read_text(encoding="utf-8")
    project = services.project("Separate labels", config)
    [task] = services.photo_tasks(project, BUD.photo)

    editor.open(project, task)
    answer = editor.point(*BUD.click, "Leaf", control="label")
    # Without labels of its own, a region is two results with one id: the mask and its name.
    [region] = {item["id"] for _, item in brush_masks(answer.results)}
    assert len(editor.state().suggestions) == 1
    editor.accept()
    editor.submit()

    [annotation] = services.api.annotations(task)
    saved = {item["type"]: item for item in annotation["result"] if item["id"] == region}
    assert saved["labels"]["value"]["labels"] == ["Leaf"]
    masks = brush_masks(saved.values())
    assert masks
    assert all(iou(mask, BUD.mask) >= 0.7 for mask, _ in masks)
