"""Published weights, fetched and tried beside the official ``sam2`` package: clicks and a track.
EdgeTAM, which that does not know, beside ``transformers``: a track from clicks.

    python -m benchmarks.quality.official_weights sam2.1_hiera_tiny
    python -m benchmarks.quality.official_weights sam2.1_hiera_tiny --checkpoint FILE

Prints the IoU of both packages' masks, and of ours with the true mask of each object on the sample
photos and in the sample clip. Exits with 1 where the packages do not agree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.quality.demo_photos import iou
from benchmarks.support import edgetam_peer, torchvision_stand_in
from benchmarks.support.official_tracker import OfficialTracker, build_official_tracker
from demo.clip import OBJECTS, sample_clip
from demo.sample_photos import photo_objects, read_photo
from sam2model import VARIANTS, CheckpointError, ImagePredictor, VideoTracker, build_model
from sam2model.checkpoints import find_checkpoint, read_state_dict
from sam2model.sam2 import SAM2
from sam2model.transformers_layout import to_transformers

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
    for name, objects in photo_objects().items():
        photo = read_photo(name)
        theirs.set_image(photo)
        embedding = predictor.embed(photo)
        for each, known in objects.items():
            truth, point = known.mask, inside(known.mask)
            mask = predictor.predict(embedding, points=[point], labels=[1]).masks[0]
            masks, scores, _ = theirs.predict(np.array([point]), np.array([1]))
            other = masks[int(scores.argmax())].astype(bool)
            yield Compared(
                f"click on {each}", iou(mask, other), iou(mask, truth), iou(other, truth)
            )


class Peer(edgetam_peer.PeerTracker):
    """``transformers``' EdgeTAM, with masks of the frames' size."""

    def __init__(self, ours: SAM2, frames: Sequence[NDArray[np.uint8]]) -> None:
        model = edgetam_peer.build_peer(ours.image_size)
        model.load_state_dict(to_transformers(ours.state_dict()), strict=True)
        super().__init__(model, frames)
        self._shape, self._count = frames[0].shape[:2], len(frames)

    def masks(self) -> Iterator[list[BoolMask]]:
        """Of all objects, frame by frame."""
        for frame in self.propagate(0, self._count):
            logits = functional.interpolate(frame.logits[None], self._shape, mode="bilinear")
            yield list((logits[0] > 0).numpy())


def track(ours: SAM2, other: Peer | OfficialTracker) -> Iterator[Compared]:
    """The sample clip's objects, each from one click on the first frame; the worst frame."""
    clip, tracker = sample_clip(), VideoTracker(ours, clip_frames())
    for each in (tracker, other):
        for number, item in enumerate(OBJECTS):
            each.prompt(0, number, points=[inside(clip.masks[item.name][0])], labels=[1])
    if isinstance(other, Peer):
        theirs = list(other.masks())
    else:
        theirs = [list(found.masks) for found in other.propagate(start=0)]
    mine = [found.masks for found in tracker.propagate(start=0)]
    for number, item in enumerate(OBJECTS):
        rows = []
        for frame, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            truth = clip.masks[item.name][frame]
            rows.append((iou(a[number], b[number]), iou(a[number], truth), iou(b[number], truth)))
        yield Compared(f"{item.name} through {FRAMES} frames", *map(min, zip(*rows, strict=True)))


def clip_frames() -> Sequence[NDArray[np.uint8]]:
    """The frames that are tracked through."""
    return sample_clip().frames[:FRAMES]


def compare(name: str, checkpoint: Path | None, image_size: int | None = None) -> list[Compared]:
    """Load the weights into both packages and compare.

    Raises:
        CheckpointError: the file cannot be fetched, or is not what it should be.
    """
    path = find_checkpoint(name, checkpoint)
    ours = build_model(name, checkpoint=path, device="cpu", dtype="float32", image_size=image_size)
    if name == edgetam_peer.NAME:
        with torch.no_grad():
            return [*track(ours, Peer(ours, clip_frames()))]
    with torchvision_stand_in.installed(), torch.no_grad():
        official = build_official_tracker(name, ours.image_size)
        official.load_state_dict(read_state_dict(path), strict=True)
        return [*clicks(ours, official), *track(ours, OfficialTracker(official, clip_frames()))]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--checkpoint", type=Path, help="a file; without it the published one")
    parser.add_argument("--image-size", type=int, help="side of the network's input")
    given = parser.parse_args(arguments)
    try:
        rows = compare(given.variant, given.checkpoint, given.image_size)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    other = "transformers" if given.variant == edgetam_peer.NAME else "sam2"
    print(f"| {given.variant} | agreement with {other} | ours, truth | {other}, truth |")
    print("|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.agreement:.4f} | {row.ours:.3f} | {row.official:.3f} |")
    agree = all(row.agreement >= AGREED for row in rows)
    print(f"\n{'They agree' if agree else 'They DO NOT agree'} (IoU of at least {AGREED}).")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
