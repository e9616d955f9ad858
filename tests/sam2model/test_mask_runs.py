"""Masks survive their way through run lengths, in the order COCO prescribes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from sam2model.mask_runs import MaskRuns

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks)
def test_decoding_undoes_encoding(mask: NDArray[np.bool_]) -> None:
    runs = MaskRuns.encode(mask)
    np.testing.assert_array_equal(runs.decode(), mask)
    assert runs.area == mask.sum()
    assert (runs.counts[1:] > 0).all()


@given(st.booleans())
def test_uniform_masks_are_one_run(inside: bool) -> None:
    runs = MaskRuns.encode(np.full((3, 5), inside))
    assert runs.counts.tolist() == ([0, 15] if inside else [15])


def test_runs_go_down_the_columns_and_begin_outside() -> None:
    mask = np.array([[0, 1], [1, 1], [1, 0]], dtype=np.bool_)
    assert MaskRuns.encode(mask).counts.tolist() == [1, 4, 1]


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        MaskRuns.encode(np.zeros((3, 3), dtype=np.uint8))  # type: ignore[arg-type]
