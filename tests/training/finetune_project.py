"""A small project with discs as objects: tasks as Label Studio exports them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.labelstudio.brush_rle import encode_brush

SIZE = 64
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Disc"/></BrushLabels>
  <PolygonLabels name="outline" toName="image"><Label value="Disc"/></PolygonLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Disc"/></RectangleLabels>
</View>"""
SEQUENCE_CONFIG = """<View>
  <Image name="image" valueList="$frames"/>
  <BrushLabels name="mask" toName="image"><Label value="Disc"/></BrushLabels>
</View>"""


def disc(number: int, page: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 RGB ``[SIZE, SIZE, 3]``, and the mask of the disc on it."""
    rng = np.random.default_rng([4, number])
    centre = (rng.uniform(20, 44, 2) + page).astype(int)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    mask = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= rng.uniform(8, 14) ** 2
    image = rng.integers(120, 180, (SIZE, SIZE, 3), dtype=np.uint8)
    image[mask] = image[mask] // 3 + np.array([90, 0, 0], np.uint8)
    return image, mask


def address(image: np.ndarray) -> str:
    """A ``data:`` address of a picture."""
    _, png = cv2.imencode(".png", image[..., ::-1])
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def region(kind: str, value: dict[str, Any], identifier: str, **more: Any) -> dict[str, Any]:
    """A result on the picture."""
    names = {"brushlabels": "mask", "polygonlabels": "outline", "rectanglelabels": "box"}
    return {
        "id": identifier,
        "type": kind,
        "from_name": names[kind],
        "to_name": "image",
        "original_width": SIZE,
        "original_height": SIZE,
        "value": {**value, kind: ["Disc"]},
        **more,
    }


def brush(mask: np.ndarray, identifier: str = "disc", **more: Any) -> dict[str, Any]:
    """A brush region."""
    value = {"format": "rle", "rle": encode_brush(mask)}
    return region("brushlabels", value, identifier, **more)


def box(x: float, y: float, width: float, height: float, identifier: str) -> dict[str, Any]:
    """A box, in percent."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return region("rectanglelabels", value, identifier)


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A submitted annotation."""
    return {"id": 1, "result": list(results), "was_cancelled": False, **more}


def task(number: int) -> dict[str, Any]:
    """A task with one accepted brush mask."""
    image, mask = disc(number)
    return {
        "id": number,
        "project": 7,
        "data": {"image": address(image)},
        "annotations": [annotation(brush(mask))],
    }


def sequence(number: int, pages: int) -> dict[str, Any]:
    """A task with a disc that moves over the pages of a frame sequence."""
    frames = [disc(number, page) for page in range(pages)]
    masks = [brush(mask, f"d{i}", item_index=i) for i, (_, mask) in enumerate(frames)]
    return {
        "id": number,
        "project": 7,
        "data": {"frames": [address(image) for image, _ in frames]},
        "annotations": [annotation(*masks)],
    }


def write_export(folder: Path, tasks: list[dict[str, Any]], config: str = CONFIG) -> list[str]:
    """Write the files of an export; returns the command line's words for them."""
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    (folder / "config.xml").write_text(config, encoding="utf-8")
    files = ["--annotations", str(folder / "tasks.json")]
    return [*files, "--label-config", str(folder / "config.xml")]
