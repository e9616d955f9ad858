"""The demo's own steps, carried out one by one on the first task that is opened and on a later one,
with the mouse, and with the keyboard wherever a step has a key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator

from demo.clip import FRAMES, sample_clip
from demo.guide import WALKS, Step, Walk
from demo.sample_photos import photo_objects
from tests.e2e.editor import Editor
from tests.e2e.masks import Mask, brush_masks, centre, corners, iou, true_object
from tests.e2e.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

FLOWERS = [true_object("quince.jpg", "bud"), true_object("dahlia.jpg", "dahlia")]
CLIPS = [sample_clip(), sample_clip().backwards()]
Point = tuple[float, float]


class Hand:
    """Carries steps out on the ``number``-th task.

    Args:
        keys: use the keyboard for all but what is done on the picture itself.
    """

    def __init__(self, editor: Editor, walk: Walk, number: int, *, keys: bool) -> None:
        self._editor, self._page = editor, editor.page
        self._walk, self._number, self._keys = walk, number, keys

    def carry_out(self, step: Step) -> None:
        getattr(self, "_" + step.do.replace(" ", "_"))(step)

    def _switch(self, step: Step) -> None:
        name = step.what.partition(" Sug")[0].lower()
        switch = self._page.get_by_test_id(f"bottombar-{name}-toggle")
        self._press(switch, step.key) if self._keys else switch.click(force=True)
        assert switch.is_checked()

    def _leave_the_switches(self, step: Step) -> None:
        if self._keys:
            self._tab_to(self._page.get_by_test_id("bottombar-submit-button"))
        else:
            self._editor.click(2, 95)

    def _smart_tool(self, step: Step) -> None:
        if self._keys:
            self._page.keyboard.press(step.key)
        else:
            self._editor.smart_tool.click()
            self._page.mouse.move(5, 5)
        assert self._editor.state().tool == "smart KeyPointTool"

    def _label(self, step: Step) -> None:
        if self._keys:
            self._page.keyboard.press(step.key)
        else:
            self._editor.choose_label(self._editor.labels[0], step.what)
        assert self._editor.chosen_labels() == [step.what]

    def _click(self, step: Step) -> None:
        flower = FLOWERS[self._number].click
        place = flower if step.what == "flower" else centre(self._mask(step.what))
        answer = self._editor.prompt(lambda: self._editor.click(*place))
        assert len(brush_masks(answer.results)) == 1

    def _box(self, step: Step) -> None:
        before = len(self._editor.state().regions)
        self._editor.drag(*corners(self._mask(step.what)))
        self._page.wait_for_function(
            "(n) => Htx.annotationStore.selected.regions.length > n", arg=before
        )

    def _unselect(self, step: Step) -> None:
        assert step.key == "Escape"
        self._editor.unselect()

    def _accept(self, step: Step) -> None:
        tick = self._page.get_by_test_id("bottombar-accept-suggestions-button")
        self._press(tick, "Space") if self._keys else tick.click()
        self._page.wait_for_function("() => !Htx.annotationStore.selected.suggestions.size")

    def _saved(self, step: Step) -> None:
        with self._editor.saved():
            self._page.mouse.move(5, 5)

    def _say(self, step: Step) -> None:
        box = self._editor.text_box("sam2")
        self._tab_to(box) if self._keys else box.click()
        self._page.keyboard.type(step.what)
        self._editor.prompt(lambda: self._page.keyboard.press("Enter"))
        [line] = self._editor.lines("sam2_says")
        assert f"1-{FRAMES} of {FRAMES} done" in line
        assert self._editor.in_sight(self._page.get_by_text(line, exact=True))
        assert self._editor.in_sight(box)
        if not self._number and not self._keys:
            name = self._walk.title.lower().replace(" ", "_")
            self._editor.document(f"{name}_after_track", 1280, 800)

    def _submit(self, step: Step) -> None:
        button = self._page.get_by_test_id("bottombar-submit-button")
        if self._keys:
            self._tab_to(button)
        self._editor.submitted(
            lambda: self._page.keyboard.press(step.key) if self._keys else button.click()
        )

    def _mask(self, name: str) -> Mask:
        return CLIPS[self._number].masks[name][0]

    def _press(self, element: Locator, key: str) -> None:
        self._tab_to(element)
        self._page.keyboard.press(key)

    def _tab_to(self, element: Locator) -> None:
        for _ in range(80):
            if element.evaluate("(each) => each === document.activeElement"):
                return
            self._page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {element}")


@pytest.mark.parametrize("keys", [False, True], ids=["mouse", "keys"])
@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.title)
def test_the_steps_work_on_the_first_task_and_on_a_later_one(
    editor: Editor, services: Services, walk: Walk, keys: bool
) -> None:
    project, *tasks = services.demo_tasks("Guide", walk.project)
    editor.page.set_viewport_size({"width": 1280, "height": 800})
    editor.forget()
    for number, task in enumerate(tasks[:2]):
        # Label Studio fetches the task twice and shows it anew, without what was chosen meanwhile.
        address = f"{editor.url}/projects/{project}/data?task={task}"
        editor.page.goto(address, wait_until="networkidle")
        editor.wait_for_image()
        hand = Hand(editor, walk, number, keys=keys)
        for step in walk.steps:
            if number == 0 or not step.once:
                hand.carry_out(step)
        [annotation] = services.api.annotations(task)
        check(walk, number, annotation["result"])


def check(walk: Walk, number: int, result: list[dict[str, Any]]) -> None:
    """What was submitted is what the steps promise, and nothing else.

    Where answers are not accepted all at once, as on a video, the emptied text box leaves an empty
    text.
    """
    result = [item for item in result if item["value"].get("text") != []]
    clip = CLIPS[number]
    if walk.title == "PHOTOS":
        [(mask, _)] = brush_masks(result)
        assert len(result) == 1
        assert iou(mask, FLOWERS[number].mask) >= 0.7
    elif walk.title == "FRAME SEQUENCE":
        masks = {item["item_index"]: mask for mask, item in brush_masks(result)}
        assert len(result) == len(masks) == FRAMES
        overlaps = [iou(masks[page], clip.masks["bud"][page]) for page in range(FRAMES)]
        assert np.mean(overlaps) >= 0.6
    else:
        boxes = {item["value"]["labels"][0]: item["value"]["sequence"] for item in result}
        assert len(result) == 2
        assert boxes.keys() == {"Flower", "Animal"}
        assert all(len(sequence) > 2 for sequence in boxes.values())


def test_the_boxes_of_the_demo_s_detector_become_masks(services: Services) -> None:
    photos, *_ = WALKS
    project, *tasks = services.demo_tasks("Detected", photos.project)
    services.api.retrieve_predictions(project, tasks[-3:])
    expected = [[*objects.values()] for objects in photo_objects().values() if objects]
    for task, objects in zip(tasks[-3:], expected, strict=True):
        [made] = [
            each for each in services.api.predictions(task) if each["model_version"] != "detector"
        ]
        masks = [mask for mask, _ in brush_masks(made["result"])]
        assert len(masks) == len(objects)
        for mask, each in zip(masks, objects, strict=True):
            assert iou(mask, each.mask) >= 0.6
