"""Exports as those read them who train on them: ``pycocotools``, ``supervision``, Pillow."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
import yaml
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from backend.export.polygons import LEAST_IOU, coco_polygons, yolo_polygons
from tests.command_line import LabelStudio, Run
from tests.export.test_export import (
    IMAGE,
    SEQUENCE,
    Exporter,
    annotated,
    area,
    brush,
    frames,
)

SIZE = 90, 70
PAGES = 4


def ring_and_island() -> Any:
    """A part with two holes, and another close to it."""
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    cv2.ellipse(mask, (30, 32), (26, 24), 15, 0, 360, 1, -1)
    cv2.ellipse(mask, (22, 30), (7, 5), 0, 0, 360, 0, -1)
    cv2.circle(mask, (40, 36), 6, 0, -1)
    cv2.ellipse(mask, (68, 40), (9, 14), 0, 0, 360, 1, -1)
    return mask.astype(bool)


def blob(seed: int, deviation: float, height: int, width: int) -> Any:
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), deviation)
    return smooth > smooth.std()


@pytest.fixture
def export(run: Run, label_studio: LabelStudio, tmp_path: Path) -> Exporter:
    return Exporter(run, tmp_path / "out")


@pytest.fixture
def drawn(label_studio: LabelStudio, tmp_path: Path) -> dict[tuple[int, int], tuple[str, Any]]:
    """Two sequences with pictures; by task and page the label of a mask, which is the only one of
    its label there."""
    label_studio.add_project(5, SEQUENCE)
    found: dict[tuple[int, int], tuple[str, Any]] = {}
    for task in (7, 8):
        addresses = []
        for page in range(PAGES):
            picture = np.full((SIZE[1], SIZE[0], 3), 40 * page, np.uint8)
            file = tmp_path / f"{task}_{page}.png"
            cv2.imwrite(str(file), picture)
            name = f"/data/upload/5/0a1b2c3d-{task}_{page}.png"
            addresses.append(label_studio.serve(name, file))
        masks = {page: ring_and_island() if page == 1 else blob(page, 6, SIZE[1], SIZE[0])
                 for page in range(PAGES - 1)}  # fmt: skip
        label = "Cat" if task == 7 else "Dog"
        found |= {(task, page): (label, mask) for page, mask in masks.items()}
        regions = [brush(f"r{page}", page, mask, label) for page, mask in masks.items()]
        label_studio.add_task(task, 5, {"frames": addresses}, **annotated(*regions))
    return found


def iou(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_reads_coco(export: Exporter, drawn: Any, polygons: bool) -> None:
    more = ("--segmentation", "polygons") if polygons else ()
    assert export("coco", "--project", 5, *more).code == 0
    coco = COCO(str(export.folder / "annotations.json"))
    names = {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())}
    assert names == {1: "Cat", 2: "Dog"}
    read = {}
    for each in coco.loadAnns(coco.getAnnIds()):
        image = coco.loadImgs(each["image_id"])[0]
        place = image["task"], image["page"]
        assert place not in read
        read[place] = names[each["category_id"]], coco.annToMask(each).astype(bool)
        assert isinstance(each["segmentation"], list) == polygons
        assert each["track_id"] == 1
    assert read.keys() == drawn.keys()
    for place, (label, mask) in drawn.items():
        assert read[place][0] == label
        if polygons:
            assert iou(read[place][1], mask) >= LEAST_IOU
        else:
            assert (read[place][1] == mask).all()


def test_supervision_reads_coco_with_its_pictures(export: Exporter, drawn: Any) -> None:
    assert export("coco", "--project", 5, "--pictures").code == 0
    data = supervision.DetectionDataset.from_coco(
        str(export.folder), str(export.folder / "annotations.json"), force_masks=True
    )
    assert data.classes == ["Cat", "Dog"]
    assert len(data) == len(drawn)
    for path, picture, found in data:
        task, page = int(Path(path).name.split("_")[1]), int(Path(path).stem[-6:])
        label, mask = drawn[task, page]
        assert [data.classes[number] for number in found.class_id] == [label]
        assert (found.mask[0] == mask).all()
        assert (picture == 40 * page).all()


@pytest.mark.parametrize("detail", [None, 0])
def test_supervision_reads_yolo(export: Exporter, drawn: Any, detail: int | None) -> None:
    more = () if detail is None else ("--detail", detail)
    ran = export("yolo", "--project", 5, "--pictures", "--split-by", "page", "--val", 0.5, *more)
    assert ran.code == 0
    about = yaml.safe_load((export.folder / "data.yaml").read_text())
    assert about == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "Cat", 1: "Dog"},
    }
    read = set()
    for split in ("train", "val"):
        data = supervision.DetectionDataset.from_yolo(
            str(export.folder / about[split]),
            str(export.folder / "labels" / split),
            str(export.folder / "data.yaml"),
        )
        assert data.classes == ["Cat", "Dog"]
        assert len(data) > 0
        for path, picture, found in data:
            task, page = int(Path(path).name.split("_")[1]), int(Path(path).stem[-6:])
            read.add((task, page))
            label, mask = drawn[task, page]
            assert {data.classes[number] for number in found.class_id} == {label}
            together = found.mask.any(axis=0)
            assert iou(together, mask) >= (LEAST_IOU if detail is None else 1.0)
            assert (picture == 40 * page).all()
    assert read == drawn.keys()


def test_yolo_says_which_lines_are_one_object(export: Exporter, drawn: Any) -> None:
    ran = export("yolo", "--project", 5)
    assert "in several parts became a polygon for each part" in ran.err
    rows = list(csv.DictReader((export.folder / "objects.csv").open()))
    for row in rows:
        lines = (export.folder / row["file"]).read_text().splitlines()
        assert lines[int(row["line"]) - 1].split()[0] == row["class"]
        assert (row["track"], row["label"]) == ("1", {"0": "Cat", "1": "Dog"}[row["class"]])
    files = {row["file"] for row in rows}
    assert len(rows) == sum(len((export.folder / name).read_text().splitlines()) for name in files)
    pictures = list(csv.DictReader((export.folder / "pictures.csv").open()))
    assert {(int(row["task"]), int(row["page"])) for row in pictures} == drawn.keys()


def test_tasks_stay_on_one_side_of_the_split(export: Exporter, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, SEQUENCE)
    for number in range(1, 25):
        regions = [brush(f"r{page}", page, area(3, 3, 20, 20)) for page in range(2)]
        label_studio.add_task(number, 5, frames(2), **annotated(*regions))

    def splits(*more: object) -> dict[str, set[str]]:
        assert export("yolo", "--project", 5, *more).code == 0
        found: dict[str, set[str]] = {}
        for row in csv.DictReader((export.folder / "pictures.csv").open()):
            found.setdefault(row["task"], set()).add(row["split"])
        return found

    first = splits("--val", 0.25)
    assert all(len(sides) == 1 for sides in first.values())
    assert {side for sides in first.values() for side in sides} == {"train", "val"}
    label_studio.add_task(30, 5, frames(2), **annotated(brush("r", 0, area(3, 3, 20, 20))))
    again = splits("--val", 0.25)
    assert {task: sides for task, sides in again.items() if task != "30"} == first
    ran = export("yolo", "--project", 5, "--val", 0)
    assert "warning: nothing is in val, without which Ultralytics does not train" in ran.err


def test_pillow_reads_the_palettes_of_davis(export: Exporter, drawn: Any) -> None:
    assert export("davis", "--project", 5, "--pictures").code == 0
    meta = json.loads((export.folder / "meta.json").read_text())["videos"]
    sets = [
        (export.folder / f"ImageSets/2017/{split}.txt").read_text().split()
        for split in ("train", "val")
    ]
    assert sorted([*sets[0], *sets[1]]) == sorted(meta) == ["task_7_image", "task_8_image"]
    for name, about in meta.items():
        [(value, described)] = about["objects"].items()
        assert described["category"] == ("Cat" if about["task"] == 7 else "Dog")
        for page in range(PAGES):
            png = export.folder / f"Annotations/Full-Resolution/{name}/{page:05d}.png"
            with Image.open(png) as image:
                assert image.mode == "P"
                palette = image.getpalette() or []
                values = np.array(image)
            assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
            expected = drawn.get((about["task"], page))
            shown = np.zeros(SIZE[::-1], bool) if expected is None else expected[1]
            assert (values == int(value) * shown).all()
            assert (f"{page:05d}" in described["frames"]) == (expected is not None)
            jpeg = export.folder / f"JPEGImages/Full-Resolution/{name}/{page:05d}.jpg"
            with Image.open(jpeg) as picture:
                assert picture.size == SIZE
                assert abs(int(np.array(picture).mean()) - 40 * page) <= 1


def test_pycocotools_decodes_youtube_vis(export: Exporter, drawn: Any) -> None:
    made = export.json("youtube-vis", "--project", 5, "--pictures")
    videos = {each["id"]: each for each in made["videos"]}
    names = {each["id"]: each["name"] for each in made["categories"]}
    for each in made["annotations"]:
        video = videos[each["video_id"]]
        for page, segmentation in enumerate(each["segmentations"]):
            name = export.folder / "JPEGImages" / video["file_names"][page]
            assert cv2.imread(str(name)).shape == (SIZE[1], SIZE[0], 3)
            expected = drawn.get((video["task"], page))
            assert (segmentation is None) == (expected is None)
            if expected is not None:
                packed = coco_masks.frPyObjects(segmentation, *segmentation["size"])
                assert (coco_masks.decode(packed).astype(bool) == expected[1]).all()
                assert names[each["category_id"]] == expected[0]


def test_a_picture_that_is_no_jpeg_or_png_becomes_one(
    export: Exporter, label_studio: LabelStudio, tmp_path: Path
) -> None:
    label_studio.add_project(5, IMAGE)
    Image.new("RGB", SIZE, (10, 200, 30)).save(tmp_path / "a.webp", lossless=True)
    address = label_studio.serve("/data/upload/5/0a1b2c3d-a.webp", tmp_path / "a.webp")
    polygon = {
        "id": "p", "from_name": "mask", "to_name": "image", "type": "polygonlabels",
        "original_width": SIZE[0], "original_height": SIZE[1],
        "value": {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["Dog"]},
    }  # fmt: skip
    label_studio.add_task(7, 5, {"image": address}, **annotated(polygon))
    assert export("npz", "--project", 5, "--pictures").code == 0
    with Image.open(export.folder / "images/task_7_image.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", SIZE)
    gone = {"image": "/data/upload/5/0a1b2c3d-gone.png"}
    label_studio.add_task(8, 5, gone, **annotated(polygon))
    ran = export("npz", "--project", 5, "--pictures")
    assert ran.code == 1
    assert "task 8 failed" in ran.err


SHAPES = [
    *(blob(seed, deviation, 70, 90) for seed in range(4) for deviation in (1.0, 3.0, 8.0)),
    blob(5, 25, 400, 640),
    ring_and_island(),
    area(3, 4, 1, 1, (9, 9)),
    area(3, 4, 1, 3, (9, 9)),
    area(0, 0, 9, 9, (9, 9)),
    ~area(4, 4, 1, 1, (9, 9)),
]


@pytest.mark.parametrize("mask", SHAPES)
def test_polygons_fit_by_the_rules_of_their_readers(mask: Any) -> None:
    height, width = mask.shape
    for detail in (None, 0.0, 2.5):
        rings, fits = coco_polygons(mask, detail)
        packed = coco_masks.frPyObjects([ring.ravel().tolist() for ring in rings], *mask.shape)
        read = coco_masks.decode(coco_masks.merge(packed)).astype(bool)
        assert iou(read, mask) == pytest.approx(fits)
        assert fits >= LEAST_IOU or detail == 2.5
    for detail in (None, 0.0):
        rings, fits = yolo_polygons(mask, detail)
        rounded, cut = np.zeros((2, height, width), np.uint8)
        for ring in rings:
            cv2.fillPoly(rounded, [ring.round().astype(np.int32)], (1,))
            cv2.fillPoly(cut, [ring.astype(np.int32)], (1,))
        assert (rounded == cut).all()
        assert iou(cut.astype(bool), mask) == pytest.approx(fits)
        assert fits >= LEAST_IOU
        assert detail is None or fits == 1.0


def test_coarser_polygons_have_fewer_vertices_and_say_what_they_cost(
    export: Exporter, drawn: Any
) -> None:
    def vertices(*more: object) -> tuple[int, str]:
        ran = export("coco", "--project", 5, "--segmentation", "polygons", *more)
        made = json.loads((export.folder / "annotations.json").read_text())
        rings = [ring for each in made["annotations"] for ring in each["segmentation"]]
        return sum(len(ring) // 2 for ring in rings), ran.err

    exact, _ = vertices("--detail", 0)
    usual, said = vertices()
    coarse, warned = vertices("--detail", 6)
    assert exact > usual > coarse
    assert "warning" not in said
    assert "an IoU below 0.98 as polygons" in warned
