"""EdgeTAM against ``transformers``' implementation, with the same random weights."""

import pytest
import torch

from benchmarks.support import edgetam_parity
from benchmarks.support.parity import BOUND
from sam2model.sam2 import SAM2
from sam2model.transformers_layout import from_transformers, to_transformers
from sam2model.variants import VARIANTS

pytestmark = pytest.mark.parity


def test_features_masks_scores_and_tracked_frames():
    measured = dict(edgetam_parity.measure())
    assert {part.partition(":")[0] for part in measured} == {
        *(f"image features, stride {stride}" for stride in (4, 8, 16)),
        "mask logits",
        "IoU scores",
        "object scores",
        "object pointers",
    }
    # Not "error > BOUND": NaN must fail too.
    assert not {part: error for part, error in measured.items() if not error <= BOUND}


def test_the_layout_of_transformers_goes_both_ways():
    weights = {
        name: torch.full_like(value, i) if value.is_floating_point() else value
        for i, (name, value) in enumerate(SAM2(VARIANTS["edgetam"], 256).state_dict().items())
    }
    back = from_transformers(to_transformers(weights), weights)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
