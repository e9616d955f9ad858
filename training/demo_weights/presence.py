"""Set the zero of the presence score where visible and absent objects are told apart best.

    python -m training.demo_weights.presence --weights FILE --out FILE

Most objects of most frames are visible, so cross-entropy leaves the score too willing to say so.
The weights' last bias is moved to where the balanced accuracy is highest, on clips composed from
what training sees: nothing held out is looked at. A prompt must stay an answer, so the zero goes
no higher than the scores of all but one in a hundred prompted objects.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam2model.build import build_model
from sam2model.sam2 import SAM2
from training.demo_weights.batches import to_tensor
from training.demo_weights.clips import compose_clip
from training.demo_weights.composites import compose
from training.demo_weights.evaluate import CLIP_LENGTH, track
from training.demo_weights.library import DEFAULT_DIRECTORY, Library
from training.demo_weights.sprites import PLAIN
from training.demo_weights.state import save_weights
from training.prompts import clicks
from training.unroll import decode

BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
_SEED = 7_001
_MAX_OBJECTS = 4
_PROMPTED_KEPT = 0.01

_log = logging.getLogger(__name__)


def tracked_scores(
    model: SAM2, library: Library, numbers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Presence scores of tracked frames of some clips, and whether the object was visible."""
    scores, visible = [], []
    for number in numbers:
        rng = np.random.default_rng([_SEED, number])
        clip = compose_clip(model.image_size, CLIP_LENGTH, library, rng, recipe=PLAIN)
        truth = clip.masks[:_MAX_OBJECTS]
        for t, answer in enumerate(track(model, clip.frames, truth[:, 0])):
            if t > 0:
                scores.append(_scores(answer.object_score_logits))
                visible.append(truth[:, t].any(axis=(1, 2)))
    return np.concatenate(scores), np.concatenate(visible)


def prompted_scores(model: SAM2, library: Library, numbers: Sequence[int]) -> np.ndarray:
    """Presence scores of clicked objects of some pictures."""
    scores = []
    for number in numbers:
        rng = np.random.default_rng([_SEED, number, 1])
        composite = compose(model.image_size, library, rng, PLAIN)
        masks = composite.masks[:_MAX_OBJECTS]
        features = model.encode_image(to_tensor(composite.image[None]))
        conditioned = model.without_memory(features.embedding).expand(len(masks), -1, -1, -1)
        answer = decode(model, conditioned, features.high_res, clicks(masks, None))
        scores.append(_scores(answer.object_score_logits))
    return np.concatenate(scores)


def best_zero(scores: np.ndarray, visible: np.ndarray) -> float:
    """The score that tells visible objects (above it) from absent ones best, on balance.

    Args:
        scores: float ``[N]``.
        visible: bool ``[N]``, of both kinds.
    """
    order = np.argsort(scores)
    seen = visible[order]
    hit = 1 - np.cumsum(seen) / seen.sum()  # with the zero just above each score
    rejected = np.cumsum(~seen) / (~seen).sum()
    at = int((hit + rejected)[:-1].argmax())
    return float(scores[order][at : at + 2].mean())


def balanced_accuracy(scores: np.ndarray, visible: np.ndarray, zero: float) -> float:
    """Mean of the shares of visible and of absent objects that are told rightly."""
    said = scores > zero
    return float((said[visible].mean() + (~said[~visible]).mean()) / 2)


def _scores(logits: Tensor) -> np.ndarray:
    return np.asarray(logits[:, 0].float().numpy())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--clips", type=int, default=180)
    parser.add_argument("--images", type=int, default=60)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cv2.setNumThreads(1)
    model = build_model(options.variant, options.weights, device="cpu", dtype="float32")
    library = Library(options.data, "train")
    with torch.inference_mode():
        scores, visible = tracked_scores(model, library, range(options.clips))
        prompted = prompted_scores(model, library, range(options.images))
    zero = min(best_zero(scores, visible), float(np.quantile(prompted, _PROMPTED_KEPT)))
    before, after = (balanced_accuracy(scores, visible, at) for at in (0.0, zero))
    kept = float((prompted > zero).mean())
    _log.info("zero at %.2f: balanced accuracy %.3f, before %.3f", zero, after, before)
    _log.info("clicked objects said to be present: %.3f", kept)
    weights = load_file(options.weights)
    weights[BIAS] = weights[BIAS].float() - zero
    notes = options.weights.with_suffix(".json")
    known = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    save_weights(options.out, weights, {**known, "presence_zero": zero})


if __name__ == "__main__":
    main()
