"""Sampled prompts say what they should about the object."""

import numpy as np
import pytest

from training import prompts


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[10:30, 20:50] = True
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_clicks_are_positive_and_inside(mask: np.ndarray, seed: int):
    points = prompts.clicks(np.stack([mask, mask]), np.random.default_rng(seed))
    assert points.labels.tolist() == [[prompts.POSITIVE]] * 2
    for x, y in points.xy[:, 0].int().tolist():
        assert mask[y, x]


def test_the_central_point_is_farthest_from_the_outline(mask: np.ndarray):
    x, y = prompts.central_point(mask)
    assert 10 + 9 <= y <= 10 + 10
    assert 20 + 9 <= x <= 50 - 10


def test_the_central_point_knows_the_image_border():
    x, y = prompts.central_point(np.ones((21, 21), bool))
    assert (x, y) == (10, 10)


def test_exact_boxes_are_the_corner_pixels(mask: np.ndarray):
    points = prompts.boxes(mask[None], None)
    assert points.xy.tolist() == [[[20, 10], [49, 29]]]
    assert points.labels.tolist() == [[prompts.BOX_TOP_LEFT, prompts.BOX_BOTTOM_RIGHT]]


def test_noise_on_boxes_is_bounded(mask: np.ndarray):
    rng = np.random.default_rng(0)
    exact = prompts.boxes(mask[None], None).xy
    offsets = [prompts.boxes(mask[None], rng).xy - exact for _ in range(200)]
    largest = max(float(offset.abs().max()) for offset in offsets)
    assert 0 < largest <= 64 * 20 / 1024 + 1e-5


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_corrections_hit_the_error_with_the_right_label(mask: np.ndarray, seed: int | None):
    rng = None if seed is None else np.random.default_rng(seed)
    missing, too_much = mask.copy(), mask.copy()
    missing[10:20] = False
    too_much[40:60, 5:15] = True
    points = prompts.corrections(np.stack([missing, too_much]), np.stack([mask, mask]), rng)
    assert points.labels[:, 0].tolist() == [prompts.POSITIVE, prompts.NEGATIVE]
    (x0, y0), (x1, y1) = points.xy[:, 0].int().tolist()
    assert mask[y0, x0] and not missing[y0, x0]
    assert too_much[y1, x1] and not mask[y1, x1]


def test_a_right_answer_gets_padding_instead_of_a_correction(mask: np.ndarray):
    points = prompts.corrections(mask[None], mask[None], np.random.default_rng(0))
    assert points.labels.tolist() == [[prompts.NOT_A_POINT]]
