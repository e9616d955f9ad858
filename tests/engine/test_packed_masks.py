"""Packed masks against numpy."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from backend.engine.packed_masks import PackedMask

Mask = NDArray[np.bool_]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Noise, boxes and what is left of noise when a box is cut out; empty and full ones too."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["noise", "box", "both"]))
    mask = np.zeros((height, width), bool)
    if kind != "box":
        mask = draw(arrays.arrays(bool, (height, width)))
    if kind != "noise":
        x0, x1 = sorted((draw(st.integers(0, width)), draw(st.integers(0, width))))
        y0, y1 = sorted((draw(st.integers(0, height)), draw(st.integers(0, height))))
        mask[y0:y1, x0:x1] ^= True
    return mask


@given(masks())
def test_unpacked_exactly(mask: Mask) -> None:
    packed = PackedMask.pack(mask)
    assert (packed.height, packed.width) == mask.shape
    back = packed.unpack()
    assert back.dtype == np.bool_
    assert back.flags.writeable
    np.testing.assert_array_equal(back, mask)


@given(masks())
def test_what_is_known_without_unpacking(mask: Mask) -> None:
    packed = PackedMask.pack(mask)
    rows, columns = np.nonzero(mask)
    assert packed.area == len(rows)
    if not len(rows):
        assert packed.box is None
        assert packed.centroid is None
        return
    assert packed.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert packed.centroid is not None
    np.testing.assert_allclose(packed.centroid, (columns.mean(), rows.mean()))


@given(masks())
def test_pickled_as_small_as_it_is(mask: Mask) -> None:
    packed = PackedMask.pack(mask)
    before = pickle.dumps(packed)
    assert packed.area == mask.sum()  # worked out, and not sent along
    assert pickle.dumps(packed) == before
    assert len(before) < len(packed.runs) + 150
    back = pickle.loads(before)
    assert back == packed
    np.testing.assert_array_equal(back.unpack(), mask)


@given(masks())
def test_any_layout_in_memory_is_packed_alike(mask: Mask) -> None:
    packed = PackedMask.pack(mask)
    assert PackedMask.pack(np.asfortranarray(mask)) == packed
    assert PackedMask.pack(np.repeat(mask, 2, axis=1)[:, ::2]) == packed


@given(masks())
def test_the_bytes_are_those_of_earlier_versions(mask: Mask) -> None:
    """Stores hold millions of them."""
    flat = np.concatenate(([False], mask.ravel(), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1]).astype(np.int64)
    runs = np.diff(edges, prepend=0)
    assert PackedMask.pack(mask).runs == zlib.compress(runs.astype("<u4").tobytes(), level=1)


@pytest.mark.parametrize("lengths", [[3], [0, 100], [1, 2, 3], [2**32 - 1, 2**32 - 1]])
def test_runs_that_do_not_fit_are_refused(lengths: Iterable[int]) -> None:
    runs = zlib.compress(np.array(list(lengths), "<u4").tobytes())
    with pytest.raises(ValueError, match="picture of 4 x 3 pixels"):
        PackedMask(runs, 3, 4).unpack()


def test_a_frame_of_a_video_takes_little() -> None:
    rows, columns = np.mgrid[:1080, :1920]
    disc = (rows - 500) ** 2 + (columns - 900) ** 2 < 200**2
    assert len(PackedMask.pack(disc).runs) < 2000
