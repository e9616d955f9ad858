"""Runs that encode the pictures of a project ahead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.expected import counted
from tests.command_line import LabelStudio, Run
from tests.runs.service import Service, running_service
from tests.runs.test_preannotate import IMAGE, SEQUENCE
from tests.waiting import PATIENCE

PICTURES = 6


@pytest.fixture
def project(label_studio: LabelStudio, tmp_path: Path) -> LabelStudio:
    addresses = []
    for number in range(PICTURES + 3):
        path = tmp_path / f"{number}.png"
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)
        cv2.imwrite(str(path), noise)
        name = f"/data/upload/5/0a1b2c3d-{path.name}"
        addresses.append(label_studio.serve(name, path))
    label_studio.add_project(5, IMAGE)
    for number in range(PICTURES):
        label_studio.add_task(number + 1, 5, {"image": addresses[number]})
    label_studio.add_project(6, SEQUENCE)
    label_studio.add_task(9, 6, {"frames": addresses[PICTURES:]})
    return label_studio


@pytest.fixture
def start(run: Run, project: LabelStudio, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def begin(mebibytes: int) -> Any:
        monkeypatch.setenv("EMBEDDING_DISK_MB", str(mebibytes))
        return running_service()

    return begin


def lookups(service: Service) -> dict[str, float]:
    found = {}
    for outcome in ("miss", "disk", "hit"):
        name = "sam2_embedding_lookups_total"
        metrics = service.engine._metrics
        found[outcome] = metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0
    return found


def test_what_a_run_encoded_is_there_after_a_restart(start: Any, project: LabelStudio) -> None:
    with start(1000) as service:
        done = service.run(kind="warm")
        assert done["counts"]["stored"] == PICTURES
        assert set(service.messages(done["id"]).values()) == {"encoded 1 picture"}
        pages = service.run(project=6, kind="warm")
        assert set(service.messages(pages["id"]).values()) == {"encoded 3 pictures"}
        assert lookups(service) == {"miss": PICTURES + 3, "disk": 0, "hit": 0}
    assert not any(task["predictions"] for task in project.tasks.values())
    with start(1000) as service:
        service.run(kind="warm")
        service.run(project=6, kind="warm")
        assert lookups(service) == {"miss": 0, "disk": PICTURES + 3, "hit": 0}


def test_a_dry_run_says_how_much_disk_it_takes(start: Any) -> None:
    with start(1000) as service:
        planned = service.run(kind="warm", dry_run=True)
        room = service.engine.disk_room(1.0)
        found = service.get(planned["id"], "/report")["estimate"]
        assert found["disk_bytes"] == PICTURES * room.each
        assert found["disk_fits"] == (1000 << 20) // room.each
        megabytes = round(PICTURES * room.each / 1e6)
        assert (
            f"{PICTURES} pictures take {megabytes} MB on the disk, which is there" in found["text"]
        )
        assert lookups(service)["miss"] == 0


def test_what_does_not_fit_is_left_out(start: Any) -> None:
    with start(1) as service:
        fits = service.engine.disk_room(PATIENCE).fits
        assert 0 < fits < PICTURES
        planned = service.run(kind="warm", dry_run=True)
        text = service.get(planned["id"], "/report")["estimate"]["text"]
        left = PICTURES - fits
        assert (
            f"room for {counted(fits, 'picture')}, so {counted(left, 'is', 'are')} left out" in text
        )
        done = service.run(kind="warm", concurrency=1)
        said = [each.split(":")[0] for each in service.messages(done["id"]).values()]
        assert said == ["encoded 1 picture"] * fits + ["there is no room"] * left
        assert done["message"].startswith(
            f"{counted(left, 'picture was', 'pictures were')} left out: there is no room"
        )
        assert lookups(service)["miss"] == fits
    with start(1) as service:
        service.run(kind="warm", concurrency=1)
        assert lookups(service)["disk"] == fits


def test_without_a_disk_it_says_what_to_set(start: Any) -> None:
    with start(0) as service:
        run = service.start(kind="warm")
        failed = service.ended(run, "failed")
        assert "set EMBEDDING_DISK_MB" in failed["message"]
