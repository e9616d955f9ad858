"""Composed images and clips as tensors, a function of (seed, rank, step) and nothing else.

A run that resumes draws what it would have drawn, without any generator state to keep.
"""

import numpy as np
import torch
from torch import Tensor

from sam2model.preprocessing import preprocess
from training.demo_weights.clips import compose_clip
from training.demo_weights.composites import compose
from training.demo_weights.library import Library
from training.demo_weights.sprites import HARD, PLAIN, PORTRAIT, Recipe

_CPU = torch.device("cpu")


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 RGB ``[B, S, S, 3]`` to the network's normalised float ``[B, 3, S, S]``."""
    return torch.cat([preprocess(image, images.shape[1], _CPU) for image in images])


def image_batch(
    size: int,
    count: int,
    max_objects: int,
    library: Library,
    rng: np.random.Generator,
    plain: float = 0.0,
    portraits: float = 0.0,
) -> tuple[Tensor, list[np.ndarray]]:
    """Compose images and at most ``max_objects`` masks of each.

    A share ``plain`` of them is plain, a share ``portraits`` shows one large object, the
    rest is hard.

    Returns:
        ``[count, 3, S, S]``, and per image bool ``[N, S, S]``.
    """
    images, masks = [], []
    for _ in range(count):
        composite = compose(size, library, rng, _recipe(plain, portraits, rng))
        chosen = rng.permutation(len(composite.masks))[:max_objects]
        images.append(composite.image)
        masks.append(composite.masks[chosen])
    return to_tensor(np.stack(images)), masks


def clip_batch(
    size: int,
    length: int,
    max_objects: int,
    library: Library,
    rng: np.random.Generator,
    plain: float = 0.0,
) -> tuple[Tensor, np.ndarray]:
    """A composed clip, plain with probability ``plain``, and at most ``max_objects`` masks.

    Returns:
        ``[T, 3, S, S]`` and bool ``[O, T, S, S]``.
    """
    clip = compose_clip(size, length, library, rng, recipe=_recipe(plain, 0.0, rng))
    chosen = rng.permutation(len(clip.masks))[:max_objects]
    return to_tensor(clip.frames), clip.masks[chosen]


def _recipe(plain: float, portraits: float, rng: np.random.Generator) -> Recipe:
    draw = rng.random()
    if draw < plain:
        return PLAIN
    return PORTRAIT if draw < plain + portraits else HARD
