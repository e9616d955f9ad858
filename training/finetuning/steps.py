"""The losses of one step, from kept features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sam2model.sam2 import SAM2, ImageFeatures
from training import prompts
from training.finetuning.dataset import Clip, Dataset, Example, turned_boxes, turned_masks
from training.losses import Losses, mean_losses, segmentation_losses
from training.prompts import Points
from training.unroll import Answer, answer_masks, decode, tracking_losses

MAX_OBJECTS = 4
_BOX_SHARE = 0.4
_OWN_BOX_SHARE = 0.5  # of the boxes of objects whose annotator drew one
_MAX_ROUNDS = 3


def picture_losses(
    model: SAM2, dataset: Dataset, examples: Sequence[Example], rng: np.random.Generator
) -> Losses:
    """Losses on pictures, prompted as in training: a click or a box, then corrective clicks.

    Args:
        model: in training mode.
        examples: the batch; of each at most ``MAX_OBJECTS`` objects are asked for.
        rng: decides views, objects and prompts.
    """
    views = [int(rng.integers(dataset.views)) for _ in examples]
    chosen = [rng.permutation(len(each.masks))[:MAX_OBJECTS] for each in examples]
    truth = np.concatenate(
        [turned_masks(e.masks[c], v) for e, c, v in zip(examples, chosen, views, strict=True)]
    )
    own = np.concatenate(
        [
            turned_boxes(e.boxes[c], v, model.image_size)
            for e, c, v in zip(examples, chosen, views, strict=True)
        ]
    )
    owners = [index for index, group in enumerate(chosen) for _ in group]
    features = dataset.features(model, list(zip(examples, views, strict=True)))
    boxed = rng.random() < _BOX_SHARE
    points = _boxes(truth, own, rng) if boxed else prompts.clicks(truth, rng)
    return prompted_losses(model, features, owners, truth, points, rng)


def clip_losses(model: SAM2, dataset: Dataset, clip: Clip, rng: np.random.Generator) -> Losses:
    """Losses on a clip: prompted on its first page, tracked through the others.

    Args:
        model: in training mode.
        rng: decides view and prompts.
    """
    view = int(rng.integers(dataset.views))
    features = dataset.features(model, [(page, view) for page in clip.pages])
    return tracking_losses(model, features, turned_masks(clip.masks, view), rng)


def prompted_losses(
    model: SAM2,
    features: ImageFeatures,
    owners: Sequence[int],
    truth: np.ndarray,
    points: Points,
    rng: np.random.Generator,
) -> Losses:
    """Losses of a first prompt and of up to three corrective clicks after it.

    Args:
        features: of a batch of pictures.
        owners: for each of B objects, the picture it is on.
        truth: bool ``[B, S, S]``.
        points: the first prompt.
    """
    rows = torch.tensor(owners)
    conditioned = model.without_memory(features.embedding)[rows]
    high_res = (features.high_res[0][rows], features.high_res[1][rows])
    targets = torch.from_numpy(truth)
    answer = decode(model, conditioned, high_res, points)
    losses = [_losses(answer, targets)]
    for _ in range(int(rng.integers(0, _MAX_ROUNDS + 1))):
        wrong = answer_masks(model, answer.logits)
        points = points.add(prompts.corrections(wrong, truth, rng))
        previous = answer.logits.detach().clamp(-32, 32)
        answer = decode(model, conditioned, high_res, points, previous)
        losses.append(_losses(answer, targets))
    return mean_losses(losses)


def _boxes(truth: np.ndarray, own: np.ndarray, rng: np.random.Generator) -> Points:
    """Boxes with noise, or the annotator's own."""
    points = prompts.boxes(truth, rng)
    for index, box in enumerate(own):
        if not np.isnan(box).any() and rng.random() < _OWN_BOX_SHARE:
            points.xy[index] = torch.from_numpy(box.reshape(2, 2))
    return points


def _losses(answer: Answer, targets: torch.Tensor) -> Losses:
    return segmentation_losses(answer.candidates, answer.ious, answer.object_score_logits, targets)
