"""Composed pictures repeat exactly, and their masks are what is seen."""

import numpy as np
import pytest

from training.demo_weights.clips import compose_clip
from training.demo_weights.composites import Canvas, compose
from training.demo_weights.library import Library
from training.demo_weights.sprites import PLAIN, Sprite


def _square(side: int, colour: int) -> Sprite:
    return Sprite(np.full((side, side, 3), colour, np.uint8), np.full((side, side), 255, np.uint8))


def _at(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def test_masks_are_exactly_the_visible_pixels():
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
    canvas.paint(_square(30, 100), _at(10, 10))
    canvas.paint(_square(20, 200), _at(30, 30))
    image = canvas.image.astype(int)
    assert np.array_equal(canvas.visible(0), (image == 100).all(axis=2))
    assert np.array_equal(canvas.visible(1), (image == 200).all(axis=2))
    assert canvas.visible(0).sum() == 30 * 30 - 10 * 10
    assert canvas.visible(1).sum() == 20 * 20
    assert np.array_equal(canvas.uncovered(), (image == 0).all(axis=2))


def test_objects_outside_the_image_leave_no_mask():
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
    canvas.paint(_square(30, 100), _at(200, 10))
    canvas.paint(_square(30, 100), _at(-300, -300))
    assert not canvas.visible(0).any()
    assert canvas.masks() == []


def test_parts_are_asked_for_besides_the_whole():
    sprite = _square(40, 100)
    part = np.zeros((40, 40), np.uint8)
    part[5:20, 5:20] = 255
    sprite.parts.append(part)
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
    canvas.paint(sprite, _at(8, 8))
    areas = sorted(int(mask.sum()) for mask in canvas.masks())
    assert areas == [15 * 15, 40 * 40]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_composite(library: Library, seed: int):
    first = compose(64, library, np.random.default_rng(seed))
    second = compose(64, library, np.random.default_rng(seed))
    other = compose(64, library, np.random.default_rng(seed + 100))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.masks, second.masks)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(12))
def test_composites_have_sound_masks(library: Library, seed: int):
    composite = compose(64, library, np.random.default_rng([1, seed]))
    assert composite.image.shape == (64, 64, 3)
    assert composite.image.dtype == np.uint8
    assert composite.masks.dtype == bool
    assert composite.masks.shape[1:] == (64, 64)
    assert composite.masks.any(axis=(1, 2)).all()


def test_plain_objects_do_not_overlap_in_their_masks(library: Library):
    for seed in range(8):
        masks = compose(64, library, np.random.default_rng(seed), PLAIN).masks
        assert masks.sum(axis=0).max() <= 1


def test_the_same_seed_gives_the_same_clip(library: Library):
    first = compose_clip(64, 6, library, np.random.default_rng(3))
    second = compose_clip(64, 6, library, np.random.default_rng(3))
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.masks, second.masks)


def test_clip_objects_begin_visible_and_some_leave(library: Library):
    absent = []
    for seed in range(25):
        clip = compose_clip(64, 8, library, np.random.default_rng(seed))
        visible = clip.masks.any(axis=(2, 3))
        assert visible[:, 0].all()
        absent.append(1 - visible.mean())
    assert np.mean(absent) >= 0.2


def test_missing_data_says_how_to_fetch_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.demo_weights\.fetch_data"):
        Library(tmp_path, "train")
