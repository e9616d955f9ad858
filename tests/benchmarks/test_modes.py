"""The benchmark of modes runs what the service runs, and scores it against the truth."""

import numpy as np
import pytest

from benchmarks.speed.modes import Clip, Mode, bounds, iou, middle, score, small_model, track
from demo.clip import sample_clip


@pytest.fixture(scope="module")
def clip() -> Clip:
    sample = sample_clip()
    return Clip(sample.frames[:5], {"bud": sample.masks["bud"][:5]})


@pytest.mark.parametrize(
    "mode",
    [Mode("float32", dtype="float32"), Mode("all", part_of_size=0.5, memories=2, stride=2)],
)
def test_every_frame_is_scored_and_the_object_is_followed(clip: Clip, mode: Mode) -> None:
    model = small_model(mode)
    assert (model.image_size, model.num_mask_memories) == (256 * mode.part_of_size, mode.memories)
    found = track(model, mode, clip)
    assert [[each.object_id for each in objects] for objects in found] == [["bud"]] * 5
    assert score(clip, found) > 0.7


def test_measures() -> None:
    nothing = np.zeros((20, 30), dtype=bool)
    mask = nothing.copy()
    mask[4:9, 10:15] = True
    assert bounds(mask).tolist() == [10, 4, 15, 9]
    assert middle(mask) == [12, 6]
    assert (iou(mask, nothing), iou(mask, mask), iou(nothing, nothing)) == (0, 1, 1)
