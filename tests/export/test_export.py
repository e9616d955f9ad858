"""``export``: which mask is on which page of which object, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from backend.engine.packed_masks import PackedMask
from backend.export.coco import run_lengths
from backend.labelstudio.brush_rle import decode_brush, encode_brush
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import no_masks
from backend.tracking.sequence import FrameSequence, SequenceObject
from backend.tracking.store import TrackedMask, TrackStore, track_name
from tests.command_line import LabelStudio, Ran, Run
from tests.pixels.clips import HEIGHT as CLIP_HEIGHT
from tests.pixels.clips import WIDTH as CLIP_WIDTH
from tests.pixels.clips import steady, write_clip

WIDTH, HEIGHT = 60, 40
PROJECT = "5.1795326290"  # as ML backends are told: id and creation time
PAGES = 6
FRAMES = 20

SEQUENCE = """<View>
  <Image name="image" valueList="$frames"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
  <RectangleLabels name="prompt" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
</View>"""
POLYGONS = """<View>
  <Image name="image" valueList="$frames"/>
  <PolygonLabels name="mask" toName="image"><Label value="Cat"/></PolygonLabels>
</View>"""
IMAGE = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image" smart="false"><Label value="Cat"/></RectangleLabels>
  <PolygonLabels name="mask" toName="image" smart="false"><Label value="Dog"/></PolygonLabels>
</View>"""
VIDEO = """<View>
  <Video name="video" value="$video" framerate="25"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Ball"/><Label value="Car"/></Labels>
</View>"""


