"""The losses of SAM 2 (arXiv 2408.00714, appendix D.2.2): focal 20, dice 1, IoU 1, presence 1."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_WEIGHT = 20.0
DICE_WEIGHT = 1.0
IOU_WEIGHT = 1.0
PRESENCE_WEIGHT = 1.0

_FOCAL_ALPHA = 0.25
_FOCAL_GAMMA = 2.0


@dataclass(frozen=True)
class Losses:
    """Means over the objects of a batch: 0-dimensional tensors.

    Attributes:
        focal: of the best mask of each present object.
        dice: of the same mask.
        iou: L1 error of the predicted IoUs of all masks of present objects.
        presence: binary cross-entropy of the object score.
        balanced: cross-entropy of the best mask in which object and background weigh the
            same; only used at the beginning of a run.
    """

    focal: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor
    balanced: Tensor

    def total(self, balance: float = 0.0) -> Tensor:
        """The weighted sum to minimise.

        Args:
            balance: share of the focal term that the balanced cross-entropy replaces, 0 to
                1. An untrained network otherwise stays at the answer "nothing", which the
                focal loss makes cheap as long as most pixels are background.
        """
        return (
            (1 - balance) * FOCAL_WEIGHT * self.focal
            + balance * self.balanced
            + DICE_WEIGHT * self.dice
            + IOU_WEIGHT * self.iou
            + PRESENCE_WEIGHT * self.presence
        )


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), averaged over pixels.

    Args:
        logits: ``[..., H, W]``.
        targets: the same shape, in [0, 1].

    Returns:
        ``[...]``.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    inside = logits.sigmoid()
    wrong = inside + targets - 2 * inside * targets  # 1 - p of the true class
    alpha = _FOCAL_ALPHA * targets + (1 - _FOCAL_ALPHA) * (1 - targets)
    return (alpha * wrong**_FOCAL_GAMMA * cross_entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, smoothed by one pixel.

    Args:
        logits: ``[..., H, W]``.
        targets: the same shape, in [0, 1].

    Returns:
        ``[...]``.
    """
    inside = logits.sigmoid()
    overlap = (inside * targets).sum(dim=(-2, -1))
    total = inside.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


class _FocalAndDice(torch.autograd.Function):
    """Both mask losses in one pass over the pixels, with their derivative written out.

    Composed of torch's functions they took a quarter of a training step: some forty maps
    at the resolution of the picture, most of them kept for the way back.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        side = 1 - 2 * targets
        odds = logits * side
        wrong = odds.sigmoid()
        cross_entropy = F.softplus(odds)
        alpha = (1 - _FOCAL_ALPHA) + (2 * _FOCAL_ALPHA - 1) * targets
        weight = alpha * wrong * wrong
        focal = (weight * cross_entropy).mean(dim=(-2, -1))
        # d/dx of a * w^2 * softplus(z), where w = sigmoid(z), z = side * x and side^2 = 1
        right = 1 - wrong
        slope = weight.mul_(side).mul_(cross_entropy.mul_(2 * right).add_(wrong))
        bend = right.mul_(wrong)  # the derivative of sigmoid(x)
        inside = wrong.mul_(side).add_(targets)
        overlap = (inside * targets).sum(dim=(-2, -1))
        total = inside.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
        ctx.save_for_backward(slope, bend, targets, overlap, total)
        return focal, 1 - (2 * overlap + 1) / (total + 1)

    @staticmethod
    def backward(ctx: Any, focal: Tensor, dice: Tensor) -> tuple[Tensor, None]:
        slope, bend, targets, overlap, total = ctx.saved_tensors
        pixels = slope.shape[-1] * slope.shape[-2]
        on_target = (-2 * dice / (total + 1))[..., None, None]
        everywhere = (dice * (2 * overlap + 1) / (total + 1) ** 2)[..., None, None]
        gradient = torch.addcmul(everywhere, targets, on_target).mul_(bend)
        return gradient.addcmul_(slope, (focal / pixels)[..., None, None]), None


def focal_and_dice(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`focal_loss` and :func:`dice_loss` of masks that are 0 or 1, in a third of the time.

    Args:
        logits: ``[..., H, W]``.
        targets: the same shape and dtype, each value 0 or 1; no gradient reaches them.

    Returns:
        ``[...]`` each.
    """
    losses: tuple[Tensor, Tensor] = _FocalAndDice.apply(logits, targets)
    return losses


def balanced_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which inside and outside of each mask weigh one half each.

    Args:
        logits: ``[..., H, W]``.
        targets: the same shape, in [0, 1].

    Returns:
        ``[...]``.
    """
    share = targets.mean(dim=(-2, -1), keepdim=True).clamp(0.01, 0.99)
    weight = targets * (0.5 / share) + (1 - targets) * (0.5 / (1 - share))
    loss = F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="none")
    return loss.mean(dim=(-2, -1))


def mask_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of bool masks ``[..., H, W]``; 1 where both are empty."""
    intersection = (predicted & target).sum(dim=(-2, -1))
    union = (predicted | target).sum(dim=(-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def segmentation_losses(
    logits: Tensor, ious: Tensor, object_score_logits: Tensor, targets: Tensor
) -> Losses:
    """Losses of one decoding of B objects with M candidate masks each.

    The mask loss goes to the candidate that is best at the decoder's own resolution; it is
    computed at the full resolution of ``targets``, so that the pattern of the upscaling
    convolutions is penalised as it will be seen.

    Args:
        logits: ``[B, M, S/4, S/4]`` raw mask logits.
        ious: ``[B, M]`` predicted IoUs.
        object_score_logits: ``[B, 1]``.
        targets: bool ``[B, S, S]``; empty where the object is absent.
    """
    logits, ious = logits.float(), ious.float()
    present = targets.flatten(1).any(dim=1)
    presence = F.binary_cross_entropy_with_logits(
        object_score_logits.float()[:, 0], present.float()
    )
    if not present.any():
        # Keeps every head in the graph: gradients are averaged between processes.
        zero = 0.0 * (logits.sum() + ious.sum())
        return Losses(zero, zero, zero, presence, zero)
    logits, ious, targets = logits[present], ious[present], targets[present].float()
    coarse = F.interpolate(targets[:, None], size=logits.shape[-2:], mode="area")
    with torch.no_grad():
        spread = coarse.expand_as(logits)
        cost = FOCAL_WEIGHT * focal_loss(logits, spread) + DICE_WEIGHT * dice_loss(logits, spread)
        best = cost.argmin(dim=1)
        true_ious = mask_iou(logits > 0, spread > 0.5)
    rows = torch.arange(len(best), device=best.device)
    chosen = F.interpolate(
        logits[rows, best][:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False
    )[:, 0]
    focal, dice = focal_and_dice(chosen, targets)
    return Losses(
        focal=focal.mean(),
        dice=dice.mean(),
        iou=(ious - true_ious).abs().mean(),
        presence=presence,
        balanced=balanced_cross_entropy(logits[rows, best], coarse[:, 0]).mean(),
    )


def mean_losses(parts: list[Losses]) -> Losses:
    """The mean over several decodings.

    Raises:
        ValueError: there are none.
    """
    if not parts:
        raise ValueError("no losses to average")
    return Losses(
        *(
            torch.stack([getattr(part, name) for part in parts]).mean()
            for name in ("focal", "dice", "iou", "presence", "balanced")
        )
    )
