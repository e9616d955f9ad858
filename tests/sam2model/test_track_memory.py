"""Answers come back from host memory exactly, and absent objects cost next to nothing there."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sam2.modeling.sam2_utils import select_closest_cond_frames

from sam2model import track_memory
from sam2model.track_memory import (
    MAX_PROMPTED_FRAMES,
    Answer,
    ObjectTrack,
    PromptedFrame,
    SpilledAnswer,
    Step,
)

_NOISE = np.random.default_rng(0).normal(0, 8, (64, 64)).astype(np.float32)


@pytest.mark.parametrize(
    "logits",
    [_NOISE, np.full((64, 64), -1024, np.float32), np.full((1, 1), np.float32(1e-42))],
)
def test_logits_survive_to_the_bit(logits: NDArray[np.float32]) -> None:
    spilled = SpilledAnswer.of(logits, np.zeros(4, np.float32), 1.5, 0.5)
    np.testing.assert_array_equal(spilled.logits(), logits)
    assert spilled.logits().dtype == np.float32


def test_absent_objects_take_next_to_nothing() -> None:
    def kept(logits: NDArray[np.float32]) -> int:
        return SpilledAnswer.of(logits, np.zeros(4, np.float32), 1.0, 1.0).nbytes

    assert kept(_NOISE) == _NOISE.nbytes + 16
    assert kept(np.full_like(_NOISE, -1024)) < 100


def test_what_is_spilled_is_a_copy() -> None:
    pointers, logits = np.zeros((8, 4), np.float32), _NOISE.copy()
    spilled = SpilledAnswer.of(logits, pointers[0], 1.0, 1.0)
    pointers[0] = logits[0] = 1
    assert not spilled.pointer.any()
    np.testing.assert_array_equal(spilled.logits(), _NOISE)


def test_steps_look_back_against_their_direction() -> None:
    assert Step(5, reverse=False).passed(2) == [4, 3]
    assert Step(5, reverse=True).passed(2) == [6, 7]
    assert Step(5, reverse=True).following() == Step(4, reverse=True)


def _track(num_mask_memories: int) -> ObjectTrack:
    """An object prompted on frame 0 and tracked up to frame 19; every memory holds its frame."""
    nothing = torch.zeros(())
    prompt = Answer(torch.zeros(1, 1), torch.zeros(4), nothing, nothing)
    track = ObjectTrack(num_mask_memories=num_mask_memories)
    track.conditioning[0] = PromptedFrame(prompt, torch.zeros(1, 64, 1, 1))
    spilled = SpilledAnswer.of(_NOISE, np.zeros(4, np.float32), 1.0, 1.0)
    for frame in range(1, 20):
        track.history[frame] = spilled
        track.memories[frame] = torch.full((1, 1, 64), float(frame))
        track.pointers[frame] = torch.zeros(1, 4)
    return track


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_nearest_memories_are_read_at_their_trained_places(count: int) -> None:
    recall = _track(count).recall(Step(20, reverse=False), num_frames=30)
    # (frames ago, frame): the prompted frame has the place of its own, however few there are.
    read = [(m.frames_ago, int(m.tokens[0, 0, 0])) for m in recall.memories]
    assert read == [(0, 0), *((ago, 20 - ago) for ago in range(count - 1, 0, -1))]
    assert len(recall.pointers) == 16  # 64 of 28,736 keys at 1024 pixels: nothing to gain


def test_memories_that_no_step_reads_are_neither_kept_nor_made_again() -> None:
    track, step = _track(3), Step(20, reverse=False)
    track.forget_all_but([step])
    assert sorted(track.memories) == [18, 19]
    assert track.missing_memories(step) == []
    assert track.missing_memories(Step(19, reverse=False)) == [17]


def _prompted(frames: int) -> ObjectTrack:
    track, nothing = ObjectTrack(), torch.zeros(())
    for frame in range(0, 3 * frames, 3):
        answer = Answer(torch.zeros(1, 1), torch.zeros(4), nothing, nothing)
        track.pending[frame] = PromptedFrame(answer, torch.full((1, 1, 64), float(frame)))
        track.put_prompts_away()
    return track


@pytest.mark.parametrize("frame", [1, 45, 60, 119, 200])
@pytest.mark.parametrize("reverse", [False, True])
def test_of_many_prompted_frames_the_nearest_are_read(frame: int, reverse: bool) -> None:
    """Those that the reference chooses where it is told to choose."""
    track = _prompted(50)
    track.take_in()
    recall = track.recall(Step(frame, reverse), num_frames=300)
    expected, _ = select_closest_cond_frames(frame, track.conditioning, MAX_PROMPTED_FRAMES)
    read = [int(memory.tokens[0, 0, 0]) for memory in recall.memories]
    assert len(read) == MAX_PROMPTED_FRAMES
    assert read == sorted(expected)


def test_prompted_frames_take_a_bounded_part_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """``meta`` stands for host memory: nothing comes back from there."""
    monkeypatch.setattr(track_memory, "_HOST", torch.device("meta"))

    def here(frames: dict[int, PromptedFrame]) -> list[int]:
        return [f for f, each in frames.items() if each.answer.logits.device.type == "cpu"]

    track = _prompted(50)
    assert here(track.pending) == list(track.pending)[-MAX_PROMPTED_FRAMES:]
    track.take_in()
    track.bring_prompts(147, torch.device("cpu"))
    assert here(track.conditioning) == track.prompts_in_reach(147)
    moved: list[torch.Tensor] = []
    track.moved(lambda tensor: moved.append(tensor) or tensor, all_prompts=False)
    assert moved == []  # they stay where they are when a suspended track comes back
