"""What a video tracker remembers of one object, and how it forgets.

A frame reads, in the direction of tracking (``_prepare_memory_conditioned_features`` of
the reference):

* every conditioning (prompted) frame: spatial memory, and the pointer unless it lies ahead; of more
  than 32, those that lie nearest, as the reference chooses them where ``max_cond_frames_in_attn``
  is set;
* the spatial memories of the 6 frames just passed, or of fewer where speed counts more;
* the object pointers of the 15 frames just passed.

:class:`ObjectTrack` keeps exactly that on the device, and further prompted frames in host memory.
Of every other tracked frame it keeps the answer in host memory (:class:`SpilledAnswer`), from which
a correction can start; its spatial memory is encoded again when it is needed.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2model.memory_policy import REFERENCE, Found, MemoryPolicy, Places, Step, Verdict
from sam2model.prompts import PointPrompt
from sam2model.sam2 import (
    MAX_OBJECT_POINTERS,
    NUM_MASK_MEMORIES,
    ObjectPointer,
    SpatialMemory,
)

MAX_PROMPTED_FRAMES = 32  # of 0.8 MB at 1024 pixels
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Answer:
    """One object on one frame, on the model's device.

    Attributes:
        logits: float32 ``[S/4, S/4]``.
        pointer: float32 ``[C]``.
        object_score: float32 ``[]``, logit of the object's presence.
        iou: float32 ``[]``, predicted.
    """

    logits: Tensor
    pointer: Tensor
    object_score: Tensor
    iou: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Answer":
        """With every tensor moved."""
        return Answer(*map(move, (self.logits, self.pointer, self.object_score, self.iou)))


class PromptedFrame(NamedTuple):
    """An answer to prompts, and the spatial memory ``[1, M, 64]`` of it (bfloat16)."""

    answer: Answer
    memory: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> "PromptedFrame":
        """With every tensor moved."""
        return PromptedFrame(self.answer.moved(move), move(self.memory))

    def on(self, device: torch.device) -> "PromptedFrame":
        """The same on a device; itself where it is there."""
        return (
            self if self.memory.device == device else self.moved(partial(Tensor.to, device=device))
        )


@dataclass(frozen=True)
class SpilledAnswer:
    """An answer in host memory, exact to the bit.

    Logits are kept as they are: nine tenths of their bytes are noise, so that compressing them
    takes milliseconds of the thread that computes and saves a quarter.

    Attributes:
        kept_logits: float32 ``[S/4, S/4]``, or ``[]`` where all are the same, as where the object
            is absent.
        side: S/4.
        pointer: float32 ``[C]``.
        object_score: logit of the object's presence.
        iou: predicted.
        binarize: its memory is of the thresholded mask (it answers prompts).
    """

    kept_logits: NDArray[np.float32]
    side: int
    pointer: NDArray[np.float32]
    object_score: float
    iou: float
    binarize: bool = False

    @classmethod
    def of(
        cls,
        logits: NDArray[np.float32],
        pointer: NDArray[np.float32],
        object_score: float,
        iou: float,
        binarize: bool = False,
    ) -> "SpilledAnswer":
        """Copy logits ``[S/4, S/4]``, and the rest."""
        kept = logits[0, 0] if (logits == logits[0, 0]).all() else logits
        return cls(
            np.array(kept), len(logits), pointer.copy(), float(object_score), float(iou), binarize
        )

    def logits(self) -> NDArray[np.float32]:
        """A copy of the logits, float32 ``[S/4, S/4]``."""
        return np.broadcast_to(self.kept_logits, (self.side, self.side)).copy()

    @property
    def nbytes(self) -> int:
        """Bytes of logits and pointer as they are kept."""
        return self.kept_logits.nbytes + self.pointer.nbytes


class Recall(NamedTuple):
    """What a step reads of one object; objects with equal ``layout`` can share a batch."""

    memories: list[SpatialMemory]
    pointers: list[ObjectPointer]

    @property
    def layout(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Places in time of memories and pointers, which are the same for a whole batch."""
        return (
            tuple(memory.frames_ago for memory in self.memories),
            tuple(pointer.time_difference for pointer in self.pointers),
        )


