"""What the policies of a track's memory decide, on scripted answers."""

from collections.abc import Sequence

import numpy as np
import pytest

from sam2model.memory_policy import (
    POLICIES,
    CarefulMemory,
    DistractorMemory,
    Found,
    MemoryPolicy,
    Step,
    Verdict,
)


def _square(side: int, left: int = 2) -> np.ndarray:
    mask = np.zeros((40, 40), bool)
    mask[2 : 2 + side, left : left + side] = True
    return mask


def _found(side: int, *, score: float = 5.0, iou: float = 0.9, rival: bool = False) -> Found:
    """A square of so many pixels, and where there is a rival, an alternative at another place."""
    mask = _square(side)
    return Found(mask, score, iou, np.stack([mask, _square(side, 30) if rival else mask]))


def _judged(
    policy: MemoryPolicy, answers: Sequence[Found], reverse: bool = False
) -> dict[int, Verdict]:
    """What is decided of the answers on frames 1, 2, 3 and so on; downwards from 99 in reverse."""
    verdicts: dict[int, Verdict] = {}
    for ago, found in enumerate(answers, start=1):
        frame = 100 - ago if reverse else ago
        verdicts[frame] = policy.judge(Step(frame, reverse), found, verdicts)
    return verdicts


def test_the_reference_reads_the_frames_just_passed() -> None:
    reference = POLICIES["reference"]
    assert not reference.judges
    assert reference.memories(Step(9, False), 3, {}) == [(1, 8), (2, 7), (3, 6)]
    assert reference.memories(Step(9, True), 2, {}) == [(1, 10), (2, 11)]


@pytest.mark.parametrize(
    "refused",
    [_found(0), _found(6, score=-1.0), _found(6, iou=0.3), _found(12)],
    ids=["empty", "absent", "uncertain", "grown"],
)
def test_careful_memories_are_of_good_answers_only_however_long_ago(refused: Found) -> None:
    policy = CarefulMemory()
    verdicts = _judged(policy, [_found(6)] * 3 + [refused] * 3 + [_found(6)])
    assert policy.memories(Step(8, False), 6, verdicts) == [(1, 7), (2, 3), (3, 2), (4, 1)]
    assert policy.memories(Step(8, False), 2, verdicts) == [(1, 7), (2, 3)]


def test_what_stays_as_large_as_it_grew_is_remembered_after_a_while() -> None:
    verdicts = _judged(CarefulMemory(), [_found(6)] * 10 + [_found(12)] * 10)
    assert [verdicts[frame].recent for frame in (11, 14, 17, 20)] == [False, False, True, True]


@pytest.mark.parametrize("reverse", [False, True])
def test_seldom_memories_of_looks_and_those_that_resolve(reverse: bool) -> None:
    policy = DistractorMemory()
    answers = [_found(6)] * 18
    answers[3] = _found(6, rival=True)  # the fourth frame
    answers[5] = _found(6, rival=True)  # too soon after it
    answers[9] = _found(6, rival=True, iou=0.6)
    answers[11] = _found(10, rival=True)
    answers[16:] = [_found(0), _found(6, score=-1.0)]
    verdicts = _judged(policy, answers, reverse)

    def at(ago: int) -> int:
        return 100 - ago if reverse else ago

    # Of every fifth frame, and of the sixteenth, the last one that shows the object.
    step = Step(at(19), reverse)
    assert policy.memories(step, 6, verdicts) == [
        (1, at(16)),
        (2, at(11)),
        (3, at(6)),
        (0, at(4)),
    ]
    assert policy.memories(Step(at(6), reverse), 2, verdicts) == [(1, at(5)), (0, at(4))]
    assert policy.memories(step, 0, verdicts) == []


def test_every_policy_begins_with_nothing() -> None:
    for policy in POLICIES.values():
        assert policy.judges == (policy is not POLICIES["reference"])
        if policy.judges:
            assert policy.memories(Step(3, False), 6, {}) == []
            assert policy.judge(Step(1, False), _found(6), {}).recent
