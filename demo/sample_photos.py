"""The demo's photos (``demo/photos/README.md``), and what is known of the objects on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

PHOTOS = Path(__file__).resolve().parent / "photos"


@dataclass(frozen=True)
class PhotoObject:
    """An object on a photo, how to point at it, and what it truly covers.

    Attributes:
        photo: the file.
        click: x and y in percent of the photo.
        box: left, top, right, bottom in percent of the photo.
        truth: the file of its mask, drawn without a model.
    """

    photo: Path
    name: str
    label: str
    click: tuple[float, float]
    box: tuple[float, float, float, float]
    truth: Path

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The photo: uint8 RGB ``[H, W, 3]``."""
        return _read(self.photo)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """bool ``[H, W]``."""
        return _read(self.truth)[..., 0] > 0

    def pixels(self, percent: tuple[float, ...]) -> NDArray[np.float64]:
        """Percent of the photo to pixels: xy pairs ``[N, 2]``."""
        height, width = self.mask.shape
        return np.reshape(percent, (-1, 2)) / 100 * np.array([width, height])


def read_photo(name: str) -> NDArray[np.uint8]:
    """A photo as uint8 RGB ``[H, W, 3]``.

    Raises:
        OSError: there is none of that name.
    """
    return _read(PHOTOS / name)


def photo_objects() -> dict[str, dict[str, PhotoObject]]:
    """What is known of each photo's objects, by the photo's file name and the object's name."""
    content = json.loads((PHOTOS / "truth.json").read_text(encoding="utf-8"))
    return {
        photo: {
            name: PhotoObject(
                PHOTOS / photo,
                name,
                item["label"],
                tuple(item["click"]),
                tuple(item["box"]),
                PHOTOS / item["mask"],
            )
            for name, item in objects.items()
        }
        for photo, objects in content.items()
    }


def _read(file: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise OSError(f"{file} is no picture")
    return picture.astype(np.uint8)
