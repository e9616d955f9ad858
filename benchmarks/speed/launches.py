"""Kernels that each computation launches on a GPU, and what the host asks of it.

    python -m benchmarks.speed.launches [--variants ...] [--out FILE]

Counted on torch's meta device (``benchmarks/support/launches.py``), so that no GPU is needed. Small
networks on fast GPUs take as long as their launches, not as what is computed. For a download the
host waits where it reads it; it waits for nothing else (``tests/sam2model/test_device_path.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.launches import MetaTransfer, counting, meta_model, transferring
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from sam2model import ImagePredictor, VideoTracker
from sam2model.sam2 import SAM2
from sam2model.track_memory import Step
from sam2model.video_tracker import Frames

VARIANTS = ("edgetam", "sam2.1_hiera_tiny", "sam2.1_hiera_base_plus", "sam2.1_hiera_large")
PICTURE = (1080, 1920, 3)
FULL = 17  # frames after which a track's memory is full


class Counts(NamedTuple):
    """What was launched, and how often the host asked for something."""

    launches: int
    downloads: int


class Blank:
    """A video of 1080p without pictures."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return np.zeros(PICTURE, np.uint8)


def tracked_frame(model: SAM2, copies: MetaTransfer, objects: int) -> Counts:
    """Of a frame with a full memory."""
    tracker = VideoTracker(model, Blank())
    for each in range(objects):
        tracker.prompt(0, each, points=[[30, 30]])
    frames = tracker.propagate(start=0)
    for _ in range(FULL):
        next(frames)
    return _counted(lambda: next(frames), copies)


def full_track(model: SAM2, objects: int, frames: Frames | None = None) -> VideoTracker:
    """A track that has its memory full at frame ``FULL``, without tracking so many frames.

    Args:
        model: without values.
        objects: each with one prompt, on frame 0.
        frames: of the video; of 1080p where None.
    """
    tracker = VideoTracker(model, Blank() if frames is None else frames, history_frames=16)
    for each in range(objects):
        tracker.prompt(0, each, points=[[30, 30]])
    next(tracker.propagate(1, 1))
    for track in tracker._tracks.values():  # as if more frames had been tracked
        for frame in range(2, FULL):
            track.memories[frame] = track.memories[1].clone()
            track.pointers[frame] = track.pointers[1].clone()
        track.forget_all_but([Step(FULL, reverse=False)])
    return tracker


def embedding(model: SAM2, copies: MetaTransfer) -> Counts:
    """Of the embedding of a picture."""
    predictor = ImagePredictor(model)
    picture = np.zeros(PICTURE, np.uint8)
    predictor.embed(picture)  # casts and lays out weights, once
    return _counted(lambda: predictor.embed(picture), copies)


def click(model: SAM2, copies: MetaTransfer) -> Counts:
    """Of a click on an encoded picture."""
    predictor = ImagePredictor(model)
    encoded = predictor.embed(np.zeros(PICTURE, np.uint8))
    predictor.predict(encoded, points=[[9, 9]])
    return _counted(lambda: predictor.predict(encoded, points=[[9, 9]]), copies)


def boxes(model: SAM2, copies: MetaTransfer, count: int) -> Counts:
    """Of that many boxes on an encoded picture, decoded together."""
    predictor = ImagePredictor(model)
    encoded = predictor.embed(np.zeros(PICTURE, np.uint8))
    wanted = np.tile(np.array([10, 10, 50, 50], np.float32), (count, 1))
    predictor.predict_boxes(encoded, wanted)
    return _counted(lambda: predictor.predict_boxes(encoded, wanted), copies)


def _counted(call: Callable[[], object], copies: MetaTransfer) -> Counts:
    before = copies.downloads
    with counting() as launches:
        call()
    return Counts(launches.total, copies.downloads - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with transferring() as copies:
        for name in arguments.variants:
            model = meta_model(name)
            parts = {
                "embedding": embedding(model, copies),
                "click": click(model, copies),
                "32 boxes": boxes(model, copies, 32),
                "tracked frame, 1 object": tracked_frame(model, copies, 1),
                "tracked frame, 8 objects": tracked_frame(model, copies, 8),
            }
            rows += [(name, part, *found) for part, found in parts.items()]
    lines = table(["variant", "part", "launches", "downloads"], rows).splitlines()
    write_section(arguments.out, "launches", lines)


if __name__ == "__main__":
    main()
