"""A frame sequence in a real browser: one click, ``track``, masks on all pages; correct; kill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import requests

from demo.clip import FRAMES, sample_clip
from demo.projects import SEQUENCE_PROJECT
from tests.e2e.editor import Editor
from tests.e2e.masks import Mask, brush_masks, centre, corners, iou
from tests.e2e.services import Services
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BUD, BEE = (sample_clip().masks[name] for name in ("bud", "bee"))
CORRECTED = 8
TRACK_SECONDS = 80.0


def by_page(results: list[dict[str, Any]]) -> dict[int, tuple[Mask, dict[str, Any]]]:
    """Mask and region of every page; there must be one at most, but for those that an answer takes
    away."""
    shown = brush_masks(item for item in results if not item.get("dynamic"))
    found = {item["item_index"]: (mask, item) for mask, item in shown}
    assert len(found) == len(shown)
    return found


def _holds(mask: Mask, spot: tuple[float, float]) -> bool:
    """Whether a mask covers a point given in percent."""
    height, width = mask.shape
    return bool(mask[int(spot[1] * height / 100), int(spot[0] * width / 100)])


def test_one_click_and_track_fill_every_page(editor: Editor, services: Services) -> None:
    project, task = services.demo_task("Track", SEQUENCE_PROJECT)
    editor.open(project, task, auto_accept=True)
    with editor.saved():
        clicked = editor.point(*centre(BUD[0]), "Flower")
    tracked = editor.say("track")
    assert sorted(mask.page for mask in editor.state().masks) == list(range(FRAMES))
    assert len(editor.state().text) == 1
    # A correction in place: a spot inside the region is none of it, though Auto-Accept is on.
    spot = centre(BUD[CORRECTED])
    editor.go_to_page(CORRECTED)
    corrected = editor.point(*spot, "Flower", negative=True, through=True)
    assert not _holds(by_page(corrected.results)[CORRECTED][0], spot)
    assert sorted(mask.page for mask in editor.state().masks) == list(range(FRAMES))
    assert not [region for region in editor.state().regions if region.prompt]
    editor.submit()

    [annotation] = services.api.annotations(task)
    saved = by_page(annotation["result"])
    answered = by_page([*clicked.results, *tracked.results])
    region = answered[CORRECTED][1]["id"]
    answered |= by_page(corrected.results)
    assert answered[CORRECTED][1]["id"] == region
    assert sorted(saved) == sorted(answered) == list(range(FRAMES))
    assert len({item["id"] for _, item in saved.values()}) == FRAMES
    for page, (mask, item) in saved.items():
        assert item["value"]["brushlabels"] == ["Flower"]
        assert item["id"] == answered[page][1]["id"]
        assert iou(mask, answered[page][0]) >= 0.9
    overlaps = [iou(saved[page][0], BUD[page]) for page in range(FRAMES)]
    print(f"mean IoU with the true object {np.mean(overlaps):.3f}, lowest {min(overlaps):.3f}")
    assert np.mean(overlaps) >= 0.6


def test_a_correction_changes_only_the_pages_behind_it(editor: Editor, services: Services) -> None:
    project, task = services.demo_task("Correct", SEQUENCE_PROJECT)
    editor.open(project, task, auto_accept=True)
    with editor.saved():
        editor.point(*centre(BUD[0]), "Flower")
    editor.say("track")
    with editor.saved():  # turning pages would keep it from being saved
        editor.page.mouse.move(5, 5)
    [draft] = services.api.request("GET", f"/api/tasks/{task}/drafts")
    before = by_page(draft["result"])
    assert sorted(before) == list(range(FRAMES))
    editor.go_to_page(CORRECTED)
    editor.delete_region(*centre(BUD[CORRECTED]))
    with editor.saved():
        # "That was the wrong one": what follows from here is easily told from what was.
        boxed = editor.box(corners(BEE[CORRECTED]), "Flower")
    corrected = editor.say("track")
    behind = list(range(CORRECTED + 1, FRAMES))
    assert sorted(by_page(corrected.results)) == behind
    assert sorted(mask.page for mask in editor.state().masks) == list(range(FRAMES))
    editor.submit()

    [annotation] = services.api.annotations(task)
    saved = by_page(annotation["result"])
    assert sorted(saved) == list(range(FRAMES))
    after = by_page([*boxed.results, *corrected.results])
    for page in range(CORRECTED):
        # Pixel by pixel: the editor writes another byte at the end of a mask it submits.
        assert (saved[page][0] == before[page][0]).all()
    for page in (CORRECTED, *behind):
        assert iou(saved[page][0], after[page][0]) >= 0.9
    overlaps = [iou(saved[page][0], BEE[page]) for page in (CORRECTED, *behind)]
    print(f"corrected: mean IoU with the other object {np.mean(overlaps):.3f}")
    assert np.mean(overlaps) >= 0.6


def test_a_submitted_annotation_that_is_opened_again_keeps_what_is_tracked_then(
    editor: Editor, services: Services
) -> None:
    """The editor saves regions of pages that it has not shown as they were when it opened them,
    whatever has become of them (``_rawResult`` of its areas)."""
    project, task = services.demo_task("Again", SEQUENCE_PROJECT)
    editor.open(project, task, auto_accept=True)
    with editor.saved():
        editor.point(*centre(BUD[0]), "Flower")
    editor.say("track")
    editor.submit()
    [annotation] = services.api.annotations(task)
    before = by_page(annotation["result"])
    assert sorted(before) == list(range(FRAMES))

    editor.open(project, task, auto_accept=True)
    editor.go_to_page(CORRECTED)
    editor.delete_region(*centre(BUD[CORRECTED]))
    with editor.saved():
        boxed = editor.box(corners(BEE[CORRECTED]), "Flower")
    corrected = editor.say("track")
    assert sorted(mask.page for mask in editor.state().masks) == list(range(FRAMES))
    editor.submit()

    [annotation] = services.api.annotations(task)
    saved = by_page(annotation["result"])
    assert sorted(saved) == list(range(FRAMES))
    after = by_page([*boxed.results, *corrected.results])
    for page in range(CORRECTED):
        assert (saved[page][0] == before[page][0]).all()
    for page in range(CORRECTED, FRAMES):
        assert iou(saved[page][0], after[page][0]) >= 0.9
        assert iou(saved[page][0], before[page][0]) < 0.5


def test_every_prompt_is_tracked_on_where_the_operator_wants_it(
    editor: Editor, services: Services
) -> None:
    project, task = services.demo_task("On prompt", SEQUENCE_PROJECT)
    services.stop_backend()
    services.start_backend(TRACK_ON_PROMPT="true")
    try:
        editor.open(project, task, auto_accept=True)
        with editor.saved():
            clicked = editor.point(*centre(BUD[0]), "Flower")
        assert sorted(by_page(clicked.results)) == [0]
        [prediction] = _predictions(services, task)
        assert sorted(by_page(prediction["result"])) == list(range(FRAMES))
        editor.go_to_page(CORRECTED)
        with editor.saved():  # the answer brings the other pages too
            boxed = editor.box(corners(BEE[CORRECTED]), "Animal")
        brought = brush_masks(boxed.results)
        pages = {
            label: sorted(
                i["item_index"] for _, i in brought if i["value"]["brushlabels"] == [label]
            )
            for label in ("Flower", "Animal")
        }
        assert pages == {"Flower": list(range(1, FRAMES)), "Animal": [CORRECTED]}
        _until_done(services, task)
        second = by_page(editor.say("status").results)
        assert sorted(second) == list(range(CORRECTED + 1, FRAMES))
        editor.submit()
    finally:
        services.stop_backend()
        services.start_backend()

    [annotation] = services.api.annotations(task)
    saved = brush_masks(annotation["result"])
    assert len(saved) == FRAMES + FRAMES - CORRECTED
    for truth, label in ((BUD, "Flower"), (BEE, "Animal")):
        masks = [(m, i) for m, i in saved if i["value"].get("brushlabels") == [label]]
        overlaps = [iou(mask, truth[item["item_index"]]) for mask, item in masks]
        print(f"{label}: mean IoU with the true object {np.mean(overlaps):.3f}")
        assert np.mean(overlaps) >= 0.6
    # The editor has all that they show.
    until(lambda: not services.api.predictions(task))


def test_a_track_survives_a_kill_of_the_backend(editor: Editor, services: Services) -> None:
    project, task = services.demo_task("Kill", SEQUENCE_PROJECT)
    services.stop_backend()
    services.start_backend(TRACK_BUDGET_SECONDS="0.3")  # the kill must come before the end
    try:
        editor.open(project, task, auto_accept=True)
        with editor.saved():
            editor.point(*centre(BUD[0]), "Flower")
        first = by_page(editor.say("track").results)
        begun = _jobs(services, task)
    finally:
        services.kill_backend()
        services.start_backend()
    assert len(first) < FRAMES - 1
    assert [job["state"] for job in begun] == ["running"]

    [prediction] = _predictions(services, task)
    [job] = _jobs(services, task)  # taken up, not begun anew
    assert (job["id"], job["state"]) == (begun[0]["id"], "done")
    brought = by_page(editor.say("status").results)
    assert sorted({*first, *brought}) == list(range(1, FRAMES))
    assert sorted(mask.page for mask in editor.state().masks) == list(range(FRAMES))
    until(lambda: not services.api.predictions(task))  # the editor has all that it showed

    stored = by_page(prediction["result"])
    assert sorted(stored) == list(range(FRAMES))
    for page, (mask, _) in {**first, **brought}.items():
        assert iou(stored[page][0], mask) >= 0.9
    overlaps = [iou(stored[page][0], BUD[page]) for page in range(FRAMES)]
    print(f"after {len(first)} pages killed; mean IoU {np.mean(overlaps):.3f}")
    assert np.mean(overlaps) >= 0.6
    assert 0 < prediction["score"] <= 1
    assert prediction["model_version"]


def _jobs(services: Services, task: int) -> list[dict[str, Any]]:
    """The tracks of a task that the backend was told to make, unfinished or not."""
    jobs = requests.get(services.backend.url + "/jobs", timeout=PATIENCE).json()["jobs"]
    return [job for job in jobs if job["task"] == task]


def _until_done(services: Services, task: int) -> None:
    """Wait for all tracks of a task."""

    def done() -> bool:
        return all(job["state"] not in ("queued", "running") for job in _jobs(services, task))

    until(done, TRACK_SECONDS, pause=0.5)


def _predictions(services: Services, task: int) -> list[dict[str, Any]]:
    """The predictions of a task, as soon as there is one."""
    return until(lambda: services.api.predictions(task), TRACK_SECONDS, pause=0.5)
