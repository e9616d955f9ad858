"""The benchmark of tracked frames compares the same masks."""

import torch

from benchmarks.speed.tracked_frame import HEAD, rows


def test_both_track_the_same():
    with torch.inference_mode():
        [row] = rows("demo", [2], ["float32"], 1)
    measured = dict(zip(HEAD, row, strict=True))
    assert (measured["variant"], measured["objects"]) == ("demo", "2")
    assert float(measured["differing"]) <= 1e-3
    assert float(measured["times less CPU"]) > 0
