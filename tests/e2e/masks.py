"""Masks of the end-to-end tests: decode them, compare them, find the true ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray

from demo.sample_photos import PhotoObject, photo_objects

Mask = NDArray[np.bool_]


def true_object(photo: str, name: str) -> PhotoObject:
    """The object ``name`` of a sample photo."""
    return photo_objects()[photo][name]


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
