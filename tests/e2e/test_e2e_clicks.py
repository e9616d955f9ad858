"""From a click to a saved brush mask, in a real browser on a real Label Studio."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from demo.backend import REPOSITORY
from tests.e2e.editor import Editor
from tests.e2e.masks import brush_masks, iou, true_object
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BUD = true_object("quince.jpg", "bud")
BEE = true_object("quince.jpg", "bee")
# Beside the bud, where its mask spreads into the calyx.
SCREENSHOT = REPOSITORY / "docs" / "images" / "mask_in_label_studio.png"


@pytest.fixture(scope="module")
def project(services: Services, label_config: str) -> int:
    """A project set up as the demo's."""
    return services.project("Clicks", label_config)


@pytest.fixture
def task(services: Services, project: int) -> int:
    """A fresh task with the quince photo."""
    [task] = services.photo_tasks(project, BUD.photo)
    return task


def test_a_click_becomes_a_saved_mask_of_the_object(
    editor: Editor, services: Services, project: int, task: int
) -> None:
    editor.open(project, task)
    answer = editor.point(*BUD.click, "Flower")
    assert answer.errors == []
    [(suggested, _)] = brush_masks(answer.results)
    assert [region.label for region in editor.state().suggestions] == ["Flower"]

    _document(editor)
    editor.accept()
    assert [mask.label for mask in editor.state().masks] == ["Flower"]
    editor.submit()

    [annotation] = services.api.annotations(task)
    [(saved, item)] = brush_masks(annotation["result"])
    assert item["type"] == "brushlabels"
    assert item["value"]["brushlabels"] == ["Flower"]
    assert iou(saved, suggested) >= 0.95
    assert iou(saved, BUD.mask) >= 0.7


def _document(editor: Editor) -> None:
    """The picture in the README, made only where it is asked for."""
    if os.environ.get("E2E_DOCS_SCREENSHOT"):
        Path(SCREENSHOT).parent.mkdir(parents=True, exist_ok=True)
        editor.page.screenshot(path=SCREENSHOT)
