"""Switching a means off changes the time, not the result."""

from contextlib import ExitStack

import pytest
import torch

from benchmarks.means import ALL, HEAD, TOGETHER, batch_rows, encoder_rows, memory_rows
from benchmarks.means_off import ENCODER_MEANS, MEMORY_MEANS
from benchmarks.reference import make_pair
from benchmarks.tracked_frame import Frame

# A memory of 16 x 16 cells, seven times, is above the number of keys that takes the long way.
SIZE = 256


@pytest.mark.parametrize(
    ("means", "rows"),
    [
        (ENCODER_MEANS, lambda: encoder_rows("demo", 1, SIZE)),
        (MEMORY_MEANS, lambda: memory_rows("demo", 1, 2, SIZE)),
    ],
    ids=["encoder", "memory"],
)
def test_the_same_features_without_each(means, rows):
    with torch.inference_mode():
        measured = [dict(zip(HEAD, row, strict=True)) for row in rows()]
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 0.05)):
        of_dtype = {row["means"]: row for row in measured if row["dtype"] == dtype}
        assert set(of_dtype) == {ALL} | {n for n, each in means.items() if dtype in each.dtypes}
        assert all(float(row["error"]) <= bound for row in of_dtype.values())


def test_the_same_features_in_one_batch():
    with torch.inference_mode():
        measured = [dict(zip(HEAD, row, strict=True)) for row in batch_rows("demo", 1, SIZE)]
    assert [row["means"] for row in measured] == [ALL, TOGETHER] * 2
    bounds = {"float32": 1e-5, "bfloat16": 0.05}
    assert all(float(row["error"]) <= bounds[row["dtype"]] for row in measured)


@pytest.mark.parametrize("means", [ENCODER_MEANS, MEMORY_MEANS], ids=["encoder", "memory"])
def test_what_stands_in_is_what_computes(means):
    """A switch that nothing looks at would show that its means brings nothing."""
    pair = make_pair("demo", SIZE)
    frame = Frame(pair, 2)
    for name, each in means.items():
        with torch.inference_mode(), torch.autocast("cpu", enabled="float32" not in each.dtypes):
            features = pair.ours.encode_image(frame.image).embedding
            patches = list(each.patches(pair.ours))
            called: list[str] = []
            for patch in patches:
                if callable(patch.new):
                    patch.new = noting(patch.new, called, patch.attribute)
            with ExitStack() as stack:
                for patch in patches:
                    stack.enter_context(patch)
                if means is ENCODER_MEANS:
                    pair.ours.encode_image(frame.image)
                else:
                    frame.conditioned(features)
        assert called or not any(callable(patch.new) for patch in patches), name


def noting(function, called, name):
    def run(*arguments, **named):
        called.append(name)
        return function(*arguments, **named)

    return run
