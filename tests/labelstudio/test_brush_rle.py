"""The brush RLE against the decoder of Label Studio's SDK, and against hostile input."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter.brush import decode_rle, encode_rle

from backend.labelstudio.brush_rle import MAX_MASK_PIXELS, decode_brush, encode_brush

SHAPES = st.tuples(st.integers(1, 23), st.integers(1, 23))


@given(arrays(bool, SHAPES))
def test_round_trip_and_agreement_with_the_sdk(mask):
    height, width = mask.shape
    rle = encode_brush(mask)
    np.testing.assert_array_equal(decode_brush(bytes(rle), width, height), mask)
    rgba = decode_rle(rle).reshape(height, width, 4)
    for channel in range(4):  # the editor draws where alpha is set and saves all four alike
        np.testing.assert_array_equal(rgba[..., channel], mask * 255)


def sdk_bytes(mask):
    return encode_rle(np.repeat(mask.ravel().astype(np.uint8) * np.uint8(255), 4))


@given(arrays(bool, SHAPES))
def test_the_bytes_of_the_sdk(mask):
    assert encode_brush(mask) == sdk_bytes(mask)


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 64, 65, 16384, 16385, 32768, 40000])
def test_the_bytes_of_the_sdk_for_runs_of_every_size(pixels):
    mask = np.zeros((1, 90000), bool)
    mask[0, 7 : 7 + pixels] = True
    assert encode_brush(mask) == sdk_bytes(mask)
    assert encode_brush(~mask[:, : 7 + pixels]) == sdk_bytes(~mask[:, : 7 + pixels])


def test_more_runs_than_are_encoded_at_a_time():
    mask = np.random.default_rng(0).random((400, 500)) < 0.5
    assert len(np.flatnonzero(np.diff(mask.ravel()))) > 1 << 16
    assert encode_brush(mask) == sdk_bytes(mask)


@given(arrays(np.uint8, SHAPES), st.integers(0, 3))
def test_soft_edges_of_hand_drawn_strokes_belong_to_the_mask(alpha, seed):
    height, width = alpha.shape
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[..., 3] = alpha
    decoded = decode_brush(bytes(encode_rle(rgba.ravel())), width, height)
    np.testing.assert_array_equal(decoded, alpha > 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 255), st.integers(1, 16)), min_size=1))
def test_literal_runs_as_the_editors_encoder_writes_them(runs):
    """rle-pack packs unequal neighbours into one run of single values; the SDK never does."""
    values, bits = [], ""
    for repeated, value, length in runs:
        chunk = [value] * length if repeated else [(value + i) % 256 for i in range(length)]
        values += chunk
        bits += f"{int(repeated)}01{length - 1:04b}"
        bits += "".join(f"{v:08b}" for v in ([value] if repeated else chunk))
    short = -len(values) % 4
    if short:
        values += [0] * short
        bits += f"101{short - 1:04b}{0:08b}"
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16)) + bits
    bits += "0" * (-len(bits) % 8)
    rle = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    expected = np.array(values, dtype=np.uint8)[3::4] > 0
    np.testing.assert_array_equal(decode_brush(rle, len(expected), 1)[0], expected)
    np.testing.assert_array_equal(decode_rle(rle), values)


@given(st.binary(max_size=200), st.integers(-2, 30), st.integers(-2, 30))
def test_garbage_is_a_mask_or_a_value_error(data, width, height):
    try:
        mask = decode_brush(data, width, height)
    except ValueError:
        return
    assert mask.shape == (height, width)


@given(arrays(bool, SHAPES), st.data())
def test_truncated_is_refused(mask, data):
    height, width = mask.shape
    rle = bytes(encode_brush(mask))
    # the last byte may be padding only
    cut = data.draw(st.integers(0, len(rle) - 2))
    with pytest.raises(ValueError, match="ends before"):
        decode_brush(rle[:cut], width, height)


def test_another_picture_size_is_refused():
    rle = bytes(encode_brush(np.ones((6, 4), dtype=bool)))
    with pytest.raises(ValueError, match="96 values"):
        decode_brush(rle, 5, 5)


@pytest.mark.parametrize(
    ("width", "height"), [(0, 5), (5, 0), (-1, -1), (10**9, 10**9), (MAX_MASK_PIXELS + 1, 1)]
)
def test_impossible_sizes_are_refused_before_anything_is_allocated(width, height):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="outside 1 to"):
            decode_brush(b"\xff" * 50, width, height)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_short_rle_that_declares_a_huge_picture_costs_one_mask_at_most():
    side = 4000
    rle = (4 * side * side).to_bytes(4, "big") + b"9\x1b\xff" + b"\xff" * 40
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="ends before"):
            decode_brush(rle, side, side)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * side * side
    finally:
        tracemalloc.stop()


def test_full_hd_is_quick_both_ways():
    y, x = np.mgrid[:1080, :1920]
    mask = ((x - 900) / 700) ** 2 + ((y - 500) / 400) ** 2 < 1
    start = time.process_time()
    rle = encode_brush(mask)
    decoded = decode_brush(bytes(rle), 1920, 1080)
    assert time.process_time() - start < 1.0  # about 0.02 s on an idle core
    np.testing.assert_array_equal(decoded, mask)
