"""The tracker's masks are those of the official ``SAM2VideoPredictor``, whatever is done to it.

Weights are random, every tensor of them drawn; the computation is in float32. The official
predictor rounds spatial memories to bfloat16 between frames, and so do we: a difference in the
last bit before the rounding can become one of 1/256 after it. That is the noise floor, at which
the official predictor with one thread differs from itself with two.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.support.clips import MovingDiscs
from benchmarks.support.official_tracker import OfficialTracker, make_tracking_pair
from sam2model.video_tracker import VideoTracker

pytestmark = pytest.mark.parity

BOUND = 1e-4  # pixels that may differ, of all pixels of all masks

Tracker = Any  # ours or the official one, which have the same methods
Answers = Iterator[Any]
Scenario = Callable[[Tracker, int], Answers]


def everything(tracker: Tracker, size: int) -> Answers:
    """All kinds of prompts, two prompted frames, a late joiner, corrections, reverse, removal."""
    painted = np.zeros((size, size), dtype=np.bool_)
    painted[size // 4 : size // 2, size // 2 : -size // 8] = True
    yield tracker.prompt(0, 1, points=[[0.3 * size, 0.3 * size]])
    yield tracker.prompt(0, 1, points=[[0.7 * size, 0.4 * size]], labels=[0])
    box = [0.55 * size, 0.25 * size, 0.85 * size, 0.55 * size]
    yield tracker.prompt(0, 2, box=box, points=[[0.7 * size, 0.4 * size]], labels=[1])
    yield tracker.prompt(7, 2, mask=painted)
    yield from tracker.propagate(count=12)

    yield tracker.prompt(10, 3, points=[[0.45 * size, 0.75 * size]], labels=[1])
    yield from tracker.propagate(start=10)

    yield tracker.prompt(15, 1, points=[[0.4 * size, 0.3 * size]], labels=[1])
    yield tracker.prompt(15, 1, points=[[0.5 * size, 0.8 * size]], labels=[0])
    yield tracker.prompt(17, 3, mask=np.zeros_like(painted))
    yield from tracker.propagate(start=15, count=6)

    yield from tracker.propagate(start=13, count=8, reverse=True)
    yield tracker.prompt(8, 2, box=box)
    yield from tracker.propagate(start=8, count=3, reverse=True)

    tracker.remove(2)
    yield from tracker.propagate(start=19)


def beginning(tracker: Tracker, size: int) -> Answers:
    """What fits in a few frames at full size."""
    yield tracker.prompt(0, 1, points=[[0.3 * size, 0.3 * size]])
    yield tracker.prompt(1, 2, box=[0.55 * size, 0.25 * size, 0.85 * size, 0.55 * size])
    yield from tracker.propagate(start=1)


@pytest.mark.parametrize(
    ("name", "size", "seed", "num_frames", "scenario", "corrections_condition"),
    [
        ("sam2_hiera_tiny", 128, 7, 24, everything, True),
        ("sam2_hiera_base_plus", 128, 7, 24, everything, True),
        ("sam2.1_hiera_tiny", 128, 6, 24, everything, True),
        ("sam2.1_hiera_tiny", 128, 6, 24, everything, False),
        ("sam2.1_hiera_base_plus", 128, 3, 24, everything, True),
        ("sam2.1_hiera_tiny", 1024, 6, 2, beginning, True),
    ],
)
def test_masks_are_the_official_ones(
    name: str,
    size: int,
    seed: int,
    num_frames: int,
    scenario: Scenario,
    corrections_condition: bool,
) -> None:
    predictor, model = make_tracking_pair(
        name, size, corrections_condition=corrections_condition, seed=seed
    )
    frames = list(MovingDiscs(num_frames, size))
    official = OfficialTracker(predictor, frames)
    ours = VideoTracker(model, frames, add_all_frames_to_correct_as_cond=corrections_condition)

    differing, pixels, areas = 0, 0, []
    for theirs, mine in zip(scenario(official, size), scenario(ours, size), strict=True):
        assert (mine.frame, mine.object_ids) == (theirs.frame, theirs.object_ids)
        differing += int((mine.masks != theirs.masks).sum())
        pixels += mine.masks.size
        areas += list(theirs.masks.mean(axis=(1, 2)))

    assert differing <= BOUND * pixels
    # Masks that are empty or full would agree about nothing.
    partial = [area for area in areas if 0.01 < area < 0.99]
    assert len(partial) >= 0.6 * len(areas)


def test_with_fewer_memories_too() -> None:
    """The official predictor with ``num_maskmem`` 3, and of the trained places in time those of
    the two frames just passed and of the prompted ones."""
    predictor, model = make_tracking_pair("sam2.1_hiera_tiny", 128, seed=6)
    frames = list(MovingDiscs(12, 128))

    def tracked(tracker: Tracker) -> np.ndarray:
        tracker.prompt(0, 1, points=[[0.3 * 128, 0.3 * 128]])
        tracker.prompt(0, 2, box=[0.55 * 128, 0.25 * 128, 0.85 * 128, 0.55 * 128])
        return np.stack([answer.masks for answer in tracker.propagate()])

    with_all = tracked(VideoTracker(model, frames))
    predictor.num_maskmem = model.num_mask_memories = 3
    places = predictor.maskmem_tpos_enc[[0, 1, -1]].detach()
    predictor.maskmem_tpos_enc = torch.nn.Parameter(places)
    theirs, ours = tracked(OfficialTracker(predictor, frames)), tracked(VideoTracker(model, frames))
    assert (ours != theirs).mean() <= BOUND
    assert (ours != with_all).mean() > 10 * BOUND  # else the comparison would say nothing
