"""How well weights do on the demo's own photos and clip, whose true masks no model has drawn.

    python -m benchmarks.quality.demo_photos [--weights FILE] [--find] [--out demo/photos/README.md]

``--find`` prints for every object the click inside its mask that gives the best answer: clicks
of a demo may be good ones, as long as it says so and the share of good ones stands beside.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.support.report import write_section
from benchmarks.support.table import table
from demo.clip import sample_clip
from demo.sample_photos import PhotoObject, photo_objects
from sam2model import ImagePredictor, VideoTracker, build_model

Mask = NDArray[np.bool_]

GOOD = 0.7  # IoU of a mask that is worth correcting rather than drawing
_GRID = 12  # clicks along the longer side of an object
_PHOTO_HEAD = ("object", "click", "box", "click anywhere, mean", f"clicks above {GOOD}")
_CLIP_HEAD = ("object", "prompt on the first frame", "mean", "lowest")


def subjects() -> list[PhotoObject]:
    """Every object of the photos."""
    return [each for objects in photo_objects().values() for each in objects.values()]


def grid(mask: Mask) -> NDArray[np.float64]:
    """Clicks evenly over an object, none nearer to its edge than a pixel: xy in pixels."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    pitch = max(width, height) / _GRID
    xs, ys = np.meshgrid(
        np.arange(x + pitch / 2, x + width, pitch), np.arange(y + pitch / 2, y + height, pitch)
    )
    points = np.stack([xs.ravel(), ys.ravel()], axis=1)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    return points[inner[points[:, 1].astype(int), points[:, 0].astype(int)] > 0]


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def photo_row(predictor: ImagePredictor, subject: PhotoObject, find: bool) -> list[str]:
    """IoU for the demo's click and box, and what clicks elsewhere on the object give."""
    embedding = predictor.embed(subject.image)

    def clicked(xy: NDArray[np.float64]) -> float:
        return iou(predictor.predict(embedding, points=xy[None]).masks[0], subject.mask)

    box = predictor.predict(embedding, box=subject.pixels(subject.box).ravel()).masks[0]
    points = grid(subject.mask)
    everywhere = np.array([clicked(xy) for xy in points])
    if find:
        best = points[everywhere.argmax()] / subject.mask.shape[::-1] * 100
        print(f"{subject.photo.name} {subject.name}: {best.round(1)}, IoU {everywhere.max():.2f}")
    return [
        f"{subject.photo.name}, {subject.name}",
        f"{clicked(subject.pixels(subject.click)[0]):.2f}",
        f"{iou(box, subject.mask):.2f}",
        f"{everywhere.mean():.2f}",
        f"{(everywhere > GOOD).mean():.0%}",
    ]


def clip_rows(predictor: ImagePredictor) -> Iterator[list[str]]:
    """Mean and lowest IoU over the clip's frames, prompted on the first one only."""
    clip = sample_clip()
    for name, masks in clip.masks.items():
        rows, columns = np.nonzero(masks[0])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        middle = [[columns.mean(), rows.mean()]]
        for prompt, arguments in (("click", {"points": middle}), ("box", {"box": box})):
            tracker = VideoTracker(predictor.model, clip.frames)
            tracker.prompt(0, name, **arguments)
            found = [frame.masks[0] for frame in tracker.propagate()]
            values = [iou(a, b) for a, b in zip(found, masks, strict=True)]
            yield [name, prompt, f"{np.mean(values):.2f}", f"{min(values):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="without it: those shipped")
    parser.add_argument("--find", action="store_true", help="print the best click of each object")
    parser.add_argument("--out", type=Path, help="document with the sections to replace")
    arguments = parser.parse_args()
    predictor = ImagePredictor(build_model("demo", arguments.weights))
    photos = [photo_row(predictor, each, arguments.find) for each in subjects()]
    write_section(arguments.out, "photos", table(_PHOTO_HEAD, photos).splitlines())
    write_section(arguments.out, "clip", table(_CLIP_HEAD, list(clip_rows(predictor))).splitlines())


if __name__ == "__main__":
    main()
