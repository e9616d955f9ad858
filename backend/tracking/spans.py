"""Which frames follow from which prompt.

A prompted frame rules the frames after it, in the direction of tracking, up to the next
prompted frame of the same object. So a correction changes only the frames it rules, and what
lies behind the next correction stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from backend.engine.pixel_prompts import PixelPrompt


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


@dataclass(frozen=True)
class Goal:
    """One object of a job.

    Attributes:
        prompts: by frame, what the object is prompted with; the anchors of ``spans`` are among
            them.
        digests: by frame, a digest of the prompt, to know what a stored mask follows from.
        spans: the frames that are wanted.
        answers: those prompted frames whose own masks are wanted; a drawn mask is one already.
    """

    object_id: str
    prompts: Mapping[int, PixelPrompt]
    digests: Mapping[int, str]
    spans: Sequence[Span]
    answers: Collection[int] = ()


def plan_goal(
    object_id: str,
    prompts: Mapping[int, PixelPrompt],
    request: Mapping[str, Any],
    *,
    digests: Mapping[int, str] | None = None,
    ends: Collection[int] = (),
) -> Goal:
    """What is wanted of an object from ``first`` to ``last`` of a request, in its ``direction``.

    Args:
        digests: of the prompts; those of their pixels where None.
        ends: prompted frames after which the object is not there any more.
    """
    first, last = request["first"], request["last"]
    spans = plan_spans(prompts, first=first, last=last, direction=Direction(request["direction"]))
    if digests is None:
        digests = {frame: _digest(prompt) for frame, prompt in prompts.items()}
    return Goal(
        object_id,
        prompts,
        digests,
        [span for span in spans if span.reverse or span.anchor not in ends],
        [frame for frame, each in prompts.items() if each.mask is None and first <= frame <= last],
    )


def _digest(prompt: PixelPrompt) -> str:
    """Names what a prompt says; the editor encodes the same mask in other bytes at times."""
    found = hashlib.sha256()
    for part in (prompt.points, prompt.positive, prompt.box, prompt.mask):
        array = np.zeros(0) if part is None else np.ascontiguousarray(part)
        found.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()[:16]