@dataclass
class ObjectTrack:
    """One object's memory; see the module.

    Attributes:
        points: point prompts by frame; None where a mask prompt has replaced them.
        pending: answers to prompts that no propagation has taken in yet, by frame.
        pending_corrections: those of them that do not condition (the reference's default).
        conditioning: prompted frames; those in reach of the last step on the device.
        history: all other tracked frames.
        reverse: by frame that was tracked, the direction of the last time.
        memories: spatial memories of tracked frames on the device, ``[1, M, 64]``.
        pointers: object pointers of tracked frames on the device, ``[1, C]``.
        num_mask_memories: 1 for the conditioning frames, plus the frames just passed that a step
            reads the spatial memories of. The nearest ones stay, each with the place in time it
            was trained with.
        policy: decides which tracked frames a step reads.
        verdicts: what it decided of them, where it judges.
    """

    points: dict[int, PointPrompt | None] = field(default_factory=dict)
    pending: dict[int, PromptedFrame] = field(default_factory=dict)
    pending_corrections: set[int] = field(default_factory=set)
    conditioning: dict[int, PromptedFrame] = field(default_factory=dict)
    history: dict[int, SpilledAnswer] = field(default_factory=dict)
    reverse: dict[int, bool] = field(default_factory=dict)
    memories: dict[int, Tensor] = field(default_factory=dict)
    pointers: dict[int, Tensor] = field(default_factory=dict)
    num_mask_memories: int = NUM_MASK_MEMORIES
    policy: MemoryPolicy = REFERENCE
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def prompted_frames(self) -> set[int]:
        """Frames whose prompts condition the others."""
        return self.conditioning.keys() | (self.pending.keys() - self.pending_corrections)

    def take_in(self) -> None:
        """Make what pending prompts were answered part of the memory."""
        for frame, prompted in self.pending.items():
            if frame not in self.pending_corrections:
                self.conditioning[frame] = prompted
                self._drop(frame)
            elif frame not in self.conditioning:
                answer = prompted.answer
                self.history[frame] = SpilledAnswer.of(
                    answer.logits.cpu().numpy(),
                    answer.pointer.cpu().numpy(),
                    float(answer.object_score),
                    float(answer.iou),
                    binarize=True,
                )
                self.memories[frame] = prompted.memory
                self.pointers[frame] = answer.pointer[None]
                if frame in self.verdicts:
                    self.verdicts[frame] = replace(self.verdicts[frame], recent=True)
        self.pending.clear()
        self.pending_corrections.clear()

    def prompts_in_reach(self, frame: int) -> list[int]:
        """The prompted frames that a step to ``frame`` reads, ascending: all, or the nearest on
        either side, and those nearest of the others."""
        if len(self.conditioning) <= MAX_PROMPTED_FRAMES:
            return sorted(self.conditioning)
        before = [max((each for each in self.conditioning if each < frame), default=None)]
        after = [min((each for each in self.conditioning if each >= frame), default=None)]
        chosen = [each for each in before + after if each is not None]
        others = sorted(self.conditioning.keys() - set(chosen), key=lambda each: abs(each - frame))
        return sorted(chosen + others[: MAX_PROMPTED_FRAMES - len(chosen)])

    def bring_prompts(self, frame: int, device: torch.device) -> None:
        """Have those in reach of ``frame`` on the device, and the others in host memory."""
        reach = set(self.prompts_in_reach(frame))
        for each, prompted in self.conditioning.items():
            self.conditioning[each] = prompted.on(device if each in reach else _HOST)

    def put_prompts_away(self) -> None:
        """Bring the oldest of many pending answers to host memory."""
        if not self.pending_corrections:
            for frame in list(self.pending)[:-MAX_PROMPTED_FRAMES]:
                self.pending[frame] = self.pending[frame].on(_HOST)

    def tensors(self) -> list[Tensor]:
        """All of them; may be asked from any thread."""
        prompted = [*list(self.pending.values()), *list(self.conditioning.values())]
        answers = [each.answer for each in prompted]
        return [
            *list(self.memories.values()),
            *list(self.pointers.values()),
            *(each.memory for each in prompted),
            *(tensor for each in answers for tensor in (each.logits, each.pointer)),
        ]

    def _drop(self, frame: int) -> None:
        """Forget that a frame was tracked."""
        self.history.pop(frame, None)
        self.memories.pop(frame, None)
        self.pointers.pop(frame, None)
        self.verdicts.pop(frame, None)

    def judge(self, step: Step, answer: SpilledAnswer, alternatives: NDArray[np.bool_]) -> None:
        """Let the policy decide of the answer on a tracked frame.

        Args:
            alternatives: bool ``[M, S/4, S/4]``, see :class:`sam2model.memory_policy.Found`.
        """
        found = Found(answer.logits() > 0, answer.object_score, answer.iou, alternatives)
        self.verdicts[step.frame] = self.policy.judge(step, found, self.verdicts)

    def _memories_of(self, step: Step) -> Places:
        """Frames whose spatial memories a step reads."""
        return self.policy.memories(step, self.num_mask_memories - 1, self.verdicts)

    def missing_memories(self, step: Step) -> list[int]:
        """Frames whose spatial memory the step reads, but which have none on the device."""
        read = [frame for _, frame in self._memories_of(step)]
        return [f for f in read if f in self.history and f not in self.memories]

    def missing_pointers(self, step: Step) -> list[int]:
        """The same for object pointers."""
        passed = step.passed(MAX_OBJECT_POINTERS - 1)
        return [f for f in passed if f in self.history and f not in self.pointers]

    def recall(self, step: Step, num_frames: int) -> Recall:
        """What a step reads; everything missing must have been restored.

        Args:
            step: the frame to be tracked.
            num_frames: length of the video, which limits the pointers of a short one.
        """
        max_pointers = min(num_frames, MAX_OBJECT_POINTERS)
        reach = self.prompts_in_reach(step.frame)
        conditioning = [(frame, self.conditioning[frame]) for frame in reach]
        memories = [SpatialMemory(0, prompted.memory) for _, prompted in conditioning]
        memories += [
            SpatialMemory(ago, self.memories[frame])
            for ago, frame in reversed(self._memories_of(step))
            if frame in self.memories
        ]
        sign = -1 if step.reverse else 1
        pointers = [
            ObjectPointer(sign * (step.frame - frame), prompted.answer.pointer[None])
            for frame, prompted in conditioning
            if sign * (step.frame - frame) >= 0
        ]
        pointers += [
            ObjectPointer(ago, self.pointers[frame])
            for ago, frame in enumerate(step.passed(max_pointers - 1), start=1)
            if frame in self.pointers
        ]
        return Recall(memories, pointers)

    def forget_history(self, step: Step, count: int) -> None:
        """Keep of the frames that were tracked only the ``count`` ones passed before a step."""
        kept = {*step.passed(count), *(frame for _, frame in self._memories_of(step))}
        for frame in self.history.keys() - kept:
            del self.history[frame]
        for frame in self.reverse.keys() - kept - self.conditioning.keys():
            del self.reverse[frame]
        for frame in self.verdicts.keys() - kept:
            del self.verdicts[frame]

    def forget_all_but(self, steps: Iterable[Step]) -> None:
        """Drop from the device what none of the steps would read."""
        steps = list(steps)
        read = {frame for step in steps for _, frame in self._memories_of(step)}
        if self.policy.judges:  # of the frame tracked last it is not known yet
            read |= {frame for step in steps for frame in step.passed(1)}
        passed = {frame for step in steps for frame in step.passed(MAX_OBJECT_POINTERS - 1)}
        for kept, in_reach in ((self.memories, read), (self.pointers, passed)):
            for frame in kept.keys() - in_reach:
                del kept[frame]

    def copied(self) -> "ObjectTrack":
        """What it is at the moment; tensors and arrays, which nothing changes, are shared."""
        return replace(
            self,
            points=dict(self.points),
            pending=dict(self.pending),
            pending_corrections=set(self.pending_corrections),
            conditioning=dict(self.conditioning),
            history=dict(self.history),
            reverse=dict(self.reverse),
            memories=dict(self.memories),
            pointers=dict(self.pointers),
            verdicts=dict(self.verdicts),
        )

    def become(self, other: "ObjectTrack") -> None:
        """Take over what ``copied`` gave, which is not used any more."""
        vars(self).update(vars(other))

    def moved(self, move: Callable[[Tensor], Tensor], *, all_prompts: bool = True) -> "ObjectTrack":
        """The same memory with every tensor moved; what is in host memory anyway is shared.

        Args:
            all_prompts: False to leave prompted frames where they are, if they are many.
        """
        pending, conditioning = self.pending, self.conditioning
        few = len(pending) + len(conditioning) <= MAX_PROMPTED_FRAMES
        if all_prompts or few or self.pending_corrections:
            pending = {frame: each.moved(move) for frame, each in pending.items()}
            conditioning = {frame: each.moved(move) for frame, each in conditioning.items()}
        return replace(
            self,
            pending=dict(pending),
            conditioning=dict(conditioning),
            memories={frame: move(each) for frame, each in self.memories.items()},
            pointers={frame: move(each) for frame, each in self.pointers.items()},
        )


