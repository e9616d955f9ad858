"""The figures about masks of all objects come from masks that are the official ones."""

from __future__ import annotations

import pytest

from benchmarks.speed.automatic_masks import HEAD, make_pair_of, row


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_row_says_how_many_masks_there_are_and_that_they_are_the_same():
    asked = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    cells = dict(zip(HEAD, row(make_pair_of("demo"), "few", asked, 1, (160, 120)), strict=True))
    assert (cells["weights"], cells["setting"]) == ("demo", "few")
    assert int(cells["masks"]) > 3
    assert cells["pixels differing"] == "0"
    assert float(cells["score error"]) < 1e-3
    assert float(cells["times less CPU"]) > 0
