"""An export that is made again: only what has changed is written, and nothing is found half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.engine.packed_masks import PackedMask
from backend.export.outlets import FolderOutlet
from backend.tracking.store import TrackedMask, TrackStore, track_name
from tests.command_line import LabelStudio, Run
from tests.export.test_export import (
    PROJECT,
    SEQUENCE,
    VIDEO,
    Exporter,
    annotated,
    area,
    brush,
    frames,
    keyframe,
)
from tests.pixels.clips import HEIGHT, WIDTH, steady, write_clip

TASKS = (7, 8, 9)


@pytest.fixture
def export(run: Run, label_studio: LabelStudio, tmp_path: Path) -> Exporter:
    return Exporter(run, tmp_path / "out")


@pytest.fixture
def tasks(label_studio: LabelStudio) -> LabelStudio:
    label_studio.add_project(5, SEQUENCE)
    for number in TASKS:
        draw(label_studio, number, area(number, 3, 12, 8))
    return label_studio


def draw(label_studio: LabelStudio, number: int, mask: Any, label: str = "Cat") -> None:
    label_studio.add_task(number, 5, frames(2), **annotated(brush("a", 0, mask, label)))


def stamps(folder: Path) -> dict[str, int]:
    """By name: when a file of the export was written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def written(export: Exporter, kind: str, code: int = 0) -> tuple[set[str], str]:
    """The files that are new, or were written anew, by an export; and what it said."""
    before = stamps(export.folder)
    ran = export(kind)
    assert ran.code == code, ran.err
    after = stamps(export.folder)
    assert not [name for name in after if ".partial-" in name]
    return {name for name, stamp in after.items() if before.get(name) != stamp}, ran.err


@pytest.mark.parametrize("kind", ["coco", "yolo", "davis", "youtube-vis", "png", "npz", "brush"])
def test_only_what_has_changed_is_written_again(
    export: Exporter, tasks: LabelStudio, kind: str
) -> None:
    first, _ = written(export, kind)
    assert first
    none, said = written(export, kind)
    assert none == set()
    assert "3 masks of 3 tasks" in said
    assert "3 tasks as they were" in said
    draw(tasks, 8, area(30, 20, 5, 5))
    changed, said = written(export, kind)
    assert "2 tasks as they were" in said
    assert changed
    assert not [name for name in changed if "task_7" in name or "task_9" in name]


def test_an_export_made_again_equals_one_made_at_once(
    export: Exporter, tasks: LabelStudio, run: Run, tmp_path: Path
) -> None:
    """Changed, gone and added tasks, and a label that the config does not have."""
    for kind in ("coco", "yolo"):
        assert export(kind).code == 0
    draw(tasks, 7, area(30, 20, 5, 5), "Dog")
    draw(tasks, 10, area(3, 3, 9, 9), "Bird")
    del tasks.tasks[9]
    for kind in ("coco", "yolo"):
        assert export(kind).code == 0
    once = Exporter(run, tmp_path / "once")
    for kind in ("coco", "yolo"):
        assert once(kind).code == 0
    names = stamps(once.folder)
    assert stamps(export.folder).keys() == names.keys()
    for name in names:
        assert (export.folder / name).read_bytes() == (once.folder / name).read_bytes()


def test_other_options_write_everything_anew(export: Exporter, tasks: LabelStudio) -> None:
    made = export.json("coco")
    assert isinstance(made["annotations"][0]["segmentation"], dict)
    made = export.json("coco", "--project", 5, "--segmentation", "polygons")
    assert all(isinstance(each["segmentation"], list) for each in made["annotations"])


def test_a_task_that_fails_keeps_what_was_written_of_it(
    export: Exporter, tasks: LabelStudio
) -> None:
    before = export.json("coco")
    broken = brush("x", 1, area(1, 1, 3, 3))
    broken["value"]["rle"] = broken["value"]["rle"][:9]
    whole = brush("y", 0, area(1, 1, 3, 3))
    tasks.add_task(8, 5, frames(2), **annotated(whole, broken))
    changed, said = written(export, "coco", code=1)
    assert "task 8 failed: region x cannot be read" in said
    assert "what was exported of it before stays" in said
    assert changed == set()
    assert json.loads((export.folder / "annotations.json").read_text()) == before


def test_a_damaged_ledger_is_set_aside(export: Exporter, tasks: LabelStudio) -> None:
    assert export("png").code == 0
    ledger = export.folder / ".export-png.sqlite3"
    ledger.write_bytes(b"no database" * 1000)
    assert export("png").code == 0
    assert len(list(export.folder.glob(".export-png.sqlite3.damaged-*"))) == 1
    assert len(list(export.folder.glob("task_*/*.png"))) == len(TASKS)


def test_what_a_killed_run_left_is_taken_away(tmp_path: Path) -> None:
    outlet = FolderOutlet(tmp_path)
    outlet.stage("a/whole.png", b"first")
    outlet.commit()
    outlet.stage("a/whole.png", b"sec")  # and here it is killed
    assert (tmp_path / "a/whole.png").read_bytes() == b"first"
    FolderOutlet(tmp_path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole.png"]


def test_two_exports_to_one_folder_do_not_mix(
    export: Exporter, tasks: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.export import ledger

    monkeypatch.setattr(ledger, "PATIENCE_S", 0.1)
    outlet = FolderOutlet(export.folder)
    first = ledger.Ledger(export.folder / ".export-coco.sqlite3", outlet, "", [])
    first.class_of("Cat")
    ran = export("coco")
    assert ran.code == 1
    assert "is another export at work?" in ran.err
    first.close()
    assert export("coco").code == 0


def test_masks_that_the_service_found_since_are_exported(
    export: Exporter, label_studio: LabelStudio, tmp_path: Path
) -> None:
    """Nothing of the task changes in Label Studio."""
    label_studio.add_project(5, VIDEO)
    clip = write_clip(tmp_path / "a.mp4", times=steady(4, 25))
    address = label_studio.serve("/data/upload/5/0a1b2c3d-a.mp4", clip)
    value = {"framesCount": 4, "duration": 0.16, "labels": ["Ball"]}
    region = {"id": "r1", "from_name": "box", "to_name": "video", "type": "videorectangle"}
    region["value"] = {**value, "sequence": [keyframe(1, 0), keyframe(3, 0, enabled=False)]}
    label_studio.add_task(9, 5, {"video": address}, **annotated(region))

    def origins() -> list[str]:
        return [each["origin"] for each in export.json("coco")["annotations"]]

    assert origins() == ["box"] * 3
    box = area(0, 27, 48, 54, (WIDTH, HEIGHT))
    track = track_name(PROJECT, 9, "video", "demo", address)
    store = TrackStore(tmp_path / "state/tracks.sqlite3")
    found = [TrackedMask("r1", 1, "", PackedMask.pack(box), 0.9, 5.0)]
    store.put_masks(track, found, job_id="", done=0)
    store.close()
    assert origins() == ["box", "tracked", "box"]
