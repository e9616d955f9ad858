"""``everything`` in a real browser: all objects of a photo, of a box on it, and of a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.backend import REPOSITORY
from tests.e2e.editor import Editor
from tests.e2e.masks import Mask, brush_masks, iou
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

WIDTH, HEIGHT = 400, 300
# By centre, x and y, in pixels: radius and colour.
DISCS = {
    (80, 70): (40, (220, 40, 40)),
    (300, 80): (50, (40, 60, 220)),
    (110, 220): (45, (230, 200, 50)),
    (290, 210): (35, (240, 240, 240)),
}


def disc(centre: tuple[int, int], moved: int = 0) -> Mask:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside: Mask = (columns - centre[0] - moved) ** 2 + (rows - centre[1]) ** 2 <= DISCS[centre][
        0
    ] ** 2
    return inside


@pytest.fixture
def discs(tmp_path: Path) -> list[Path]:
    """Three pictures of discs that move to the right."""
    paths = [tmp_path / f"discs-{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        pixels = np.full((HEIGHT, WIDTH, 3), (40, 90, 60), np.uint8)
        for centre, (_, colour) in DISCS.items():
            pixels[disc(centre, 8 * number)] = colour
        Image.fromarray(pixels).save(path)
    return paths


def found(masks: list[Mask], moved: int = 0) -> set[tuple[int, int]]:
    """The discs of which there is a mask."""
    return {
        centre for centre in DISCS if any(iou(mask, disc(centre, moved)) > 0.8 for mask in masks)
    }


def said(editor: Editor) -> str:
    [line] = editor.lines("sam2_says")
    return line


def test_all_objects_of_a_photo_by_one_command(
    editor: Editor, services: Services, label_config: str, discs: list[Path]
) -> None:
    project = services.project("Everything", label_config)
    [task] = services.photo_tasks(project, discs[0])
    editor.open(project, task)
    editor.say("everything Cow")
    assert said(editor) == "SAM 2: there is no label Cow; the labels are Flower, Animal, Thing"
    editor.say("everything")
    assert said(editor).startswith("SAM 2: which label? Type everything Flower; the labels are ")

    answer = editor.say("everything thing")
    masks = brush_masks(answer.results)
    assert found([mask for mask, _ in masks]) == set(DISCS)
    assert said(editor) == f"SAM 2: found {len(masks)} Thing"
    assert {each.label for each in editor.state().suggestions} == {"Thing"}
    with editor.saved():
        editor.accept()
    assert len(editor.state().masks) == len(masks)
    editor.say("everything animal")
    assert said(editor) == "SAM 2: found nothing that is not labelled already"
    assert len(editor.state().masks) == len(masks)
    editor.submit()

    [annotation] = services.api.annotations(task)
    saved = brush_masks(annotation["result"])
    assert found([mask for mask, _ in saved]) == set(DISCS)
    assert {tuple(item["value"]["brushlabels"]) for _, item in saved} == {("Thing",)}


def test_all_objects_in_the_box_that_was_just_dragged(
    editor: Editor, services: Services, label_config: str, discs: list[Path]
) -> None:
    project = services.project("Everything in a box", label_config)
    [task] = services.photo_tasks(project, discs[0])
    editor.open(project, task)
    editor.box((4, 5, 53, 98), "Animal")  # around the two on the left
    assert len(editor.state().suggestions) == 1
    answer = editor.say("everything Flower")
    assert said(editor).endswith("Flower in the box")
    left = {(80, 70), (110, 220)}
    shown = [(mask, item) for mask, item in brush_masks(answer.results) if not item.get("dynamic")]
    assert found([mask for mask, _ in shown]) == left
    editor.accept()
    masks = editor.state().masks
    assert {each.id for each in masks} == {item["id"] for _, item in shown}
    assert {each.label for each in masks} == {"Flower"}


def test_all_objects_of_a_page_are_tracked_on(
    editor: Editor, services: Services, discs: list[Path]
) -> None:
    config = (REPOSITORY / "examples" / "frame_sequence.xml").read_text(encoding="utf-8")
    project = services.project("Everything on a page", config)
    pages = [services.api.upload(project, each) for each in discs]
    [task] = services.api.create_tasks(project, [{"frames": pages}])
    editor.open(project, task, auto_accept=True)
    with editor.saved():
        answer = editor.say("everything Animal")
    first = brush_masks(answer.results)
    assert said(editor) == f"SAM 2: found {len(first)} Animal on page 1"
    assert found([mask for mask, _ in first]) == set(DISCS)
    answer = editor.say("track")
    for page in (1, 2):
        masks = [mask for mask, item in brush_masks(answer.results) if item["item_index"] == page]
        assert found(masks, 8 * page) == set(DISCS)
