"""``preannotate``: every kind of task from marks it holds, once, and again after a kill."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from backend import __version__
from backend.labelstudio.keyframes import box_at, read_sequence
from tests.backend.fakes import FakeVideoTracker
from tests.command_line import FakeModel, LabelStudio, Ran, Run, use_fake_model
from tests.export.test_export import VIDEO, area, brush, keyframe
from tests.labelstudio.masks import region_mask
from tests.pixels.clips import WIDTH as CLIP_WIDTH
from tests.pixels.clips import steady, write_clip
from tests.runs.service import running_service
from tests.waiting import until

MADE_BY = f"demo@{__version__}"
WIDTH, HEIGHT = 60, 40
PAGES = 8
FRAMES = 20
IMAGE = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
</View>"""
SEQUENCE = IMAGE.replace('value="$image"', 'valueList="$frames"')


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    return use_fake_model(monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{page}.png" for page in range(PAGES)]
    for page, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 10 * page, np.uint8))
    return paths


@pytest.fixture
def addresses(label_studio: LabelStudio, pictures: list[Path]) -> list[str]:
    return [label_studio.serve(f"/data/upload/5/0a1b2c3d-{path.name}", path) for path in pictures]


def box(identifier: str | None, x: float, page: int | None = None) -> dict[str, Any]:
    """A box of 20 % by 50 % of the picture, at 20 % from its top."""
    item: dict[str, Any] = {
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {"x": x, "y": 20, "width": 20, "height": 50, "rectanglelabels": ["Cat"]},
    }
    item |= {} if identifier is None else {"id": identifier}
    return item if page is None else {**item, "item_index": page}


def predicted(*results: Any, version: str = "detector") -> dict[str, Any]:
    return {"predictions": [{"id": 1, "model_version": version, "result": list(results)}]}


def annotated(*results: Any) -> dict[str, Any]:
    return {"annotations": [{"id": 1, "result": list(results)}]}


@pytest.fixture
def run(run: Run, label_studio: LabelStudio) -> Iterator[Run]:
    """The command line, and a service that it finds; the model is the one that is in use when a
    command is run first."""
    with ExitStack() as stack:
        address: list[str] = []

        def call(*arguments: object) -> Ran:
            if arguments[0] != "preannotate" or "--url" in arguments:
                return run(*arguments)
            if not address:
                service = stack.enter_context(running_service())
                address.append(stack.enter_context(service.served()))
            return run(*arguments, "--url", address[0])

        yield call


def preannotate(run: Run, *more: object) -> Ran:
    return run("preannotate", "--project", 5, *more)


def made(label_studio: LabelStudio, task: int) -> dict[str, Any]:
    """The prediction of this model, the only one."""
    [found] = [p for p in label_studio.tasks[task]["predictions"] if p["model_version"] == MADE_BY]
    return found


