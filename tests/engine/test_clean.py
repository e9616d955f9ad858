"""Specks and pinholes go, parts stay."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engine.segmenting import clean


@pytest.fixture
def split():
    """An object in two large parts."""
    mask = np.zeros((100, 120), bool)
    mask[20:80, 10:50] = True
    mask[20:80, 60:100] = True
    return mask


def test_specks_go_and_pinholes_are_filled(split):
    dirty = split.copy()
    dirty[5, 5] = True
    dirty[40:42, 30:32] = False
    assert (clean(dirty, 0.005) == split).all()


def test_a_hole_that_matters_stays(split):
    split[30:50, 20:40] = False
    assert (clean(split, 0.005) == split).all()


def test_an_object_at_the_rim_is_not_filled_up():
    mask = np.zeros((50, 50), bool)
    mask[:, :30] = True
    mask[10:12, 0:2] = False  # open to the outside of the picture: it counts as background
    assert (clean(mask, 0.01) == mask).all()


@pytest.mark.parametrize("mask", [np.zeros((9, 9), bool), np.ones((9, 9), bool), np.eye(9) > 0])
def test_nothing_all_and_a_line(mask):
    assert (clean(mask, 0.5) == mask).all()


def test_zero_changes_nothing(split):
    split[0, 0] = True
    assert clean(split, 0.0) is split


@pytest.mark.parametrize("pitch", [4, 40])
def test_many_specks_and_pinholes_go_like_few(pitch):
    whole = np.zeros((300, 300), bool)
    whole[100:300, 100:300] = True
    dirty = whole.copy()
    dirty[2:98:pitch, 2::pitch] ^= True
    dirty[102:298:pitch, 102:298:pitch] ^= True
    assert (clean(dirty, 0.005) == whole).all()
