"""The frames of a track in the order in which they are tracked: what a cursor counts.

The order follows from the request alone, so a cursor means the same frame before and after a
restart, and whoever reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.tracking.spans import Direction, Span, plan_spans


@dataclass(frozen=True)
class SpanWithAnchor(Span):
    """A span whose prompted frame is wanted too, also where it is the only one."""

    backward: bool = False

    @property
    def reverse(self) -> bool:
        """Whether it is tracked towards the beginning."""
        return self.backward

    @property
    def frames(self) -> range:
        """See ``Span``; here the anchor comes first."""
        step = -1 if self.backward else 1
        return range(self.anchor, self.end + step, step)


@dataclass(frozen=True)
class Order:
    """The frames of one track; ``order[i]`` is ``(frame, the objects wanted on it)``.

    Attributes:
        prompted: by object, its prompted frames (of the file, from 0), at least one.
        first, last: what is tracked, both included; all prompted frames are within.
    """

    prompted: Mapping[str, Sequence[int]]
    first: int
    last: int
    direction: Direction

    def spans(self, object_id: str) -> list[Span]:
        """What is wanted of an object, for ``JobRunner``."""
        frames = sorted(self.prompted[object_id])
        if self.direction is Direction.BACK:
            ends = [self.first, *(frame + 1 for frame in frames[:-1])]
            return [
                SpanWithAnchor(frame, end, backward=True)
                for frame, end in zip(frames, ends, strict=True)
            ]
        ends = [*(frame - 1 for frame in frames[1:]), self.last]
        spans: list[Span] = [
            SpanWithAnchor(frame, end) for frame, end in zip(frames, ends, strict=True)
        ]
        if self.direction is Direction.BOTH:
            back = plan_spans(
                frames[:1], first=self.first, last=frames[0], direction=Direction.BACK
            )
            spans += [span for span in back if span.reverse]
        return spans

    def __len__(self) -> int:
        return len(self._forward) + len(self._back)

    def __getitem__(self, position: int) -> tuple[int, list[str]]:
        if position < len(self._forward):
            frame = self._forward[position]
            return frame, [name for name, at in self.prompted.items() if min(at) <= frame]
        frame = self._back[position - len(self._forward)]
        if self.direction is Direction.BACK:
            return frame, [name for name, at in self.prompted.items() if max(at) >= frame]
        return frame, [name for name, at in self.prompted.items() if min(at) > frame]

    @property
    def _forward(self) -> range:
        if self.direction is Direction.BACK:
            return range(0)
        return range(min(min(at) for at in self.prompted.values()), self.last + 1)

    @property
    def _back(self) -> range:
        if self.direction is Direction.FORWARD:
            return range(0)
        if self.direction is Direction.BACK:
            return range(max(max(at) for at in self.prompted.values()), self.first - 1, -1)
        return range(max(min(at) for at in self.prompted.values()) - 1, self.first - 1, -1)
