"""What a job is to do: frames, and what is wanted of each object on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from backend.engine.engine import Frames
from backend.engine.pixel_prompts import PixelPrompt
from backend.tracking.spans import Span


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


@dataclass(frozen=True)
class Work:
    """A job, ready to run.

    Attributes:
        frames: what is tracked through.
        goals: what is wanted of each object.
        size_of: width and height that the masks of a frame are to have.
        close: frees the frames.
        stride: track every n-th frame and interpolate between; None for the runner's.
    """

    frames: Frames
    goals: Sequence[Goal]
    size_of: Callable[[int], tuple[int, int]]
    close: Callable[[], None]
    stride: int | None = None
