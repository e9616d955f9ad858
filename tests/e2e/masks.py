"""Masks of the end-to-end tests: decode them, compare them, find the true ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image

from demo.clip import PHOTOS

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TrueObject:
    """An object of a sample photo, and how to point at it.

    Attributes:
        click: x and y in percent of the image.
        box: left, top, right, bottom in percent of the image.
        mask: bool ``[H, W]``, drawn without a model.
    """

    photo: Path
    label: str
    click: tuple[float, float]
    box: tuple[float, float, float, float]
    mask: Mask


def true_object(photo: str, name: str) -> TrueObject:
    """The object ``name`` of a sample photo."""
    item = json.loads((PHOTOS / "truth.json").read_text())[photo][name]
    with Image.open(PHOTOS / item["mask"]) as image:
        mask = np.asarray(image.convert("1"))
    return TrueObject(PHOTOS / photo, item["label"], tuple(item["click"]), tuple(item["box"]), mask)


def brush_masks(results: Iterable[dict[str, Any]]) -> list[tuple[Mask, dict[str, Any]]]:
    """Every brush region of a result list with its mask, in order."""
    return [(_decode(item), item) for item in results if "rle" in item.get("value", {})]


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union; 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def at(mask: Mask, x: float, y: float) -> bool:
    """Whether the mask covers a point given in percent of the image."""
    height, width = mask.shape
    return bool(mask[int(y / 100 * height), int(x / 100 * width)])


def centre(mask: Mask) -> tuple[float, float]:
    """The middle of a mask, in percent."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    return float(columns.mean()) * 100 / width, float(rows.mean()) * 100 / height


def corners(mask: Mask) -> tuple[float, float, float, float]:
    """The box around a mask in percent: left, top, right, bottom."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    left, right = columns.min() * 100 / width, (columns.max() + 1) * 100 / width
    top, bottom = rows.min() * 100 / height, (rows.max() + 1) * 100 / height
    return float(left), float(top), float(right), float(bottom)


def _decode(item: dict[str, Any]) -> Mask:
    size = (item["original_height"], item["original_width"], 4)
    return np.reshape(decode_rle(item["value"]["rle"]), size)[:, :, 3] > 127