def area(x: int, y: int, width: int, height: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Any:
    mask = np.zeros((size[1], size[0]), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def brush(identifier: str, page: int | None, mask: Any, label: str = "Cat") -> dict[str, Any]:
    height, width = mask.shape
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    item = {
        "id": identifier,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "value": value,
        "score": 0.75,
    }
    return item if page is None else {**item, "item_index": page}


def annotated(*results: Any) -> dict[str, Any]:
    return {"annotations": [{"id": 1, "result": list(results)}]}


def frames(count: int = PAGES) -> dict[str, Any]:
    return {"frames": [f"s3://bucket/a/frame_{page:06d}.jpg" for page in range(count)]}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = TrackStore(tmp_path / "state/tracks.sqlite3")
    yield made
    made.close()


class Exporter:
    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder

    def __call__(self, kind: str, *more: object) -> Ran:
        arguments = more or ("--project", 5)
        return self.run("export", "--format", kind, "--out", self.folder, *arguments)

    def json(self, kind: str, *more: object) -> Any:
        ran = self(kind, *more)
        assert ran.code == 0, ran.err
        return json.loads((self.folder / "annotations.json").read_text())

    def objects(self, *more: object) -> dict[tuple[int, int | None, int], tuple[str, Any]]:
        """By task, page or frame and track: the label and the mask."""
        coco = self.json("coco", *more)
        images = {image["id"]: image for image in coco["images"]}
        names = {category["id"]: category["name"] for category in coco["categories"]}
        found = {}
        for each in coco["annotations"]:
            image = images[each["image_id"]]
            key = (image["task"], image.get("page", image.get("frame")), each["track_id"])
            assert key not in found
            found[key] = (names[each["category_id"]], decode(each["segmentation"]))
        return found


@pytest.fixture
def export(run: Run, label_studio: LabelStudio, tmp_path: Path) -> Exporter:
    return Exporter(run, tmp_path / "out")


def decode(segmentation: dict[str, Any]) -> Any:
    """COCO's uncompressed RLE, read as its documentation says."""
    height, width = segmentation["size"]
    flat: list[int] = []
    for position, length in enumerate(segmentation["counts"]):
        flat += [position % 2] * length
    return np.array(flat, bool).reshape(width, height).T


@pytest.fixture
def two_objects(label_studio: LabelStudio) -> list[Any]:
    """Two cats that cross a sequence, drawn by hand on every page, in changing order."""
    label_studio.add_project(5, SEQUENCE)
    regions = []
    for page in range(PAGES):
        left = brush(f"a{page}", page, area(2 + page, 3, 12, 8))
        right = brush(f"b{page}", page, area(40 - page, 20, 10, 12))
        regions += [left, right] if page % 2 == 0 else [right, left]
    label_studio.add_task(7, 5, frames(), **annotated(*regions))
    return regions


def test_coco_has_every_mask_with_page_and_track(export: Exporter, two_objects: Any) -> None:
    found = export.objects()
    assert set(found) == {(7, page, track) for page in range(PAGES) for track in (1, 2)}
    for page in range(PAGES):
        assert (found[7, page, 1][1] == area(2 + page, 3, 12, 8)).all()
        assert (found[7, page, 2][1] == area(40 - page, 20, 10, 12)).all()


@pytest.mark.parametrize("kind", ["coco", "youtube-vis", "png", "npz", "brush"])
def test_what_was_typed_or_answered_is_left_out(
    kind: str, export: Exporter, two_objects: Any, label_studio: LabelStudio
) -> None:
    """Those of configs without a line for answers, and of videos, where they became regions."""
    words = [["SAM 2: pages 1-4 of 4 done"], ["trck", "help"], []]
    texts: list[dict[str, Any]] = [
        {
            "id": f"t{number}",
            "from_name": "sam2",
            "to_name": "image",
            "type": "textarea",
            "value": {"text": lines, "ranges": []},
        }
        for number, lines in enumerate(words)
    ]
    label_studio.add_task(8, 5, frames(), **annotated(*two_objects, *texts))
    assert export(kind).code == 0
    made = [path.read_bytes() for path in export.folder.rglob("*") if path.is_file()]
    assert made
    assert not any(b"SAM 2: " in each or b"trck" in each for each in made)
    if kind == "coco":
        both = export.objects()
        assert {place[1:] for place in both if place[0] == 7} == {
            place[1:] for place in both if place[0] == 8
        }


def test_coco_is_complete(export: Exporter, two_objects: Any) -> None:
    coco = export.json("coco")
    assert [category["name"] for category in coco["categories"]] == ["Cat", "Dog"]
    image = coco["images"][3]
    assert image["file_name"] == "bucket/a/frame_000003.jpg"
    assert (image["width"], image["height"], image["page"]) == (WIDTH, HEIGHT, 3)
    first = coco["annotations"][0]
    assert (first["bbox"], first["area"], first["iscrowd"]) == ([2, 3, 12, 8], 96, 0)
    assert (first["origin"], first["score"]) == ("region", 0.75)
    assert len({each["id"] for each in coco["annotations"]}) == 2 * PAGES


@pytest.mark.parametrize("mask", [area(0, 0, 5, 5), area(0, 0, WIDTH, HEIGHT), area(7, 9, 1, 1)])
def test_run_lengths_begin_with_background(mask: Any) -> None:
    lengths = run_lengths(mask)
    assert sum(lengths) == mask.size
    assert (decode({"size": mask.shape, "counts": lengths}) == mask).all()


def test_youtube_vis_has_one_annotation_per_object(
    export: Exporter, label_studio: LabelStudio
) -> None:
    label_studio.add_project(5, SEQUENCE)
    regions = [brush(f"r{page}", page, area(5, 5, 9, 9)) for page in (1, 2, 4)]
    label_studio.add_task(7, 5, frames(), **annotated(*regions))
    label_studio.add_task(8, 5, frames(2), **annotated(brush("x", 0, area(1, 1, 3, 3), "Dog")))
    made = export.json("youtube-vis")
    first, second = made["videos"]
    assert (first["length"], len(first["file_names"]), second["length"]) == (PAGES, PAGES, 2)
    one, other = made["annotations"]
    assert [each is not None for each in one["segmentations"]] == [0, 1, 1, 0, 1, 0]
    assert (decode(one["segmentations"][4]) == area(5, 5, 9, 9)).all()
    assert (one["bboxes"][1], one["areas"][0], one["areas"][1]) == ([5, 5, 9, 9], None, 81)
    assert (other["video_id"], other["category_id"]) == (second["id"], 2)


def test_png_and_its_legend(export: Exporter, two_objects: Any) -> None:
    assert export("png").code == 0
    rows = list(csv.DictReader((export.folder / "legend.csv").open()))
    assert len(rows) == 2 * PAGES
    for row in rows:
        picture = cv2.imread(str(export.folder / row["file"]), cv2.IMREAD_UNCHANGED)
        assert (picture.dtype, picture.shape) == (np.uint16, (HEIGHT, WIDTH))
        assert int((picture == int(row["value"])).sum()) == int(row["area"])
        assert (row["label"], row["task"]) == ("Cat", "7")
    assert {row["page"] for row in rows} == {str(page) for page in range(PAGES)}


def test_png_shows_the_smaller_of_two_that_overlap(
    export: Exporter, label_studio: LabelStudio
) -> None:
    label_studio.add_project(5, SEQUENCE)
    above, below = area(10, 10, 5, 5), area(0, 0, 30, 30)
    regions = brush("a", 2, above, "Dog"), brush("b", 2, below)
    label_studio.add_task(7, 5, frames(), **annotated(*regions))
    assert export("png").code == 0
    path = export.folder / "task_7/image_page_000002.png"
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert ((picture == 1) == above).all()
    assert ((picture > 0) == below).all()


def test_npz_keeps_overlapping_masks_whole(export: Exporter, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, SEQUENCE)
    below, above = area(0, 0, 30, 30), area(10, 10, 5, 5)
    regions = brush("a", 2, below), brush("b", 2, above, "Dog")
    label_studio.add_task(7, 5, frames(), **annotated(*regions))
    assert export("npz").code == 0
    with np.load(export.folder / "task_7/image_page_000002.npz") as page:
        assert (page["masks"] == np.stack([below, above])).all()
        assert page["labels"].tolist() == ["Cat", "Dog"]
        assert page["tracks"].tolist() == [1, 2]
        assert json.loads(str(page["place"]))["page"] == 2


def test_brush_has_what_label_studio_reads(export: Exporter, two_objects: Any) -> None:
    assert export("brush").code == 0
    results = json.loads((export.folder / "task_7_image.json").read_text())
    assert len(results) == 2 * PAGES
    for result in results:
        mask = decode_brush(bytes(result["value"]["rle"]), WIDTH, HEIGHT)
        page, track = result["item_index"], result["track"]
        expected = area(2 + page, 3, 12, 8) if track == 1 else area(40 - page, 20, 10, 12)
        assert (mask == expected).all()


def test_objects_that_were_tracked_are_known_by_their_ids(
    export: Exporter, label_studio: LabelStudio, store: TrackStore
) -> None:
    """Masks that never overlap, two objects with one label: only the ids tell them apart."""
    label_studio.add_project(5, SEQUENCE)
    task = {"id": 7, "data": frames()}
    config = parse_label_config(SEQUENCE)
    sequence = FrameSequence(
        ProjectTask(PROJECT, task, SEQUENCE, config), config.images[0], "demo", store, no_masks
    )
    sequence.remember([SequenceObject(name, ("Cat",), "mask") for name in ("first", "other")])
    masks = {
        ("first", 1): area(50, 30, 5, 5),
        ("other", 1): area(20, 20, 5, 5),
        ("first", 2): area(20, 20, 5, 5),
        ("other", 2): area(2, 2, 5, 5),
    }
    found = [
        TrackedMask(name, page, "", PackedMask.pack(mask), 0.9, 5.0)
        for (name, page), mask in masks.items()
    ]
    store.put_masks(sequence.track, found, job_id="", done=0)
    marked = [brush("first", 0, area(0, 0, 5, 5)), brush("other", 0, area(40, 0, 5, 5))]
    tracked = [item for each in found for item in sequence.results(each)]
    label_studio.add_task(7, 5, frames(), **annotated(*marked, *tracked))
    objects = export.objects()
    number = {"first": 1, "other": 2}
    assert len(objects) == 6
    for (name, page), mask in masks.items():
        assert (objects[7, page, number[name]][1] == mask).all()


def test_an_answer_in_several_polygons_is_one_object(
    export: Exporter, label_studio: LabelStudio, store: TrackStore
) -> None:
    label_studio.add_project(5, POLYGONS)
    config = parse_label_config(POLYGONS)
    task = {"id": 7, "data": frames()}
    sequence = FrameSequence(
        ProjectTask(PROJECT, task, POLYGONS, config), config.images[0], "demo", store, no_masks
    )
    sequence.remember([SequenceObject("cat", ("Cat",), "mask")])
    drawn = area(5, 5, 10, 10) | area(30, 5, 10, 10)
    found = TrackedMask("cat", 1, "", PackedMask.pack(drawn), 0.9, 5.0)
    store.put_masks(sequence.track, [found], job_id="", done=0)
    results = sequence.results(found)
    assert len(results) == 2
    label_studio.add_task(7, 5, frames(), **annotated(*results))
    [(key, (label, mask))] = export.objects().items()
    assert (key, label) == ((7, 1, 1), "Cat")
    assert int((mask ^ drawn).sum()) <= 4


def test_images_boxes_and_prompts(export: Exporter, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, IMAGE)
    size = {"original_width": WIDTH, "original_height": HEIGHT, "to_name": "image"}
    box = {
        **size,
        "id": "b",
        "from_name": "box",
        "type": "rectanglelabels",
        "value": {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["Cat"]},
    }
    ring = [[0, 0], [50, 0], [50, 50], [0, 50]]
    polygon = {
        **size,
        "id": "p",
        "from_name": "mask",
        "type": "polygonlabels",
        "value": {"points": ring, "closed": True, "polygonlabels": ["Dog"]},
    }
    data = {"image": "/data/upload/5/0a1b2c3d-cat.png"}
    label_studio.add_task(7, 5, data, **annotated(box, polygon))
    coco = export.json("coco")
    [image] = coco["images"]
    assert image["file_name"] == "data/upload/5/0a1b2c3d-cat.png"
    assert "page" not in image
    origins = {each["object"]: each["origin"] for each in coco["annotations"]}
    assert origins == {"b": "box", "p": "region"}
    assert (export.objects()[7, None, 1][1] == area(6, 4, 30, 20)).all()
    assert "of which 1 is a filled box" in export("png").err
    assert (export.folder / "task_7/image.png").is_file()


def test_boxes_that_are_prompts_are_left_out(export: Exporter, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, SEQUENCE)
    prompt = {
        **brush("prompt", 0, area(0, 0, 5, 5)),
        "from_name": "prompt",
        "type": "rectanglelabels",
        "value": {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["Cat"]},
    }
    label_studio.add_task(7, 5, frames(), **annotated(prompt, brush("m", 0, area(4, 4, 4, 4))))
    assert list(export.objects()) == [(7, 0, 1)]


def test_the_newest_annotation_that_counts(export: Exporter, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, SEQUENCE)
    kept = {"id": 1, "updated_at": "2026-01-01", "result": [brush("a", 0, area(1, 1, 2, 2))]}
    cancelled = {**kept, "id": 2, "updated_at": "2026-02-01", "was_cancelled": True}
    cancelled["result"] = [brush("a", 5, area(1, 1, 2, 2))]
    empty = {"id": 3, "updated_at": "2026-03-01", "result": []}
    label_studio.add_task(7, 5, frames(), annotations=[kept, cancelled, empty])
    predicted = {"id": 1, "result": [brush("b", 2, area(1, 1, 9, 9))]}
    label_studio.add_task(8, 5, frames(), predictions=[predicted])
    assert set(export.objects()) == {(7, 0, 1)}
    assert set(export.objects("--project", 5, "--predictions")) == {(7, 0, 1), (8, 2, 1)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=steady(FRAMES, 25))


def keyframe(frame: int, x: float, *, enabled: bool = True) -> dict[str, Any]:
    place = {"x": x, "y": 25, "width": 25, "height": 50, "rotation": 0}
    return {"frame": frame, "enabled": enabled, "time": frame / 25, **place}


@pytest.fixture
def video(label_studio: LabelStudio, clip: Path, store: TrackStore) -> Any:
    """A ball tracked by the service on frames 1-9 of the file, and a car nobody tracked."""
    label_studio.add_project(5, VIDEO)
    address = label_studio.serve("/data/upload/5/0a1b2c3d-a.mp4", clip)

    def region(name: str, label: str, *keyframes: Any) -> dict[str, Any]:
        value = {"framesCount": FRAMES, "duration": FRAMES / 25, "sequence": list(keyframes)}
        return {
            "id": name,
            "from_name": "box",
            "to_name": "video",
            "type": "videorectangle",
            "value": {**value, "labels": [label]},
        }

    ball = region("r1", "Ball", keyframe(1, 0), keyframe(12, 0, enabled=False))
    car = region("r2", "Car", keyframe(3, 50), keyframe(5, 50, enabled=False))
    label_studio.add_task(9, 5, {"video": address}, **annotated(ball, car))
    disc = area(0, 27, 48, 54, (CLIP_WIDTH, CLIP_HEIGHT))
    disc[30:40, 10:20] = False  # a mask that is not its box
    track = track_name(PROJECT, 9, "video", "demo", address)
    packed = PackedMask.pack(disc)
    masks = [TrackedMask("r1", index, "", packed, 0.9, 5.0) for index in range(1, 10)]
    far = area(150, 0, 20, 20, (CLIP_WIDTH, CLIP_HEIGHT))  # the annotator moved the box away
    masks.append(TrackedMask("r1", 10, "", PackedMask.pack(far), 0.9, 5.0))
    store.put_masks(track, masks, job_id="", done=0)
    return disc


def test_the_masks_behind_the_boxes_of_a_video(export: Exporter, video: Any) -> None:
    coco = export.json("coco")
    names = {category["id"]: category["name"] for category in coco["categories"]}
    images = {image["id"]: image for image in coco["images"]}
    assert [image["frame"] for image in coco["images"]] == list(range(12))
    assert images[4]["file_name"] == "data/upload/5/0a1b2c3d-a/frame_000003.jpg"
    assert images[4]["time"] == pytest.approx(3 / 25)
    origins: dict[str, dict[int, str]] = {"Ball": {}, "Car": {}}
    for each in coco["annotations"]:
        frame = images[each["image_id"]]["frame"]
        origins[names[each["category_id"]]][frame] = each["origin"]
        if each["origin"] == "tracked":
            assert (decode(each["segmentation"]) == video).all()
    tracked = dict.fromkeys(range(1, 10), "tracked")
    assert origins["Ball"] == {0: "box", **tracked, 10: "box", 11: "box"}
    assert origins["Car"] == {2: "box", 3: "box", 4: "box"}


def test_a_video_in_the_other_formats(export: Exporter, video: Any, tmp_path: Path) -> None:
    made = export.json("youtube-vis")
    assert made["videos"][0]["length"] == FRAMES
    ball = next(each for each in made["annotations"] if each["object"] == "r1")
    assert ball["origins"][:3] == ["box", "tracked", "tracked"]
    ran = export("png")
    assert "15 masks of 1 task " in ran.err
    assert "of which 6 are filled boxes" in ran.err
    assert f"of 15 boxes on videos 9 have a tracked mask in {tmp_path / 'state'}" in ran.err
    assert "warning" not in ran.err
    picture = cv2.imread(str(export.folder / "task_9/video_frame_000005.png"), cv2.IMREAD_UNCHANGED)
    assert ((picture == 1) == video).all()


def test_frames_of_a_video_come_along(export: Exporter, video: Any) -> None:
    assert export("davis", "--project", 5, "--pictures").code == 0
    folder = export.folder / "JPEGImages/Full-Resolution/task_9_video"
    assert len(list(folder.glob("*.jpg"))) == FRAMES
    png = export.folder / "Annotations/Full-Resolution/task_9_video/00005.png"
    with Image.open(png) as picture:
        assert ((np.array(picture) == 1) == video).all()


def test_another_folder_than_the_services_is_not_taken_for_untracked_boxes(
    export: Exporter, video: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "elsewhere"))
    ran = export("png")
    assert ran.code == 0
    assert f"of 15 boxes on videos 0 have a tracked mask in {tmp_path / 'elsewhere'}" in ran.err
    assert "warning: 1 video has none there" in ran.err
    assert "STATE_DIR" in ran.err


def test_pages_of_the_task_list_are_all_read(export: Exporter, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, SEQUENCE)
    for number in range(20, 27):
        label_studio.add_task(number, 5, frames(), **annotated(brush("a", 1, area(1, 1, 3, 3))))
    assert {key[0] for key in export.objects()} == set(range(20, 27))
    assert label_studio.pages_asked == 3
    assert {key[0] for key in export.objects("--task", 21, "--task", 25)} == {21, 25}


def test_a_damaged_task_does_not_stop_the_others(
    export: Exporter, label_studio: LabelStudio
) -> None:
    label_studio.add_project(5, SEQUENCE)
    broken = brush("x", 1, area(1, 1, 3, 3))
    broken["value"]["rle"] = broken["value"]["rle"][:9]
    label_studio.add_task(7, 5, frames(), **annotated(broken))
    label_studio.add_task(8, 5, frames(), **annotated(brush("a", 1, area(1, 1, 3, 3))))
    label_studio.add_task(9, 5, {"other": 1}, **annotated(brush("a", 1, area(1, 1, 3, 3))))
    ran = export("coco")
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("task 7 failed: region x cannot be read")
    assert lines[1].startswith("task 9 failed: <Image name=image> wants $frames")
    assert lines[3] == "2 tasks failed"
    made = json.loads((export.folder / "annotations.json").read_text())
    assert [image["task"] for image in made["images"]] == [8]


def test_what_cannot_be_done_is_one_line(
    export: Exporter, run: Run, label_studio: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, frames())

    def fails(*arguments: object) -> str:
        ran = export("coco", *arguments)
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
        return ran.err

    assert "no task 99" in fails("--task", 99)
    assert "no project 98" in fails("--project", 98)
    assert "nothing to export" in fails("--task", 7)
    assert "--task N" in run("export", "--format", "coco", "--out", export.folder).err
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "wrong")
    assert "401" in fails("--task", 7)
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in fails("--task", 7)
    monkeypatch.delenv("LABEL_STUDIO_URL")
    assert "set LABEL_STUDIO_URL" in fails("--task", 7)
