"""Published weights, fetched and tried beside the official ``sam2`` package: clicks and a track.

    python -m benchmarks.quality.official_weights sam2.1_hiera_tiny
    python -m benchmarks.quality.official_weights sam2.1_hiera_tiny --checkpoint FILE

Prints the IoU of both packages' masks, and of ours with the true mask of each object on the sample
photos and in the sample clip. Exits with 1 where the packages do not agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.support import torchvision_stand_in
from benchmarks.support.official_tracker import OfficialTracker, build_official_tracker
from demo.clip import OBJECTS, PHOTOS, sample_clip
from sam2model import VARIANTS, CheckpointError, ImagePredictor, VideoTracker, build_model
from sam2model.checkpoints import find_checkpoint, read_state_dict
from sam2model.sam2 import SAM2

NAMES = tuple(name for name in VARIANTS if name != "edgetam")  # which sam2 does not know
AGREED = 0.99  # IoU of the two packages' masks: pixels at edges differ by rounding
FRAMES = 6
BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class Compared:
    """One object on one picture: IoU of ours and theirs, and of each with the truth."""

    what: str
    agreement: float
    ours: float
    official: float


def iou(a: BoolMask, b: BoolMask) -> float:
    """1 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def inside(mask: BoolMask) -> list[int]:
    """The point x, y of a mask that is farthest from its edge."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return [int(x), int(y)]


def clicks(ours: SAM2, official: Any) -> Iterator[Compared]:
    """One click on each object of the sample photos; the best of three masks."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    theirs, predictor = SAM2ImagePredictor(official), ImagePredictor(ours)
    theirs._bb_feat_sizes = [(ours.image_size // n,) * 2 for n in (4, 8, 16)]  # it takes 1024
    for name, objects in json.loads((PHOTOS / "truth.json").read_text(encoding="utf-8")).items():
        photo = cv2.cvtColor(cv2.imread(str(PHOTOS / name)), cv2.COLOR_BGR2RGB)
        theirs.set_image(photo)
        embedding = predictor.embed(photo)
        for each, item in objects.items():
            truth = cv2.imread(str(PHOTOS / item["mask"]), cv2.IMREAD_GRAYSCALE) > 0
            point = inside(truth)
            mask = predictor.predict(embedding, points=[point], labels=[1]).masks[0]
            masks, scores, _ = theirs.predict(np.array([point]), np.array([1]))
            other = masks[int(scores.argmax())].astype(bool)
            yield Compared(
                f"click on {each}", iou(mask, other), iou(mask, truth), iou(other, truth)
            )


def track(ours: SAM2, official: Any) -> Iterator[Compared]:
    """The sample clip's objects, each from one click on the first frame; the worst frame."""
    clip = sample_clip()
    frames = clip.frames[:FRAMES]
    trackers = VideoTracker(ours, frames), OfficialTracker(official, frames)
    for tracker in trackers:
        for number, each in enumerate(OBJECTS):
            tracker.prompt(0, number, points=[inside(clip.masks[each.name][0])], labels=[1])
    pairs = list(zip(*(tracker.propagate(start=0) for tracker in trackers), strict=True))
    for number, each in enumerate(OBJECTS):
        rows = []
        for a, b in pairs:
            mask, other, truth = a.masks[number], b.masks[number], clip.masks[each.name][a.frame]
            rows.append((iou(mask, other), iou(mask, truth), iou(other, truth)))
        yield Compared(f"{each.name} through {FRAMES} frames", *map(min, zip(*rows, strict=True)))


def compare(name: str, checkpoint: Path | None, image_size: int | None = None) -> list[Compared]:
    """Load the weights into both packages and compare.

    Raises:
        CheckpointError: the file cannot be fetched, or is not what it should be.
    """
    path = find_checkpoint(name, checkpoint)
    ours = build_model(name, checkpoint=path, device="cpu", dtype="float32", image_size=image_size)
    official = build_official_tracker(name, ours.image_size)
    official.load_state_dict(read_state_dict(path), strict=True)
    with torch.no_grad():
        return [*clicks(ours, official), *track(ours, official)]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=NAMES)
    parser.add_argument("--checkpoint", type=Path, help="a file; without it the published one")
    parser.add_argument("--image-size", type=int, help="side of the network's input")
    given = parser.parse_args(arguments)
    try:
        with torchvision_stand_in.installed():
            rows = compare(given.variant, given.checkpoint, given.image_size)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"| {given.variant} | agreement with sam2 | ours, truth | sam2, truth |")
    print("|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.agreement:.4f} | {row.ours:.3f} | {row.official:.3f} |")
    agree = all(row.agreement >= AGREED for row in rows)
    print(f"\n{'They agree' if agree else 'They DO NOT agree'} (IoU of at least {AGREED}).")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
