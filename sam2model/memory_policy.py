"""Which of the frames that were tracked later ones read: the policies of a track's memory.

The reference reads whatever was tracked last, right or wrong (``REFERENCE``). The others judge each
answer once, when it is known on the host, and from then on read only what they chose to remember.
They choose by what the model says of its answers; nothing is trained for it.

A policy keeps nothing: what it decided of a frame is a :class:`Verdict`, which the track keeps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# Last masks whose median size is the usual one.
_SIZES = 10

# A frame, after the place in time that its memory is read at.
Places = list[tuple[int, int]]


class Step(NamedTuple):
    """A frame to be tracked, and the direction it is reached in."""

    frame: int
    reverse: bool

    def passed(self, count: int) -> list[int]:
        """The ``count`` frames passed before this one, the latest first."""
        sign = 1 if self.reverse else -1
        return [self.frame + sign * ago for ago in range(1, count + 1)]

    def following(self) -> "Step":
        """The next frame in the same direction."""
        return Step(self.frame + (-1 if self.reverse else 1), self.reverse)


class Found(NamedTuple):
    """What a policy is told of the answer on a tracked frame.

    Attributes:
        mask: bool ``[h, w]``.
        object_score: logit of the object's presence.
        iou: predicted.
        alternatives: bool ``[M, h, w]``, the masks that the answer was chosen from.
    """

    mask: NDArray[np.bool_]
    object_score: float
    iou: float
    alternatives: NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """What a policy decided of a frame.

    Attributes:
        area: of the mask, in its own pixels.
        recent: its memory shows what the object looks like.
        resolving: its memory tells the object from something like it.
    """

    area: int
    recent: bool
    resolving: bool = False


@dataclass(frozen=True)
class MemoryPolicy:
    """The reference's: a step reads the frames just passed, whatever was found on them."""

    judges = False
    """Whether answers are judged: the host waits for each frame before the next begins."""

    def judge(self, step: Step, found: Found, verdicts: Mapping[int, Verdict]) -> Verdict:
        """Decide of the answer of a step.

        Args:
            verdicts: by frame, of the frames that were tracked so far.
        """
        raise NotImplementedError

    def memories(self, step: Step, count: int, verdicts: Mapping[int, Verdict]) -> Places:
        """At most ``count`` frames whose spatial memories a step reads, place 1 first; 0 is the
        place of what a human marked."""
        return list(enumerate(step.passed(count), start=1))


@dataclass(frozen=True)
class CarefulMemory(MemoryPolicy):
    """Refuses memories of answers that are absent, uncertain or suddenly grown, and reads those of
    the last frames that it did not refuse, however long ago (after the memory selection of SAMURAI,
    arXiv 2411.11922, without its model of motion).

    Attributes:
        least_iou: of a sure answer, as predicted.
        growth: the largest size of an answer, as a multiple of the usual one.
    """

    least_iou: float = 0.5
    growth: float = 1.5

    judges = True

    def judge(self, step: Step, found: Found, verdicts: Mapping[int, Verdict]) -> Verdict:
        """See ``MemoryPolicy``."""
        area = int(np.count_nonzero(found.mask))
        sure = area > 0 and found.object_score > 0 and found.iou >= self.least_iou
        return Verdict(area, sure and area <= self.growth * _usual_area(step, verdicts, area))

    def memories(self, step: Step, count: int, verdicts: Mapping[int, Verdict]) -> Places:
        """See ``MemoryPolicy``."""
        recent = (frame for frame in _passed(step, verdicts) if verdicts[frame].recent)
        return list(enumerate(islice(recent, count), start=1))


@dataclass(frozen=True)
class DistractorMemory(MemoryPolicy):
    """Remembers seldom what the object looks like, and keeps frames that tell it from something
    like it (after DAM4SAM, arXiv 2411.17576 and 2509.13864, whose constants these are).

    Half of the memories are recent: of every n-th frame that shows the object, and of the last one
    that does. The others are of frames where the answer is sure and as large as usual, while one of
    the masks that it was chosen from reaches much further: these are read without a place in time,
    as what a human marked is.

    Attributes:
        every: frames from one memory to the next of its kind.
        least_iou: of a sure answer, as predicted.
        change: how far its size may be from the usual one, as a part of that.
        reach: of the box around the answer and an alternative, the part that the box around the
            answer alone takes at most where they disagree.
    """

    every: int = 5
    least_iou: float = 0.8
    change: float = 0.2
    reach: float = 0.7

    judges = True

    def judge(self, step: Step, found: Found, verdicts: Mapping[int, Verdict]) -> Verdict:
        """See ``MemoryPolicy``."""
        area = int(np.count_nonzero(found.mask))
        if area == 0 or found.object_score <= 0:
            return Verdict(area=0, recent=False)
        passed = list(_passed(step, verdicts))

        def due(frames: Iterator[int]) -> bool:
            last = next(frames, None)
            return last is None or abs(step.frame - last) >= self.every

        usual = _usual_area(step, verdicts, area)
        resolving = (
            found.iou >= self.least_iou
            and abs(area - usual) <= self.change * usual
            and due(frame for frame in passed if verdicts[frame].resolving)
            and any(_box_part(found.mask, each) < self.reach for each in found.alternatives)
        )
        return Verdict(area, due(f for f in passed if verdicts[f].recent), resolving)

    def memories(self, step: Step, count: int, verdicts: Mapping[int, Verdict]) -> Places:
        """See ``MemoryPolicy``."""
        passed = [frame for frame in _passed(step, verdicts) if verdicts[frame].area]
        resolving = [frame for frame in passed if verdicts[frame].resolving][: count // 2]
        recent = [
            frame
            for frame in passed
            if frame not in resolving and (frame == passed[0] or verdicts[frame].recent)
        ]
        places = list(enumerate(recent[: count - count // 2], start=1))
        return places + [(0, frame) for frame in resolving]


def _passed(step: Step, verdicts: Mapping[int, Verdict]) -> Iterator[int]:
    """The judged frames that a step has passed, the latest first."""
    if step.reverse:
        yield from sorted(frame for frame in verdicts if frame > step.frame)
    else:
        yield from sorted((frame for frame in verdicts if frame < step.frame), reverse=True)


def _usual_area(step: Step, verdicts: Mapping[int, Verdict], unknown: int) -> float:
    """The median size of the last masks before a step, or ``unknown`` where there are none. Refused
    ones count: what stays as large as it suddenly grew is accepted after a while."""
    seen = (verdicts[frame].area for frame in _passed(step, verdicts) if verdicts[frame].area)
    return float(np.median(list(islice(seen, _SIZES)) or [unknown]))


def _box_part(mask: NDArray[np.bool_], alternative: NDArray[np.bool_]) -> float:
    """The part that the box around a mask takes of that around it and the largest connected part
    of an alternative."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(alternative.view(np.uint8))
    if len(stats) < 2:
        return 1.0
    left, top, width, height = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), :4]
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    across = max(x + w, left + width) - min(x, left)
    down = max(y + h, top + height) - min(y, top)
    return float(w * h / (across * down))


REFERENCE = MemoryPolicy()
POLICIES: Mapping[str, MemoryPolicy] = {
    "reference": REFERENCE,
    "careful": CarefulMemory(),
    "distractors": DistractorMemory(),
}
