"""A correction that builds on stored masks is the official one on a tracked frame."""

import numpy as np
import pytest

from benchmarks.support.clips import MovingDiscs
from benchmarks.support.official_tracker import OfficialTracker, make_tracking_pair
from sam2model import ImagePredictor, KnownMask, ObjectMemory

SIZE, CORRECTED, LENGTH = 128, 3, 6
MARKED = (0, 1, 5)  # the last one lies ahead


def painted(frame: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[30 + 2 * frame : 70 + 2 * frame, 20 + 6 * frame : 60 + 6 * frame] = True
    return mask


@pytest.mark.parity
@pytest.mark.parametrize(("name", "seed"), [("sam2.1_hiera_tiny", 6), ("sam2_hiera_tiny", 4)])
@pytest.mark.parametrize("clicks", [1, 2])
def test_a_correction_is_the_official_one(name: str, seed: int, clicks: int) -> None:
    """The object is marked by masks on some frames and tracked to another one, whose mask is then
    corrected by one click (three candidates) and by two (one)."""
    predictor, model = make_tracking_pair(name, SIZE, seed=seed)
    frames = list(MovingDiscs(LENGTH, SIZE))
    official = OfficialTracker(predictor, frames)
    for frame in MARKED:
        official.prompt(frame, 1, mask=painted(frame))
    list(official.propagate(start=CORRECTED, count=1))
    outputs = official.state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    logits = outputs[CORRECTED]["pred_masks"][0].clamp(-32, 32).numpy()
    points = np.array([[50.0, 60.0], [90.0, 80.0]])[:clicks]
    labels = np.array([1, 0])[:clicks]
    theirs = official.prompt(CORRECTED, 1, points=points, labels=labels)

    ours = ImagePredictor(model)
    known = {
        frame: KnownMask(ours.embed(frames[frame]).features, painted(frame), prompted=True)
        for frame in MARKED
    }
    mine = ours.predict(
        ours.embed(frames[CORRECTED]),
        points=points,
        labels=labels,
        mask=logits,
        memory=ObjectMemory(CORRECTED, LENGTH, known),
    )
    assert len(mine.masks) == (3 if clicks == 1 else 1)
    assert 0.01 < theirs.masks.mean() < 0.99
    assert (mine.masks[0] != theirs.masks[0]).mean() < 1e-3
    plain = ours.predict(ours.embed(frames[CORRECTED]), points, labels, mask=logits)
    assert (plain.masks[0] != theirs.masks[0]).mean() > 1e-2  # the memory is what matters
