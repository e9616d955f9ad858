"""Which frames follow from which prompt.

A prompted frame rules the frames after it, in the direction of tracking, up to the next
prompted frame of the same object. So a correction changes only the frames it rules, and what
lies behind the next correction stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """Which way a ``track`` command goes from the prompted frames."""

    FORWARD = "forward"
    BACK = "back"
    BOTH = "both"


@dataclass(frozen=True)
class Span:
    """The frames that one prompt rules in one direction: from next to ``anchor`` to ``end``."""

    anchor: int
    end: int

    @property
    def reverse(self) -> bool:
        """Whether the frames lie before the anchor."""
        return self.end < self.anchor

    @property
    def frames(self) -> range:
        """The ruled frames in the order of tracking; the anchor is not among them."""
        if self.reverse:
            return range(self.anchor - 1, self.end - 1, -1)
        return range(self.anchor + 1, self.end + 1)


def plan_spans(
    prompted: Iterable[int], *, first: int, last: int, direction: Direction
) -> list[Span]:
    """The spans that cover ``first`` to ``last`` (both included) as far as ``direction`` reaches.

    With ``BOTH``, frames between two prompts are tracked forward from the earlier one, and
    frames before the first prompt back from it. A prompt outside the range still rules the
    frames in it that come next in its direction.
    """
    frames = sorted(set(prompted))
    spans = []
    if direction in (Direction.FORWARD, Direction.BOTH):
        for anchor, following in zip(frames, [*frames[1:], last + 1], strict=False):
            spans.append(Span(anchor, max(anchor, min(following - 1, last))))
    if direction is Direction.BACK:
        for anchor, preceding in zip(frames, [first - 1, *frames], strict=False):
            spans.append(Span(anchor, min(anchor, max(preceding + 1, first))))
    if direction is Direction.BOTH and frames and frames[0] > first:
        spans.append(Span(frames[0], first))
    return [span for span in spans if any(first <= frame <= last for frame in span.frames)]
