"""The relative error of EdgeTAM beside that of ``transformers``, in float32.

``tests/sam2model/test_edgetam_parity.py`` asserts the bound, ``benchmarks/quality/parity.py``
prints the table. Batch norms and branches of the trunk are computed one by one there, with
statistics that are neither 0 nor 1. Spatial memories are kept in float32 here: what rounding them
to bfloat16 between frames costs is the same as in the other variants.
"""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from benchmarks.support.clips import MovingDiscs
from benchmarks.support.edgetam_peer import EdgeTAMPair, PeerTracker, make_pair
from benchmarks.support.parity import BOUND, Errors
from benchmarks.support.reference import relative_error
from sam2model.video_tracker import VideoTracker

SMALL = 256
FULL = 1024
_SEED = 11  # with which objects are present, and their masks neither empty nor full


def make(size: int) -> EdgeTAMPair:
    """The pair with weights that say something."""
    return make_pair(size, _SEED)


def image_features(pair: EdgeTAMPair) -> Errors:
    """The image encoder, on noise."""
    images = _noise(pair)
    ours = pair.ours.encode_image(images)
    embedding = pair.ours.without_memory(ours.embedding)
    theirs = pair.peer.get_image_embeddings(images)
    for stride, a, b in zip((4, 8, 16), (*ours.high_res, embedding), theirs, strict=True):
        yield f"image features, stride {stride}", relative_error(a, b)


def masks_and_scores(pair: EdgeTAMPair) -> Errors:
    """Two clicks, answered by three masks and by one."""
    images, size = _noise(pair), pair.ours.image_size
    points, labels = [[[0.3 * size, 0.4 * size], [0.8 * size, 0.6 * size]]], [[1, 0]]
    ours = pair.ours.encode_image(images)
    for case, multimask in (("three masks", True), ("one mask", False)):
        answer = pair.ours.segment_object(
            pair.ours.without_memory(ours.embedding),
            ours.high_res,
            torch.tensor(points),
            torch.tensor(labels),
            multimask=multimask,
        )
        theirs = pair.peer._single_frame_forward(
            images,
            input_points=torch.tensor([points]),
            input_labels=torch.tensor([labels]),
            multimask_output=multimask,
        )
        _check_presence(theirs.object_score_logits)
        yield f"mask logits: {case}", relative_error(answer.logits[0], theirs.pred_masks[0])
        yield f"IoU scores: {case}", relative_error(answer.candidate_ious, theirs.iou_scores[0])
        scores = theirs.object_score_logits[0]
        yield f"object scores: {case}", relative_error(answer.object_score_logits, scores)
        yield f"object pointers: {case}", relative_error(answer.pointer, theirs.object_pointer[0])


def tracked_frames(pair: EdgeTAMPair) -> Errors:
    """Two objects through six frames; one is corrected on the way.

    Raises:
        ValueError: objects are absent, or look alike: nothing would be said about memory.
    """
    size = pair.ours.image_size
    clip = MovingDiscs(7, size)
    frames = [clip[index] for index in range(len(clip))]
    with mock.patch("sam2model.track_step._MEMORY_DTYPE", torch.float32):
        both = zip(
            _a_correction(PeerTracker(pair.peer, frames), size),
            _a_correction(VideoTracker(pair.ours, frames), size),
            strict=True,
        )
        for step, (theirs, ours) in enumerate(both):
            _check_presence(theirs.object_scores)
            logits = torch.from_numpy(ours.logits)
            if relative_error(logits[0], logits[1]) < 100 * BOUND:
                raise ValueError("the objects look alike")
            case = f"frame {theirs.frame}" + (", corrected" if step > theirs.frame else "")
            errors = [relative_error(a, b) for a, b in zip(logits, theirs.logits, strict=True)]
            yield f"mask logits: {case}", max(errors)
            scores = torch.from_numpy(ours.object_scores)
            yield f"object scores: {case}", relative_error(scores, theirs.object_scores)


def _a_correction(tracker: Any, size: int) -> Iterator[Any]:
    tracker.prompt(0, 1, points=[[0.3 * size, 0.3 * size]])
    tracker.prompt(0, 2, box=[0.55 * size, 0.25 * size, 0.85 * size, 0.55 * size])
    yield from tracker.propagate(0, 4)
    corrections = [[0.4 * size, 0.3 * size], [0.5 * size, 0.8 * size]]
    tracker.prompt(3, 1, points=corrections, labels=[1, 0])
    yield from tracker.propagate(3, 4)


def _check_presence(object_scores: torch.Tensor) -> None:
    if not bool((object_scores > 0).all()):
        raise ValueError("an object is absent: its mask would be -1024 everywhere")


def _noise(pair: EdgeTAMPair) -> torch.Tensor:
    size = pair.ours.image_size
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(7))


def measure() -> Errors:
    """All relative errors: image features at full size, everything else at 256 pixels."""
    with torch.inference_mode():
        yield from image_features(make(FULL))
        small = make(SMALL)
        yield from masks_and_scores(small)
        yield from tracked_frames(small)
