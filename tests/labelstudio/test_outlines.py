"""Masks as rings."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.labelstudio.geometry import fill_polygon
from backend.labelstudio.write_results import MAX_PARTS, MAX_VERTICES, mask_rings


def filled(rings, shape):
    mask = np.zeros(shape, dtype=bool)
    for ring in rings:
        mask ^= fill_polygon(ring, shape[1], shape[0])
    return mask


def iou(one, other):
    union = (one | other).sum()
    return (one & other).sum() / union if union else 1.0


def ellipse(shape, centre, radii, angle=0):
    mask = np.zeros(shape, dtype=np.uint8)
    cv2.ellipse(mask, centre, radii, angle, 0, 360, 1, -1)
    return mask.astype(bool)


@settings(deadline=None)
@given(
    st.integers(8, 150),
    st.integers(8, 150),
    st.integers(0, 180),
    st.integers(0, 1),
    st.integers(0, 1),
)
def test_smooth_shapes_keep_their_area(radius_x, radius_y, angle, odd_x, odd_y):
    shape = (400 + odd_y, 420 + odd_x)
    mask = ellipse(shape, (210, 200), (radius_x, radius_y), angle)
    rings = mask_rings(mask)
    assert len(rings) == 1
    assert iou(filled(rings, shape), mask) >= 0.98


def test_a_smooth_shape_needs_few_vertices():
    [ring] = mask_rings(ellipse((1080, 1920), (960, 540), (500, 300), 20))
    assert len(ring) < 80


def test_tiny_shapes_are_exact():
    for side in range(1, 5):
        mask = np.zeros((9, 9), dtype=bool)
        mask[2 : 2 + side, 3:4] = True
        np.testing.assert_array_equal(filled(mask_rings(mask), mask.shape), mask)


def test_every_part_is_kept_largest_first():
    mask = ellipse((200, 301), (60, 100), (40, 60)) | ellipse((200, 301), (240, 100), (20, 20))
    mask[5, 150] = True
    rings = mask_rings(mask)
    assert len(rings) == 3
    areas = [fill_polygon(ring, 301, 200).sum() for ring in rings]
    assert areas == sorted(areas, reverse=True)
    assert iou(filled(rings, mask.shape), mask) >= 0.98


def test_holes_are_cut_in_for_both_fill_rules():
    mask = ellipse((301, 400), (200, 150), (150, 120))
    mask &= ~ellipse((301, 400), (150, 150), (40, 40))
    mask &= ~ellipse((301, 400), (250, 150), (25, 60))
    [ring] = mask_rings(mask)
    assert iou(fill_polygon(ring, 400, 301), mask) >= 0.98
    assert not fill_polygon(ring, 400, 301)[150, 150]
    assert iou(nonzero_fill(ring, 400, 301), mask) >= 0.98


def nonzero_fill(ring, width, height):
    """The canvas's rule: the sign of the crossings counts. By rows, pixel centres."""
    winding = np.zeros((height, width + 1), dtype=int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        for row in range(height):
            y = row + 0.5
            if (y0 <= y) != (y1 <= y):
                crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                winding[row, int(np.clip(np.ceil(crossing - 0.5), 0, width))] += (
                    1 if y1 > y0 else -1
                )
    return np.cumsum(winding, axis=1)[:, :width] != 0


def test_an_island_in_a_hole_is_a_part_of_its_own():
    mask = ellipse((200, 200), (100, 100), (90, 90)) & ~ellipse((200, 200), (100, 100), (60, 60))
    mask |= ellipse((200, 200), (100, 100), (20, 20))
    rings = mask_rings(mask)
    assert len(rings) == 2
    assert iou(filled(rings, mask.shape), mask) >= 0.98


def test_specks_in_a_part_are_filled():
    mask = ellipse((200, 200), (100, 100), (90, 90))
    mask[100, 100] = False
    [ring] = mask_rings(mask)
    assert fill_polygon(ring, 200, 200)[100, 100]


def test_touching_the_border():
    mask = np.ones((57, 31), dtype=bool)
    [ring] = mask_rings(mask)
    assert ring.min() >= 0
    assert (ring.max(axis=0) <= (31, 57)).all()
    np.testing.assert_array_equal(filled([ring], mask.shape), mask)


def test_no_mask_no_ring():
    assert mask_rings(np.zeros((5, 5), dtype=bool)) == []


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_gives_rings_inside_the_picture(mask):
    rings = mask_rings(mask)
    assert bool(rings) == bool(mask.any())
    for ring in rings:
        assert len(ring) >= 3
        assert ring.min() >= 0
        assert (ring.max(axis=0) <= mask.shape[::-1]).all()


def test_noise_is_bounded():
    rng = np.random.default_rng(1)
    start = time.process_time()
    rings = mask_rings(rng.random((720, 1280)) > 0.5)
    assert time.process_time() - start < 10.0
    assert len(rings) <= MAX_PARTS
    assert max(len(ring) for ring in rings) <= MAX_VERTICES


@pytest.mark.parametrize("teeth", [50, 400])
def test_jagged_outlines_stay_editable(teeth):
    turn = np.linspace(0, 2 * np.pi, 4 * teeth)
    radius = 400 + 60 * np.sign(np.sin(teeth * turn))
    ring = np.stack([500 + radius * np.cos(turn), 500 + radius * np.sin(turn)], axis=1)
    [found] = mask_rings(fill_polygon(ring, 1000, 1000))[:1]
    assert len(found) <= MAX_VERTICES