@dataclass(frozen=True)
class SuspendedTracks:
    """All that a video tracker remembers, in host memory, while nothing is asked of it.

    Exact to the bit, and it can be pickled.

    Attributes:
        tracks: by object.
        sizes: height and width of the frames that were read.
        next: the step that comes next.
        nbytes: what tensors, answers and prompts take.
    """

    tracks: Mapping[Hashable, ObjectTrack]
    sizes: Mapping[int, tuple[int, int]]
    next: Step | None
    nbytes: int

    @classmethod
    def of(
        cls,
        tracks: Mapping[Hashable, ObjectTrack],
        sizes: Mapping[int, tuple[int, int]],
        following: Step | None,
    ) -> "SuspendedTracks":
        """Copy to host memory what is not there, and what is a part of something larger."""
        copied = 0

        def to_host(tensor: Tensor) -> Tensor:
            nonlocal copied
            found = tensor.detach().cpu()
            if found.untyped_storage().nbytes() > found.nbytes:
                found = found.clone()
            copied += found.nbytes
            return found

        with torch.inference_mode():
            kept = {name: track.moved(to_host) for name, track in tracks.items()}
        answers = (each for track in kept.values() for each in track.history.values())
        points = (each for track in kept.values() for each in track.points.values() if each)
        copied += sum(each.nbytes for each in answers)
        copied += sum(array.nbytes for each in points for array in each)
        return cls(kept, dict(sizes), following, copied)

    def tracks_on(self, device: torch.device) -> dict[Hashable, ObjectTrack]:
        """The objects' memories on a device, but for prompted frames where they are many."""
        move = partial(Tensor.to, device=device)
        return {name: track.moved(move, all_prompts=False) for name, track in self.tracks.items()}
