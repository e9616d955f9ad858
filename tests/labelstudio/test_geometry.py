"""Percent <-> pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.geometry import (
    MAX_CROSSINGS,
    Box,
    Ellipse,
    box_corners,
    box_to_pixels,
    ellipse_to_polygon,
    fill_polygon,
    mask_to_box,
    point_in_box,
    points_to_percent,
    points_to_pixels,
    resize_mask,
)

SIZES = st.integers(1, 5000)
PERCENT = st.floats(0, 100)


@given(st.lists(st.tuples(PERCENT, PERCENT), max_size=5), SIZES, SIZES)
def test_points_there_and_back(points, width, height):
    pixels = points_to_pixels(points, width, height)
    assert pixels.shape == (len(points), 2)
    expected = np.array(points).reshape(-1, 2)
    np.testing.assert_allclose(points_to_percent(pixels, width, height), expected, atol=1e-9)


def test_half_is_the_middle_and_hundred_the_far_edge():
    np.testing.assert_array_equal(
        points_to_pixels([(0, 0), (50, 50), (100, 100)], 800, 600), [(0, 0), (400, 300), (800, 600)]
    )


def test_a_box_turns_about_its_top_left_corner_where_pixels_are_square():
    # 800 x 600: 25 % x 10 % is 200 x 60 pixels; a quarter turn clockwise points it down and left
    corners = box_corners(Box(50, 50, 25, 10, 90), 800, 600)
    np.testing.assert_allclose(corners, [(400, 300), (400, 500), (340, 500), (340, 300)], atol=1e-9)
    np.testing.assert_allclose(
        box_to_pixels(Box(50, 50, 25, 10, 90), 800, 600), [340, 300, 400, 500], atol=1e-9
    )


def test_a_box_turned_by_45_degrees():
    corners = box_corners(Box(50, 50, 10, 10, 45), 100, 100)
    step = 10 / np.sqrt(2)
    expected = [(50, 50), (50 + step, 50 + step), (50, 50 + 2 * step), (50 - step, 50 + step)]
    np.testing.assert_allclose(corners, expected, atol=1e-9)


def test_boxes_are_clipped_to_the_picture():
    np.testing.assert_array_equal(box_to_pixels(Box(-10, 90, 50, 50), 200, 100), [0, 90, 80, 100])


@given(PERCENT, PERCENT, st.floats(1, 50), st.floats(1, 50), st.floats(-720, 720), SIZES, SIZES)
def test_the_middle_of_a_turned_box_is_inside_and_its_mirror_outside(x, y, w, h, angle, wide, high):
    box = Box(x, y, w, h, angle)
    corners = box_corners(box, wide, high)
    middle = points_to_percent(corners.mean(axis=0), wide, high)[0]
    mirrored = points_to_percent(2 * corners[0] - corners.mean(axis=0), wide, high)[0]
    assert point_in_box(*middle, box, wide, high)
    assert not point_in_box(*mirrored, box, wide, high)


def test_corners_of_a_turned_box_are_inside():
    box = Box(40, 30, 20, 10, 33)
    for corner in points_to_percent(box_corners(box, 811, 613), 811, 613):
        assert point_in_box(*corner, box, 811, 613)


def test_rotated_box_and_its_upright_hull_differ():
    box = Box(50, 10, 40, 40, 45)
    assert not point_in_box(70, 15, box, 100, 100)
    left, top, right, bottom = box_to_pixels(box, 100, 100)
    assert left < 70 < right
    assert top < 15 < bottom


def test_full_turn_changes_nothing():
    np.testing.assert_allclose(
        box_corners(Box(10, 20, 30, 40, 360), 70, 50), box_corners(Box(10, 20, 30, 40), 70, 50)
    )


def test_polygon_fill_takes_pixels_whose_centre_is_inside():
    square = points_to_pixels([(20, 20), (80, 20), (80, 80), (20, 80)], 10, 10)
    expected = np.zeros((10, 10), dtype=bool)
    expected[2:8, 2:8] = True
    np.testing.assert_array_equal(fill_polygon(square, 10, 10), expected)
    assert fill_polygon(square[::-1], 10, 10).sum() == 36  # either direction


def test_an_outline_that_takes_long_to_fill_is_refused():
    zigzag = np.array([(x % 90, 9000.0 * (x % 2)) for x in range(2 + MAX_CROSSINGS // 9000)])
    with pytest.raises(ValueError, match="20016000 times, more than 20000000"):
        fill_polygon(zigzag, 90, 9000)
    assert fill_polygon(zigzag, 90, 900).any()


def test_what_is_filled_does_not_depend_on_what_is_around_it():
    rng = np.random.default_rng(4)
    for corners in range(3, 40):
        ring = rng.uniform(-30, 90, (corners, 2))
        whole = fill_polygon(ring, 500, 400)
        np.testing.assert_array_equal(fill_polygon(ring, 50, 40), whole[:40, :50])
        assert not whole[90:].any()
        assert not whole[:, 90:].any()


def test_polygon_fill_matches_a_point_in_polygon_test():
    rng = np.random.default_rng(7)
    for _ in range(30):
        width, height = rng.integers(1, 40, 2)
        ring = rng.uniform(-10, 50, (rng.integers(3, 9), 2))
        mask = fill_polygon(ring, int(width), int(height))
        for row in range(height):
            for column in range(width):
                assert mask[row, column] == _even_odd(ring, column + 0.5, row + 0.5)


def _even_odd(ring, x, y):
    inside = False
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


@pytest.mark.parametrize("points", [[], [(5, 5)], [(1, 1), (9, 9)]])
def test_fewer_than_three_points_enclose_nothing(points):
    assert not fill_polygon(np.array(points, dtype=float).reshape(-1, 2), 10, 10).any()


def test_polygons_far_outside():
    ring = np.array([(-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6)])
    assert fill_polygon(ring, 13, 7).all()


@pytest.mark.parametrize("angle", [0, 30, 90])
def test_ellipse_area_and_axes(angle):
    # radii 100 and 50 pixels although the picture is not square
    ellipse = Ellipse(50, 50, 12.5, 8.3333333, angle)
    outline = ellipse_to_polygon(ellipse, 800, 600)
    mask = fill_polygon(outline, 800, 600)
    assert mask.sum() == pytest.approx(np.pi * 100 * 50, rel=0.002)
    along = np.array((np.cos(np.radians(angle)), np.sin(np.radians(angle))))
    reach = (outline - (400, 300)) @ along
    assert reach.max() == pytest.approx(100, abs=0.01)


def test_box_of_a_mask_is_tight():
    mask = np.zeros((7, 9), dtype=bool)
    mask[2:5, 3:8] = True
    box = mask_to_box(mask)
    np.testing.assert_allclose(box_to_pixels(box, 9, 7), [3, 2, 8, 5])
    assert mask_to_box(np.zeros((7, 9), dtype=bool)) is None


def test_box_of_a_mask_and_back():
    mask = np.zeros((601, 799), dtype=bool)
    mask[100:333, 17:555] = True
    box = mask_to_box(mask)
    np.testing.assert_array_equal(fill_polygon(box_corners(box, 799, 601), 799, 601), mask)


def test_resize_is_nearest():
    mask = np.zeros((2, 3), dtype=bool)
    mask[0, 0] = mask[1, 2] = True
    assert resize_mask(mask, 3, 2) is mask
    np.testing.assert_array_equal(resize_mask(mask, 6, 4), np.kron(mask, np.ones((2, 2), bool)))
    np.testing.assert_array_equal(resize_mask(resize_mask(mask, 6, 4), 3, 2), mask)
