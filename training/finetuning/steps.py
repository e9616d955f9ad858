"""The losses of one step, from kept features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sam2model.sam2 import SAM2
from training import prompts
from training.finetuning.dataset import Clip, Dataset, Example, turned_boxes, turned_masks
from training.losses import Losses
from training.prompts import Points
from training.unroll import prompted_losses, tracking_losses

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
    rounds = int(rng.integers(0, _MAX_ROUNDS + 1))
    return prompted_losses(model, features, torch.tensor(owners), truth, points, rng, rounds)


def clip_losses(model: SAM2, dataset: Dataset, clip: Clip, rng: np.random.Generator) -> Losses:
    """Losses on a clip: prompted on its first page, tracked through the others.

    Args:
        model: in training mode.
        rng: decides view and prompts.
    """
    view = int(rng.integers(dataset.views))
    features = dataset.features(model, [(page, view) for page in clip.pages])
    return tracking_losses(model, features, turned_masks(clip.masks, view), rng)


def _boxes(truth: np.ndarray, own: np.ndarray, rng: np.random.Generator) -> Points:
    """Boxes with noise, or the annotator's own."""
    points = prompts.boxes(truth, rng)
    for index, box in enumerate(own):
        if not np.isnan(box).any() and rng.random() < _OWN_BOX_SHARE:
            points.xy[index] = torch.from_numpy(box.reshape(2, 2))
    return points
