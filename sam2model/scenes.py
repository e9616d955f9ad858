"""Whether a tracked frame still is of the scene in which an object was marked.

A tracker answers on every frame, also behind a cut, where what it follows may not be seen at all.
How much the features of a picture differ from those of the frame before tells a cut; only means of
them leave the device, with the masks.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Look: TypeAlias = NDArray[np.float32]

CELLS = 4  # along each side of a look
# A cut lies between two frames whose looks have a cosine distance of at least this ...
CUT = 0.03
# ... and of this many times the median of the last ones: a camera that moves is no cut.
CUT_TIMES = 8.0
# Behind a cut, the scene is a known one where it is nearer to it than this share of the cut.
BACK = 0.5
_STEPS = 16  # whose median it is, at most
_FEWEST = 3  # before that many are known, no cut is told


def look_of(embedding: Tensor) -> Tensor:
    """What a frame looks like: the means of its features in 4 x 4 parts.

    Args:
        embedding: ``[1, C, h, w]`` of any dtype.

    Returns:
        float32 ``[C, 4, 4]``.
    """
    return F.adaptive_avg_pool2d(embedding, CELLS)[0].float()


@dataclass
class _Marked:
    """An object: the looks of the frames where it was marked, by frame, and of the last frame of
    such a scene; whether the frame at hand is of another one."""

    looks: dict[int, Look] = field(default_factory=dict)
    latest: Look | None = None
    elsewhere: bool = False


class SceneWatch:
    """Follows the frames of one tracker, in the order in which they are tracked.

    A scene that changes little by little stays the same; behind a cut it is one in which an object
    was marked if it looks like a frame where it was, or like the last one before it was left.
    """

    def __init__(self) -> None:
        self._marked: dict[Hashable, _Marked] = {}
        self._before: tuple[int, Look] | None = None
        self._steps: deque[float] = deque(maxlen=_STEPS)

    def mark(self, object_id: Hashable, frame: int, look: Look) -> None:
        """An object was marked on a frame, which looks like this; see :func:`look_of`."""
        self._marked.setdefault(object_id, _Marked()).looks[frame] = look

    def see(self, frame: int, object_ids: Iterable[Hashable], look: Look | None) -> list[bool]:
        """The next frame was tracked.

        Args:
            look: of the frame; where it is None, that of a mark on it is taken, if there is one.

        Returns:
            For each object, whether the frame is of a scene in which it was not marked.
        """
        marked = [self._marked.setdefault(name, _Marked()) for name in object_ids]
        if look is None:
            look = next((each.looks[frame] for each in marked if frame in each.looks), None)
        if look is not None:
            jump = self._jump(frame, look)
            for each in marked:
                if frame in each.looks:
                    each.elsewhere = False
                elif jump is not None:
                    each.elsewhere = _nearest(each, look) > BACK * jump
                if not each.elsewhere:
                    each.latest = look
        return [each.elsewhere for each in marked]

    def _jump(self, frame: int, look: Look) -> float | None:
        """How far the look is from that of the frame before, where that is a cut."""
        before, self._before = self._before, (frame, look)
        if before is None or abs(frame - before[0]) != 1:
            return None
        step = _distance(before[1], look)
        usual = float(np.median(list(self._steps))) if len(self._steps) >= _FEWEST else np.inf
        self._steps.append(step)
        return step if step >= max(CUT, CUT_TIMES * usual) else None


def _nearest(marked: _Marked, look: Look) -> float:
    """How far a look is from the nearest one of an object's scenes; 0 where none is known."""
    known = [*marked.looks.values(), *([] if marked.latest is None else [marked.latest])]
    return min((_distance(look, each) for each in known), default=0.0)


def _distance(one: Look, other: Look) -> float:
    """Cosine distance, 0 to 2; 1 where one is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1.0 - (float(np.vdot(one, other)) / lengths if lengths else 0.0)
