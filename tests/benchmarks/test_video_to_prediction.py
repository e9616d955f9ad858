"""The benchmark from a video file to the prediction, on a short clip."""

import numpy as np
import pytest

from benchmarks.speed import around_the_model
from benchmarks.speed.video_to_prediction import HEAD, compare_masks, rows
from benchmarks.support.moving_clip import MovingClip


@pytest.mark.slow
@pytest.mark.instruction_set
def test_the_service_stores_the_masks_of_the_network_alone(tmp_path):
    clip = MovingClip(5, 192, 108)
    [(row, parts)] = rows("demo", clip, [2], tmp_path / "run", rounds=1)
    measured = dict(zip(HEAD, row, strict=True))
    assert measured["differing"] == "0.0e+00"
    assert (measured["objects"], measured["frames"]) == ("2", "5")
    assert float(measured["service, frames/s"]) > 0
    around = dict(zip(around_the_model.HEAD, parts, strict=True))
    assert (around["size"], around["masks/frame"]) == ("192 x 108", "2")
    assert all(float(around[name]) >= 0 for name in around_the_model.HEAD[3:])


def test_masks_that_differ_or_are_missing_are_told():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    other = mask.copy()
    other[5, 5:9] = False
    assert compare_masks({("a", 0): other}, {("a", 0): mask}) == "1.0e-02"
    with pytest.raises(ValueError, match="stored are 0 masks, tracked were 1"):
        compare_masks({}, {("a", 0): mask})
