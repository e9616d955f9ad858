"""The "Start Training" button of a real Label Studio, up to predictions of the new version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.model_names import model_of, shown_version
from tests.e2e.services import Services
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

SIDE = 96
PICTURES = 12
BEGIN_SECONDS, END_SECONDS = 60.0, 400.0


def picture(number: int) -> tuple[Image.Image, np.ndarray]:
    """A dashed ring on noise, and its mask: nothing that the demo weights take for one object."""
    rng = np.random.default_rng([9, number])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    x, y = rng.uniform(36, 60, 2)
    distance, angle = np.hypot(columns - x, rows - y), np.arctan2(rows - y, columns - x)
    radius = rng.uniform(20, 28)
    mask = (abs(distance - radius) < 4) & (np.sin(8 * angle) > -0.6)
    pixels = rng.integers(90, 170, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[mask] //= 3
    return Image.fromarray(pixels), mask


def annotate(services: Services, task: int, mask: np.ndarray) -> None:
    """Submit an annotation with a brush mask, as the editor does."""
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Thing"]}
    result = {
        "id": "ring",
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": SIDE,
        "original_height": SIDE,
        "image_rotation": 0,
        "value": value,
    }
    services.api.request("POST", f"/api/tasks/{task}/annotations/", json={"result": [result]})


def box_task(services: Services, project: int, photo: Path, mask: np.ndarray) -> int:
    """A task that has nothing but a box, to be turned into a mask."""
    [task] = services.photo_tasks(project, photo)
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    left, top = xs[0] * 100 / SIDE, ys[0] * 100 / SIDE
    width, height = (xs[-1] + 1) * 100 / SIDE - left, (ys[-1] + 1) * 100 / SIDE - top
    box = {"x": left, "y": top, "width": width, "height": height, "rotation": 0}
    result = {
        "id": "box",
        "type": "rectanglelabels",
        "from_name": "box",
        "to_name": "image",
        "original_width": SIDE,
        "original_height": SIDE,
        "value": {**box, "rectanglelabels": ["Thing"]},
    }
    services.api.request("POST", f"/api/tasks/{task}/annotations/", json={"result": [result]})
    return task


def job(services: Services, project: int) -> dict[str, Any]:
    reply = requests.get(f"{services.backend.url}/train/{project}", timeout=PATIENCE)
    return reply.json() if reply.ok else {}


def version(services: Services) -> str:
    reply = requests.get(f"{services.backend.url}/health", timeout=PATIENCE)
    return model_of(reply.json()["model_version"])


@pytest.fixture
def training(services: Services) -> Iterator[Services]:
    """A backend that may fine-tune on any project; afterwards it is as it was before."""
    services.stop_backend()
    services.start_backend(FINETUNE_PROJECTS="all", SAM2_IMAGE_SIZE="96", OMP_NUM_THREADS="1")
    yield services
    services.stop_backend()
    services.start_backend()


def test_the_start_training_button_gives_a_model_version(
    training: Services, label_config: str, tmp_path: Path
) -> None:
    services = training
    project = services.project("Rings", label_config)
    for number in range(PICTURES):
        image, mask = picture(number)
        image.save(tmp_path / f"{number}.png")
        [task] = services.photo_tasks(project, tmp_path / f"{number}.png")
        annotate(services, task, mask)
    others = []  # two: a request for one task looks like the one of a page that is opened
    for number in (98, 99):
        image, mask = picture(number)
        image.save(tmp_path / f"{number}.png")
        others.append(box_task(services, project, tmp_path / f"{number}.png", mask))
    assert version(services) == "demo-96px"

    [backend] = services.api.request("GET", "/api/ml", params={"project": project})
    services.api.request("POST", f"/api/ml/{backend['id']}/train", json={})  # the button
    until(lambda: job(services, project).get("stage") == "training", BEGIN_SECONDS, pause=0.5)
    services.kill_backend()  # nothing is lost: the next start goes on
    services.start_backend(FINETUNE_PROJECTS="all", SAM2_IMAGE_SIZE="96", OMP_NUM_THREADS="1")

    until(
        lambda: job(services, project)["state"] not in ("queued", "running"), END_SECONDS, pause=0.5
    )
    ended = job(services, project)
    assert ended["state"] == "done", ended
    expected = f"demo-ft1-p{project}-96px"
    assert ended["version"] == expected, ended["message"]
    until(lambda: version(services) == expected, pause=0.5)

    services.api.retrieve_predictions(project, others)
    for task in others:
        [prediction] = services.api.predictions(task)
        assert prediction["model_version"] == shown_version(expected)
    versions = requests.get(f"{services.backend.url}/versions", timeout=PATIENCE).json()["versions"]
    assert versions == [expected, "demo-96px"]

    services.stop_backend()  # the way back is a setting
    services.start_backend(SAM2_MODEL_VERSION="base", SAM2_IMAGE_SIZE="96")
    assert version(services) == "demo-96px"
