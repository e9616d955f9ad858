"""EdgeTAM against ``transformers``' implementation, with the same random weights.

Batch norms and branches are computed one by one there, with statistics that are neither 0 nor 1.
Spatial memories are kept in float32 here: what rounding them to bfloat16 between frames costs is
the same as in the other variants (``test_video_tracker_parity.py``).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.support.clips import MovingDiscs
from benchmarks.support.edgetam_peer import NAME, EdgeTAMPair, PeerTracker, make_pair
from benchmarks.support.parity import BOUND
from benchmarks.support.reference import relative_error
from sam2model.sam2 import SAM2
from sam2model.transformers_layout import from_transformers, to_transformers
from sam2model.variants import VARIANTS
from sam2model.video_tracker import VideoTracker

pytestmark = pytest.mark.parity

SIZE = 256
SEED = 11  # with which objects are present, and their masks neither empty nor full


@pytest.fixture(scope="module")
def pair() -> EdgeTAMPair:
    return make_pair(SIZE, SEED)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("size", [SIZE, 1024])
def test_image_features(size, pair):
    if size != SIZE:
        pair = make_pair(size, SEED)
    images = noise(1, 3, size, size)
    with torch.inference_mode():
        ours = pair.ours.encode_image(images)
        embedding = pair.ours.without_memory(ours.embedding)
        theirs = pair.peer.get_image_embeddings(images)
    for a, b in zip((*ours.high_res, embedding), theirs, strict=True):
        assert relative_error(a, b) <= BOUND


@pytest.mark.parametrize("multimask", [True, False])
def test_masks_and_scores(pair, multimask):
    images, points = noise(1, 3, SIZE, SIZE), [[[0.3 * SIZE, 0.4 * SIZE], [0.8 * SIZE, 0.6 * SIZE]]]
    with torch.inference_mode():
        ours = pair.ours.encode_image(images)
        answer = pair.ours.segment_object(
            pair.ours.without_memory(ours.embedding),
            ours.high_res,
            torch.tensor(points),
            torch.tensor([[1, 0]]),
            multimask=multimask,
        )
        theirs = pair.peer._single_frame_forward(
            images,
            input_points=torch.tensor([points]),
            input_labels=torch.tensor([[[1, 0]]]),
            multimask_output=multimask,
        )
    assert float(theirs.object_score_logits) > 0  # else the masks would all be -1024
    assert relative_error(answer.logits[0], theirs.pred_masks[0]) <= BOUND
    assert relative_error(answer.candidate_ious, theirs.iou_scores[0]) <= BOUND
    assert relative_error(answer.object_score_logits, theirs.object_score_logits[0]) <= BOUND
    assert relative_error(answer.pointer, theirs.object_pointer[0]) <= BOUND


def a_correction(tracker: Any) -> Iterator[Any]:
    """Two objects through six frames; one is corrected on the way."""
    tracker.prompt(0, 1, points=[[0.3 * SIZE, 0.3 * SIZE]])
    tracker.prompt(0, 2, box=[0.55 * SIZE, 0.25 * SIZE, 0.85 * SIZE, 0.55 * SIZE])
    yield from tracker.propagate(0, 4)
    corrections = [[0.4 * SIZE, 0.3 * SIZE], [0.5 * SIZE, 0.8 * SIZE]]
    tracker.prompt(3, 1, points=corrections, labels=[1, 0])
    yield from tracker.propagate(3, 4)


def test_tracked_frames(pair, monkeypatch):
    monkeypatch.setattr("sam2model.track_step._MEMORY_DTYPE", torch.float32)
    frames = list(MovingDiscs(7, SIZE))
    peer, tracker = PeerTracker(pair.peer, frames), VideoTracker(pair.ours, frames)
    for theirs, ours in zip(a_correction(peer), a_correction(tracker), strict=True):
        assert ours.frame == theirs.frame
        scores = torch.from_numpy(ours.object_scores)
        assert relative_error(scores, theirs.object_scores) <= BOUND
        logits = torch.from_numpy(ours.logits)
        for a, b in zip(logits, theirs.logits, strict=True):
            assert relative_error(a, b) <= BOUND
        # Objects that look alike would say nothing about what is remembered of each.
        assert relative_error(logits[0], logits[1]) > 100 * BOUND
        assert np.all(theirs.object_scores.numpy() > 0)


def test_the_layout_of_transformers_goes_both_ways():
    weights = {
        name: torch.full_like(value, i) if value.is_floating_point() else value
        for i, (name, value) in enumerate(SAM2(VARIANTS[NAME], SIZE).state_dict().items())
    }
    back = from_transformers(to_transformers(weights), weights)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
