"""The losses are those of the paper, on cases that can be worked out by hand."""

import math

import pytest
import torch

from training.losses import (
    FOCAL_WEIGHT,
    balanced_cross_entropy,
    dice_loss,
    focal_and_dice,
    focal_loss,
    mask_iou,
    mean_losses,
    segmentation_losses,
)


def test_focal_loss_of_an_undecided_pixel():
    logits = torch.zeros(1, 4, 4)
    inside = focal_loss(logits, torch.ones(1, 4, 4))
    outside = focal_loss(logits, torch.zeros(1, 4, 4))
    assert inside.item() == pytest.approx(0.25 * 0.5**2 * math.log(2), rel=1e-5)
    assert outside.item() == pytest.approx(0.75 * 0.5**2 * math.log(2), rel=1e-5)


def test_dice_loss_is_zero_for_a_certain_right_answer_and_one_for_a_wrong_one():
    target = torch.zeros(1, 20, 20)
    target[:, 5:15, 5:15] = 1
    certain = (target * 2 - 1) * 50
    assert dice_loss(certain, target).item() == pytest.approx(0, abs=1e-4)
    assert dice_loss(-certain, target).item() > 0.99


def test_iou_of_empty_masks_is_one():
    empty = torch.zeros(2, 3, 3, dtype=torch.bool)
    full = torch.ones(2, 3, 3, dtype=torch.bool)
    assert mask_iou(empty, empty).tolist() == [1, 1]
    assert mask_iou(empty, full).tolist() == [0, 0]


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    """Three candidates for one object, of which the second is right; the target."""
    targets = torch.zeros(1, 64, 64, dtype=torch.bool)
    targets[:, 16:48, 16:48] = True
    right = torch.full((16, 16), -8.0)
    right[4:12, 4:12] = 8.0
    logits = torch.stack((-right, right, torch.full((16, 16), -8.0)))[None]
    return logits.requires_grad_(), targets


def test_only_the_best_mask_is_trained():
    logits, targets = _case()
    losses = segmentation_losses(logits, torch.zeros(1, 3), torch.zeros(1, 1), targets)
    (losses.focal + losses.dice).backward()
    trained = logits.grad[0].abs().sum(dim=(1, 2)) > 0
    assert trained.tolist() == [False, True, False]
    assert losses.dice.item() < 0.15


def test_all_predicted_ious_are_trained_towards_the_true_ones():
    logits, targets = _case()
    perfect = segmentation_losses(
        logits, torch.tensor([[0.0, 1.0, 0.0]]), torch.zeros(1, 1), targets
    )
    wrong = segmentation_losses(logits, torch.tensor([[1.0, 1.0, 1.0]]), torch.zeros(1, 1), targets)
    assert perfect.iou.item() == pytest.approx(0, abs=1e-6)
    assert wrong.iou.item() == pytest.approx(2 / 3, abs=1e-6)


def test_absent_objects_train_the_presence_score_alone():
    logits, targets = _case()
    ious = torch.full((1, 3), 0.5, requires_grad=True)
    score = torch.tensor([[2.0]], requires_grad=True)
    losses = segmentation_losses(logits, ious, score, torch.zeros_like(targets))
    losses.total().backward()
    assert losses.presence.item() == pytest.approx(math.log1p(math.exp(2.0)), rel=1e-5)
    assert logits.grad.abs().sum() == 0
    assert ious.grad.abs().sum() == 0
    assert score.grad.item() > 0


def test_presence_is_judged_for_every_object_and_masks_for_present_ones():
    logits, targets = _case()
    both = torch.cat((targets, torch.zeros_like(targets)))
    twice = logits.detach().repeat(2, 1, 1, 1)
    alone = segmentation_losses(logits, torch.zeros(1, 3), torch.zeros(1, 1), targets)
    mixed = segmentation_losses(twice, torch.zeros(2, 3), torch.zeros(2, 1), both)
    assert mixed.dice.item() == pytest.approx(alone.dice.item())


def test_mean_of_no_losses_is_refused():
    with pytest.raises(ValueError, match="no losses"):
        mean_losses([])


def test_balanced_cross_entropy_does_not_care_how_small_the_object_is():
    small, large = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    small[:, :8, :8] = 1
    large[:, :, :16] = 1
    nothing = torch.full((1, 32, 32), -3.0)
    values = [balanced_cross_entropy(nothing, target).item() for target in (small, large)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_balance_exchanges_the_focal_term():
    logits, targets = _case()
    losses = segmentation_losses(logits, torch.zeros(1, 3), torch.zeros(1, 1), targets)
    difference = losses.total(1.0) - losses.total(0.0)
    assert difference.item() == pytest.approx(
        (losses.balanced - FOCAL_WEIGHT * losses.focal).item(), rel=1e-4
    )


def test_one_pass_gives_the_losses_and_gradients_of_their_definitions():
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(3, 6, 5, generator=generator, dtype=torch.float64) * 6).requires_grad_()
    targets = (torch.rand(3, 6, 5, generator=generator) > 0.6).double()
    weights = torch.rand(2, 3, generator=generator).double()
    expected = focal_loss(logits, targets), dice_loss(logits, targets)
    got = focal_and_dice(logits, targets)
    gradients = []
    for losses in (expected, got):
        total = (weights[0] * losses[0] + weights[1] * losses[1]).sum()
        gradients.append(torch.autograd.grad(total, logits)[0])
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_one_pass_stays_finite_on_confident_pixels():
    logits = torch.tensor([[[-80.0, 80.0], [80.0, -80.0]]], requires_grad=True)
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    focal, dice = focal_and_dice(logits, targets)
    (focal + dice).sum().backward()
    assert focal.item() == pytest.approx(20.0)  # two of four: 0.25 * 80 and 0.75 * 80
    assert torch.isfinite(logits.grad).all()
