"""Prompts sampled from ground truth, as SAM and SAM 2 are trained.

First prompts are clicks inside the object or boxes with noise; later clicks fall into the
region where the answer is wrong (arXiv 2408.00714, appendix D.2.1).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from sam2model.prompt_encoder import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    NEGATIVE,
    NOT_A_POINT,
    POSITIVE,
)

# SAM's noise on boxes: a tenth of the side, at most 20 pixels of 1024.
_BOX_NOISE = 0.1
_BOX_NOISE_LIMIT = 20 / 1024


@dataclass(frozen=True)
class Points:
    """Prompts of B objects in the layout of the prompt encoder.

    Attributes:
        xy: float32 ``[B, P, 2]``, pixels.
        labels: int32 ``[B, P]``.
    """

    xy: Tensor
    labels: Tensor

    def add(self, other: "Points") -> "Points":
        """Both, one after the other."""
        return Points(
            torch.cat((self.xy, other.xy), dim=1), torch.cat((self.labels, other.labels), dim=1)
        )


def random_point(region: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """A point (x, y) inside a non-empty bool ``[H, W]`` region: any, or a central one."""
    if rng.random() < 0.5:
        return central_point(region)
    inside = np.flatnonzero(region)
    y, x = divmod(int(inside[rng.integers(len(inside))]), region.shape[1])
    return float(x), float(y)


def central_point(region: np.ndarray) -> tuple[float, float]:
    """The point (x, y) of a non-empty bool ``[H, W]`` region that is farthest from outside."""
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = divmod(int(distance.argmax()), region.shape[1])
    return float(x), float(y)


def clicks(masks: np.ndarray, rng: np.random.Generator | None) -> Points:
    """A positive click in each mask; at its centre where ``rng`` is None.

    Args:
        masks: bool ``[B, H, W]``, none empty.
        rng: decides where.
    """
    xy = [central_point(mask) if rng is None else random_point(mask, rng) for mask in masks]
    return Points(
        torch.tensor(xy, dtype=torch.float32)[:, None],
        torch.full((len(xy), 1), POSITIVE, dtype=torch.int32),
    )


def boxes(masks: np.ndarray, rng: np.random.Generator | None) -> Points:
    """A box around each mask as two points; exact where ``rng`` is None, else with noise.

    Args:
        masks: bool ``[B, H, W]``, none empty.
        rng: decides the noise.
    """
    corners = []
    limit = _BOX_NOISE_LIMIT * masks.shape[-1]
    for mask in masks:
        xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = np.array([[xs[0], ys[0]], [xs[-1], ys[-1]]], np.float32)
        if rng is not None:
            noise = rng.normal(0, 1, (2, 2)) * _BOX_NOISE * (box[1] - box[0])
            box += np.clip(noise, -limit, limit)
        corners.append(np.clip(box, 0, mask.shape[0] - 1))
    labels = torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], dtype=torch.int32)
    return Points(torch.from_numpy(np.stack(corners)), labels.repeat(len(masks), 1))


def corrections(
    predicted: np.ndarray, masks: np.ndarray, rng: np.random.Generator | None
) -> Points:
    """One click each where the answer is wrong: positive where it misses, else negative.

    With ``rng`` the click falls anywhere in the error region; without, at the centre of its
    largest connected part, as in interactive evaluation. Where there is no error, the point
    is padding.

    Args:
        predicted: bool ``[B, H, W]``.
        masks: bool ``[B, H, W]``, the truth.
        rng: decides where.
    """
    xy, labels = [], []
    for answer, truth in zip(predicted, masks, strict=True):
        error = answer != truth
        if not error.any():
            xy.append((0.0, 0.0))
            labels.append(NOT_A_POINT)
            continue
        if rng is None:
            x, y = central_point(error)
        else:
            x, y = random_point(error, rng)
        xy.append((x, y))
        labels.append(POSITIVE if truth[int(y), int(x)] else NEGATIVE)
    return Points(
        torch.tensor(xy, dtype=torch.float32)[:, None],
        torch.tensor(labels, dtype=torch.int32)[:, None],
    )
