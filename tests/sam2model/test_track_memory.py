"""Answers come back from host memory exactly, and absent objects cost next to nothing there."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sam2model.track_memory import SpilledAnswer, Step

_NOISE = np.random.default_rng(0).normal(0, 8, (64, 64)).astype(np.float32)


@pytest.mark.parametrize(
    "logits",
    [_NOISE, np.full((64, 64), -1024, np.float32), np.full((1, 1), np.float32(1e-42))],
)
def test_logits_survive_to_the_bit(logits: NDArray[np.float32]) -> None:
    spilled = SpilledAnswer.pack(logits, np.zeros(4, np.float32), 1.5, 0.5)
    np.testing.assert_array_equal(spilled.logits(), logits)
    assert spilled.logits().dtype == np.float32


def test_what_is_spilled_is_smaller_than_it_was() -> None:
    pointer = np.zeros(4, np.float32)
    assert SpilledAnswer.pack(_NOISE, pointer, 1.0, 1.0).nbytes < 0.9 * _NOISE.nbytes
    absent = np.full_like(_NOISE, -1024)
    assert SpilledAnswer.pack(absent, pointer, -1.0, 0.0).nbytes < 100


def test_a_spilled_pointer_is_a_copy() -> None:
    batch = np.zeros((8, 4), np.float32)
    spilled = SpilledAnswer.pack(_NOISE, batch[0], 1.0, 1.0)
    batch[0] = 1
    assert not spilled.pointer.any()


def test_steps_look_back_against_their_direction() -> None:
    assert Step(5, reverse=False).passed(2) == [4, 3]
    assert Step(5, reverse=True).passed(2) == [6, 7]
    assert Step(5, reverse=True).following() == Step(4, reverse=True)
