"""The frames of a track in the order in which they are tracked: what a cursor counts.

The order follows from the request alone, so a cursor means the same frame before and after a
restart, and whoever reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.tracking.spans import Direction


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

    def is_prompted(self, position: int) -> bool:
        """Whether every object that is wanted on a frame is prompted there."""
        frame, names = self[position]
        return all(frame in self.prompted[name] for name in names)

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
