"""A sheet of real photos with the masks that weights give for a click and for a box.

    python -m training.demo_weights.overlays [--weights FILE] --out sheet.png

The photos come with scikit-image and scikit-learn; none is in the training data. The prompts
were written down before any mask was seen, and every photo is shown, whatever comes out.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2model.build import build_model
from sam2model.image_predictor import ImagePredictor, Prediction

_SIDE = 300  # of a tile, pixels
_CAPTION = 18
_COLUMNS = 3
_COLOUR = np.array([30, 220, 60], np.float32)
_PROMPT = (255, 60, 60)


@dataclass(frozen=True)
class Subject:
    """One object of a photo; positions are shares of the photo's width and height."""

    package: str
    file: str
    name: str
    click: tuple[float, float]
    box: tuple[float, float, float, float]


SKIMAGE, SKLEARN = "skimage.data", "sklearn.datasets.images"
SUBJECTS = (
    Subject(SKIMAGE, "astronaut.png", "suit", (0.40, 0.65), (0.04, 0.33, 0.72, 0.99)),
    Subject(SKIMAGE, "camera.png", "man", (0.33, 0.55), (0.13, 0.12, 0.55, 1.00)),
    Subject(SKIMAGE, "chelsea.png", "eye", (0.38, 0.39), (0.29, 0.27, 0.47, 0.50)),
    Subject(SKIMAGE, "chelsea.png", "cat", (0.52, 0.55), (0.00, 0.00, 0.93, 1.00)),
    Subject(SKIMAGE, "coffee.png", "cup", (0.48, 0.30), (0.28, 0.02, 0.68, 0.60)),
    Subject(SKIMAGE, "coins.png", "coin", (0.87, 0.15), (0.79, 0.04, 0.95, 0.25)),
    Subject(SKIMAGE, "horse.png", "horse", (0.50, 0.40), (0.03, 0.02, 0.98, 0.95)),
    Subject(SKIMAGE, "rocket.jpg", "rocket", (0.50, 0.53), (0.465, 0.30, 0.53, 0.98)),
    Subject(SKIMAGE, "motorcycle_left.png", "motorcycle", (0.56, 0.43), (0.13, 0.27, 0.93, 0.92)),
    Subject(SKIMAGE, "cell.png", "cell", (0.78, 0.57), (0.67, 0.465, 0.90, 0.67)),
    Subject(SKIMAGE, "retina.jpg", "optic disc", (0.155, 0.455), (0.10, 0.39, 0.22, 0.52)),
    Subject(SKLEARN, "china.jpg", "tower", (0.32, 0.53), (0.10, 0.07, 0.56, 0.93)),
    Subject(SKLEARN, "flower.jpg", "dahlia", (0.48, 0.52), (0.26, 0.20, 0.70, 0.85)),
)


def sheet(predictor: ImagePredictor, subjects: Sequence[Subject] = SUBJECTS) -> NDArray[np.uint8]:
    """Every subject twice, for its click and for its box: uint8 RGB ``[H, W, 3]``."""
    tiles = [np.hstack(list(_tiles(predictor, subject))) for subject in subjects]
    rows = [_row(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    return np.vstack(rows)


def _row(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    row = np.zeros((max(len(t) for t in tiles), _COLUMNS * 2 * _SIDE, 3), np.uint8)
    for number, tile in enumerate(tiles):
        row[: len(tile), number * 2 * _SIDE : (number + 1) * 2 * _SIDE] = tile
    return row


def _tiles(predictor: ImagePredictor, subject: Subject) -> Iterator[NDArray[np.uint8]]:
    photo = _photo(subject)
    size = np.array([photo.shape[1], photo.shape[0]])
    embedding = predictor.embed(photo)
    click = np.array([subject.click]) * size
    box = np.array(subject.box) * np.tile(size, 2)

    found = predictor.predict(embedding, points=click)
    shown = _painted(photo, found)
    cv2.circle(shown, _pixel(click[0]), max(photo.shape) // 60, _PROMPT, -1)
    yield _tile(shown, f"{subject.name}: click, {_scores(found)}")

    found = predictor.predict(embedding, box=box)
    shown = _painted(photo, found)
    cv2.rectangle(shown, _pixel(box[:2]), _pixel(box[2:]), _PROMPT, max(photo.shape) // 200 + 1)
    yield _tile(shown, f"box, {_scores(found)}")


def _photo(subject: Subject) -> NDArray[np.uint8]:
    raw = resources.files(subject.package).joinpath(subject.file).read_bytes()
    photo = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB)
    if photo is None:
        raise ValueError(f"{subject.package} holds no readable {subject.file}")
    return photo.astype(np.uint8, copy=False)


def _painted(photo: NDArray[np.uint8], found: Prediction) -> NDArray[np.uint8]:
    mask = found.masks[0]
    shown = photo.astype(np.float32)
    shown[mask] = 0.45 * shown[mask] + 0.55 * _COLOUR
    painted = shown.astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, outlines, -1, (255, 255, 255), max(1, max(photo.shape) // 300))
    return painted


def _scores(found: Prediction) -> str:
    return f"predicted IoU {float(found.scores[0]):.2f}"


def _pixel(xy: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


def _tile(picture: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    scale = _SIDE / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile = np.zeros((len(small) + _CAPTION, _SIDE, 3), np.uint8)
    tile[_CAPTION:, : small.shape[1]] = small[:, :_SIDE]
    cv2.putText(tile, caption, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    return tile


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m training.demo_weights.overlays"
    )
    parser.add_argument("--weights", type=Path, help="weights file; without it: those shipped")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    predictor = ImagePredictor(build_model("demo", options.weights))
    picture = sheet(predictor)
    if not cv2.imwrite(str(options.out), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise SystemExit(f"cannot write {options.out}")


if __name__ == "__main__":
    main()