def test_boxes_on_images_become_masks(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    for number in range(4):
        data = {"image": addresses[number]}
        label_studio.add_task(10 + number, 5, data, **predicted(box("b", 10 * number)))
    label_studio.add_task(20, 5, {"image": addresses[0]})
    ran = preannotate(run)
    assert ran.code == 0
    for number in range(4):
        prediction = made(label_studio, 10 + number)
        [region] = prediction["result"]
        assert region["type"] == "brushlabels"
        assert (region_mask(region) == area(6 * number, 8, 12, 20)).all()
        assert prediction["score"] == pytest.approx(0.9)
    assert ran.out.splitlines() == [
        *(f"task {10 + number}: stored 1 result, score 0.90" for number in range(4)),
        "task 20: no box or click to start from: it holds nothing",
        "4 stored, 1 skipped",
    ]


def test_a_box_on_a_page_becomes_masks_on_all(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, {"frames": addresses}, **predicted(box(None, 40, page=3)))
    assert preannotate(run).code == 0
    results = made(label_studio, 7)["result"]
    assert {item["type"] for item in results} == {"brushlabels"}
    assert len({item["id"] for item in results}) == PAGES
    for item in results:
        expected = area(24 + item["item_index"] - 3, 8, 12, 20)
        assert (region_mask(item) == expected).all()
    assert sorted(item["item_index"] for item in results) == list(range(PAGES))


def test_masks_of_several_objects_and_pages(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(
        5, SEQUENCE.replace('value="Cat"/>', 'value="Cat"/><Label value="Dog"/>')
    )
    cat, dog = brush("c", 2, area(5, 5, 6, 6)), brush("d", 5, area(30, 20, 6, 6), "Dog")
    label_studio.add_task(7, 5, {"frames": addresses}, **annotated(cat, dog))
    assert preannotate(run, "--direction", "forward").code == 0
    results = made(label_studio, 7)["result"]
    pages = {
        label: sorted(i["item_index"] for i in results if i["value"]["brushlabels"] == [label])
        for label in ("Cat", "Dog")
    }
    assert pages == {"Cat": [2, 3, 4, 5, 6, 7], "Dog": [5, 6, 7]}
    [human] = [item for item in results if item["id"] == "c"]
    assert human["value"] == cat["value"]


def test_only_a_range(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, {"frames": addresses}, **annotated(box("b", 40, page=3)))
    assert preannotate(run, "--range", "3-6").code == 0
    assert sorted(i["item_index"] for i in made(label_studio, 7)["result"]) == [2, 3, 4, 5]


def test_a_prediction_that_was_submitted_is_not_doubled(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    marks = box("a", 0, page=2), box("b", 60, page=2)
    label_studio.add_task(7, 5, {"frames": addresses}, **annotated(*marks))
    preannotate(run)
    first = made(label_studio, 7)["result"]
    label_studio.tasks[7] |= {**annotated(*first), "predictions": []}
    assert preannotate(run).code == 0
    again = made(label_studio, 7)["result"]
    assert len(first) == len(again) == 2 * PAGES
    masks = {
        name: sorted((item["item_index"], *np.argwhere(region_mask(item))[0]) for item in results)
        for name, results in (("first", first), ("again", again))
    }
    assert masks["first"] == masks["again"]


@pytest.fixture
def video(label_studio: LabelStudio, tmp_path: Path) -> str:
    clip = write_clip(tmp_path / "a.mp4", times=steady(FRAMES, 25))
    label_studio.add_project(5, VIDEO)
    return label_studio.serve("/data/upload/5/0a1b2c3d-a.mp4", clip)


def rectangle(identifier: str, label: str, *keyframes: Any) -> dict[str, Any]:
    value = {"framesCount": FRAMES, "duration": FRAMES / 25, "sequence": list(keyframes)}
    return {
        "id": identifier,
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "value": {**value, "labels": [label]},
    }


def test_boxes_of_a_video_are_tracked_both_ways(
    run: Run, label_studio: LabelStudio, video: str, model: FakeModel
) -> None:
    ball, car = rectangle("r1", "Ball", keyframe(8, 20)), rectangle("r2", "Car", keyframe(3, 50))
    label_studio.add_task(9, 5, {"video": video}, **annotated(ball, car))
    assert preannotate(run).code == 0
    results = {item["id"]: item for item in made(label_studio, 9)["result"]}
    assert {name: item["value"]["labels"] for name, item in results.items()} == {
        "r1": ["Ball"],
        "r2": ["Car"],
    }
    pixel = 100 / CLIP_WIDTH
    for frame in (1, 8, 20):
        shown = box_at(read_sequence(results["r1"]["value"]), frame)
        assert shown is not None
        assert shown.x == pytest.approx(20 + (frame - 8) * pixel, abs=pixel)


def test_every_video_and_sequence_of_a_task_is_tracked(
    run: Run, label_studio: LabelStudio, video: str, addresses: list[str], model: FakeModel
) -> None:
    second = VIDEO[VIDEO.index("<View>") + 6 : VIDEO.rindex("</View>")]
    for name in ("video", "box", "labels"):
        second = second.replace(f'name="{name}"', f'name="{name}2"')
    second = second.replace('toName="video"', 'toName="video2"').replace("$video", "$other")
    pictures = SEQUENCE[SEQUENCE.index("<View>") + 6 : SEQUENCE.rindex("</View>")]
    pictures = pictures.replace('name="box"', 'name="prompt"')
    more = pictures.replace('name="image"', 'name="more"').replace("$frames", "$other_frames")
    more = more.replace('toName="image"', 'toName="more"').replace('name="mask"', 'name="mask2"')
    more = more.replace('name="prompt"', 'name="prompt2"')
    label_studio.projects[5]["label_config"] = (
        VIDEO[: VIDEO.rindex("</View>")] + second + pictures + more + "</View>"
    )
    ball = rectangle("r1", "Ball", keyframe(1, 20))
    car = rectangle("r2", "Car", keyframe(3, 50)) | {"from_name": "box2", "to_name": "video2"}
    cats = [
        {**box("c1", 0, page=0), "from_name": "prompt"},
        {**box("c2", 40, page=1), "from_name": "prompt2", "to_name": "more"},
    ]
    data = {"video": video, "other": video, "frames": addresses, "other_frames": addresses[:3]}
    label_studio.add_task(9, 5, data, **annotated(ball, car, *cats))
    ran = preannotate(run)
    assert ran.code == 0, ran.out
    results = made(label_studio, 9)["result"]
    tracked = {r["id"]: r for r in results if r["type"] == "videorectangle"}
    assert {name: item["to_name"] for name, item in tracked.items()} == {
        "r1": "video",
        "r2": "video2",
    }
    pixel = 100 / CLIP_WIDTH
    for name, first, x in (("r1", 1, 20), ("r2", 3, 50)):
        shown = box_at(read_sequence(tracked[name]["value"]), FRAMES)
        assert shown is not None
        assert shown.x == pytest.approx(x + (FRAMES - first) * pixel, abs=pixel)
    pages = {
        tag: sorted(r["item_index"] for r in results if r["to_name"] == tag)
        for tag in ("image", "more")
    }
    assert pages == {"image": list(range(PAGES)), "more": [0, 1, 2]}


def test_what_was_tracked_can_be_exported(
    run: Run, label_studio: LabelStudio, video: str, model: FakeModel, tmp_path: Path
) -> None:
    label_studio.add_task(
        9, 5, {"video": video}, **annotated(rectangle("r1", "Ball", keyframe(8, 20)))
    )
    preannotate(run)
    label_studio.tasks[9]["annotations"] = []
    out = tmp_path / "out"
    ran = run("export", "--task", 9, "--format", "png", "--predictions", "--out", out)
    assert ran.code == 0
    rows = list(csv.DictReader((out / "legend.csv").open()))
    origins = {int(row["frame"]): row["origin"] for row in rows}
    assert origins == dict.fromkeys(range(FRAMES), "tracked")


class LeftThird(FakeVideoTracker):
    """Finds an object in the left third of its box."""

    def prompt(self, frame: int, object_id: str, **prompt: Any) -> Any:
        if prompt["box"] is not None:
            x0, y0, x1, y1 = prompt["box"]
            prompt["box"] = [x0, y0, x0 + (x1 - x0) / 3, y1]
        return super().prompt(frame, object_id, **prompt)


def test_the_masks_of_boxes_that_a_human_drew_can_be_exported(
    run: Run,
    label_studio: LabelStudio,
    video: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """On the frames of the boxes themselves too, where nothing is tracked: the last one is such
    a frame, and the boxes around the masks are far from those drawn."""
    use_fake_model(monkeypatch, tracker=LeftThird)
    ball = rectangle("r1", "Ball", keyframe(8, 20), keyframe(FRAMES, 60))
    car = rectangle("r2", "Car", keyframe(FRAMES, 0))
    label_studio.add_task(9, 5, {"video": video}, **annotated(ball, car))
    assert preannotate(run, "--direction", "forward").code == 0
    out = tmp_path / "out"
    assert run("export", "--task", 9, "--format", "npz", "--out", out).code == 0
    for index, objects in ((7, {"r1": 20}), (FRAMES - 1, {"r1": 60, "r2": 0})):
        with np.load(out / f"task_9/video_frame_{index:06d}.npz") as file:
            assert list(file["origins"]) == ["tracked"] * len(objects)
            assert list(file["objects"]) == list(objects)
            for mask, x in zip(file["masks"], objects.values(), strict=True):
                columns = np.flatnonzero(mask.any(axis=0))
                assert columns[0] == pytest.approx(x * CLIP_WIDTH / 100, abs=1)
                assert len(columns) == pytest.approx(0.25 * CLIP_WIDTH / 3, abs=1)


def test_the_prediction_of_a_sequence_shows_masks_where_a_human_drew_boxes(
    run: Run, label_studio: LabelStudio, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_model(monkeypatch, tracker=LeftThird)
    label_studio.add_project(5, SEQUENCE)
    marks = box("a", 0, page=2), box("b", 60, page=2), box("c", 30, page=PAGES - 1)
    label_studio.add_task(7, 5, {"frames": addresses}, **annotated(*marks))
    assert preannotate(run, "--direction", "forward").code == 0
    results = made(label_studio, 7)["result"]
    assert {item["type"] for item in results} == {"brushlabels"}
    drawn = [item for item in results if item["item_index"] == 2]
    left = sorted((region_mask(item) for item in drawn), key=lambda mask: mask[:, :20].sum())
    assert [mask.sum() for mask in left] == [4 * 20] * 2
    assert (left[1] == area(0, 8, 4, 20)).all()


def test_tasks_that_are_done_are_passed_over(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    preannotate(run)
    ran = preannotate(run)
    assert (ran.code, ran.out.splitlines()[0]) == (0, "task 7: has a prediction of demo")
    assert len(label_studio.tasks[7]["predictions"]) == 2


def test_force_replaces_predictions_of_this_model_and_no_others(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    others = [{"id": 2, "model_version": "demo-other", "result": []}]
    first = predicted(box("b", 10))["predictions"]
    label_studio.add_task(7, 5, {"image": addresses[0]}, predictions=[*first, *others])
    preannotate(run)
    before = made(label_studio, 7)
    assert preannotate(run, "--force").out.splitlines()[-1] == "1 stored"
    assert made(label_studio, 7)["id"] != before["id"]
    label_studio.refuses_predictions = True
    assert preannotate(run, "--force").code == 1  # the old one goes when the new one is there
    versions = [each["model_version"] for each in label_studio.tasks[7]["predictions"]]
    assert versions == ["detector", "demo-other", MADE_BY]


def test_predictions_of_an_earlier_release_are_this_models_too(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    earlier = {"id": 2, "model_version": "demo@0.0.1", "result": [box("e", 30)]}
    first = predicted(box("b", 10))["predictions"]
    label_studio.add_task(7, 5, {"image": addresses[0]}, predictions=[*first, earlier])
    assert "has a prediction of demo" in preannotate(run).out
    assert preannotate(run, "--force").code == 0
    versions = [each["model_version"] for each in label_studio.tasks[7]["predictions"]]
    assert versions == ["detector", MADE_BY]


def test_a_dry_run_stores_nothing(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, {"frames": addresses}, **annotated(box("b", 40, page=3)))
    label_studio.add_task(8, 5, {"frames": addresses}, **predicted(version="demo"))
    ran = preannotate(run, "--dry-run")
    assert ran.out.splitlines() == [
        "task 7: would be labelled (sequence) from 1 result",
        "task 8: has a prediction of demo",
        "1 skipped, 1 planned",
    ]
    assert (label_studio.tasks[7]["predictions"], model.steps) == ([], [])
    assert f"0 pictures and {PAGES} pages or frames: how long frames take is not known" in ran.err
    preannotate(run)
    label_studio.tasks[7]["predictions"] = []
    assert "about 1 minute of the model's time" in preannotate(run, "--dry-run").err


def test_a_limit(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    for number in range(7):
        label_studio.add_task(number + 1, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    assert preannotate(run, "--limit", 4).out.splitlines()[-1] == "4 stored"
    assert preannotate(run, "--concurrency", 1).out.splitlines()[-1] == "3 stored, 4 skipped"


class Doubtful(FakeVideoTracker):
    """Unsure of one frame, and the object is gone on the one after it."""

    def propagate(self, start: int, count: int, reverse: bool) -> Any:
        for found in super().propagate(start, count, reverse):
            if found.frame == 5:
                found.ious[:] = 0.3
            if found.frame == 6:
                found.masks[:] = False
            yield found


def test_frames_that_deserve_a_look(
    run: Run,
    label_studio: LabelStudio,
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    use_fake_model(monkeypatch, tracker=Doubtful)
    label_studio.add_project(5, SEQUENCE)
    for number in (7, 8):
        label_studio.add_task(number, 5, {"frames": addresses}, **annotated(box("b", 0, page=2)))
    file = tmp_path / "review.csv"
    ran = preannotate(run, "--csv", file, "--limit", 1)
    assert "3 masks deserve a look" in ran.out
    expected = [["7", "b", "Cat", "6", "unsure"], ["7", "b", "Cat", "7", "lost"]]
    expected.append(["7", "b", "Cat", "8", "found again"])
    rows = list(csv.reader(file.open()))
    assert rows == [["task", "object", "label", "frame", "reason"], *expected]
    notes = {
        item["item_index"]: item["meta"]["text"]
        for item in made(label_studio, 7)["result"]
        if "meta" in item
    }
    assert notes == {5: ["SAM 2: look here: unsure"], 7: ["SAM 2: look here: found again"]}
    preannotate(run, "--csv", file)  # the other task
    preannotate(run, "--csv", file, "--force")
    assert [row[0] for row in csv.reader(file.open())][1:] == ["7"] * 3 + ["8"] * 3


def test_frames_of_a_video_are_named_as_the_annotator_counts(
    run: Run,
    label_studio: LabelStudio,
    video: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    use_fake_model(monkeypatch, tracker=Doubtful)
    label_studio.add_task(
        9, 5, {"video": video}, **annotated(rectangle("r1", "Ball", keyframe(3, 20)))
    )
    preannotate(run, "--csv", tmp_path / "review.csv")
    rows = list(csv.reader((tmp_path / "review.csv").open()))[1:]
    assert rows == [
        ["9", "r1", "Ball", "6", "unsure"],
        ["9", "r1", "Ball", "7", "lost"],
        ["9", "r1", "Ball", "8", "found again"],
    ]
    [region] = made(label_studio, 9)["result"]
    note = "SAM 2: look here: 6 (unsure), 7 (lost), 8 (found again)"
    assert region["meta"] == {"text": [note]}


def test_one_bad_task_does_not_stop_the_others(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    mark = annotated(box("b", 40, page=1))
    gone = [*addresses[:4], "/data/upload/5/0a1b2c3d-gone.png"]
    label_studio.add_task(7, 5, {"frames": gone}, **mark)
    label_studio.add_task(8, 5, {"frames": addresses[:3]}, **mark)
    label_studio.add_task(9, 5, {"other": []}, **mark)
    ran = preannotate(run)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0].startswith("task 7: failed: Label Studio has no upload")
    assert lines[1].startswith("task 8: stored 3 results")
    assert lines[2].startswith("task 9: failed: <Image name=image> wants $frames")
    assert lines[3] == "1 stored, 2 failed"


def test_a_range_that_is_not_there(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, {"frames": addresses}, **annotated(box("b", 40, page=3)))
    ran = preannotate(run, "--range", "20-30")
    assert ran.code == 1
    assert "task 7: failed: there is no range 20-30: the pages are 1-8" in ran.out
    backwards = preannotate(run, "--range", "9-3")
    assert backwards.code == 2
    assert "the smaller first" in backwards.err


def test_a_prediction_that_is_refused_fails_the_task(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    label_studio.refuses_predictions = True
    ran = preannotate(run)
    assert ran.code == 1
    assert "answered 500" in ran.out


def test_what_cannot_be_done_is_one_line(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    def fails() -> str:
        ran = preannotate(run)
        assert (ran.code, ran.err.count("\n"), ran.out) == (1, 1, ""), ran
        return ran.err

    assert "no project 5" in fails()
    label_studio.add_project(5, "<View><Text name='t' value='$t'/></View>")
    fails()
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]})
    assert "The only task has no box or click to start from (1 with nothing)" in fails()
    mask = brush("b", None, np.ones((10, 10), dtype=bool))
    label_studio.add_task(8, 5, {"image": addresses[0]}, **annotated(mask))
    there = "(1 with nothing, 1 with only masks already (brushlabels))"
    assert f"None of the 2 tasks has a box or click to start from {there}" in fails()
    label_studio.is_down = True
    assert "answered 503" in fails()


def test_a_service_that_does_not_answer_is_one_line(run: Run) -> None:
    for address, said in {
        "http://127.0.0.1:9": "No service answers at http://127.0.0.1:9",
        "http://name:secret@127.0.0.1:9": "Credentials belong in the environment",
        "127.0.0.1": "no address such as",
    }.items():
        ran = run("preannotate", "--project", 5, "--url", address)
        assert (ran.code, ran.err.count("\n"), ran.out) == (1, 1, ""), ran
        assert said in ran.err
        assert "secret" not in ran.err.replace("name:secret", "")


def test_credentials_come_from_the_environment(
    run: Run,
    label_studio: LabelStudio,
    addresses: list[str],
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTH_TOKEN", "t0ken")
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    assert preannotate(run).code == 0
    monkeypatch.setenv("AUTH_TOKEN", "another")
    ran = preannotate(run)
    assert (ran.code, ran.out) == (1, "")
    assert "has other credentials than these settings" in ran.err


def test_a_model_that_cannot_be_loaded(
    run: Run, label_studio: LabelStudio, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_CHECKPOINT", "/nowhere.pt")
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    ran = preannotate(run)
    assert ran.code == 1
    assert "could not be loaded" in ran.err.splitlines()[-1]


def test_the_report(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel, tmp_path: Path
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]}, **predicted(box("b", 10), box("c", 50)))
    ran = preannotate(run, "--report", tmp_path / "report.json")
    assert "  Cat: 2, mean 0.90, worst 0.90" in ran.err
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["labels"] == [{"label": "Cat", "objects": 2, "mean": 0.9, "worst": 0.9}]
    assert [each["task"] for each in found["look_first"]] == [7]


def test_stopped_from_the_keyboard_the_run_ends(
    run: Run,
    label_studio: LabelStudio,
    video: str,
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label_studio.add_task(
        9, 5, {"video": video}, **annotated(rectangle("r1", "Ball", keyframe(1, 20)))
    )
    model.hold.clear()

    def press(seconds: float) -> None:
        until(model.hold.reached.is_set)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        clock = SimpleNamespace(sleep=press, monotonic=time.monotonic)
        patch.setattr("backend.runs.preannotate.time", clock)
        assert preannotate(run).code == 130
    model.hold.set()
    assert label_studio.tasks[9]["predictions"] == []
    assert preannotate(run).code == 0
    assert made(label_studio, 9)["result"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_elsewhere_there_are_lines(
    run: Run,
    label_studio: LabelStudio,
    addresses: list[str],
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label_studio.add_project(5, IMAGE)
    for number in (7, 8):
        label_studio.add_task(number, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Terminal())
        assert preannotate(run).out.splitlines()[-1] == "2 stored"
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "2/2" in shown
    assert "100%" in shown
    assert "%|" not in preannotate(run).err


def test_whoever_detaches_gets_the_number(
    run: Run, label_studio: LabelStudio, addresses: list[str], model: FakeModel
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(7, 5, {"image": addresses[0]}, **predicted(box("b", 10)))
    ran = preannotate(run, "--detach")
    assert (ran.code, len(ran.out.strip())) == (0, 12)
    until(lambda: len(label_studio.tasks[7]["predictions"]) == 2)
