"""The benchmark of what others on the same cores cost, on a short clip."""

from benchmarks.moving_clip import MovingClip
from benchmarks.shared_cores import HEAD, rows


def test_masks_are_the_same_beside_a_process_that_uses_the_cores():
    alone, beside = (
        dict(zip(HEAD, row, strict=True))
        for row in rows(MovingClip(3, 192, 108), [0.0, 0.02], rounds=1)
    )
    assert float(alone["others, CPU ms/frame"]) == 0
    assert float(beside["others, CPU ms/frame"]) > 0
    assert (alone["differing"], beside["differing"]) == ("0", "0")
