"""A tracker whose every step waits its turn for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from backend.engine.engine import Frames, TrackedObject
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Stopped
from backend.engine.segmenting import clean
from backend.engine.suspended import Kept, KeptInMemory

if TYPE_CHECKING:
    from sam2model import FrameMasks, VideoTracker
    from sam2model.track_memory import SuspendedTracks

T = TypeVar("T")


class Run(Protocol):
    """Executes a call on the inference thread, and gives its result."""

    def __call__(self, call: Callable[[], T], /, stopped: Callable[[], bool] = ...) -> T:
        """Raises ``Stopped`` where ``stopped`` ended the call."""


class QueuedTracker:
    """See ``Tracker``.

    Frames are read here, in the calling thread, before the model is asked for: the tracker then
    finds them in the source's buffer, and the inference thread does not wait for a decoder.
    """

    def __init__(
        self,
        build: Callable[[Frames], VideoTracker],
        frames: Frames,
        run: Run,
        *,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
        tracked: Callable[[], None] = lambda: None,
        speck_share: float = 0.0,
        keep: Callable[[SuspendedTracks], Kept] = KeptInMemory,
    ) -> None:
        """
        Args:
            reading: entered while a frame is fetched and decoded.
            tracked: called after every frame.
            keep: takes what is remembered while nothing is asked; see ``SuspendedMemory.keep``.
        """
        self._frames = frames
        self._run = run
        self._reading = reading
        self._tracked = tracked
        self._speck_share = speck_share
        self._tracker = build(frames)
        self._keep = keep
        self._away: Kept | None = None  # what the tracker remembers, while it is suspended
        self._back: SuspendedTracks | None = None  # the same, on its way back to it

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        """See ``Tracker``. A mask goes before points, and both before an earlier answer's logits,
        which a tracker keeps by itself."""
        self._take_back()
        with self._reading():
            self._frames[frame]
        has_points = len(prompt.points) > 0 and prompt.mask is None

        def call() -> FrameMasks:
            self._resume()
            return self._tracker.prompt(
                frame,
                object_id,
                points=prompt.points if has_points else None,
                labels=prompt.positive.astype(np.int32) if has_points else None,
                box=prompt.box if prompt.mask is None else None,
                mask=prompt.mask,
            )

        found = _objects(self._run(call), self._speck_share)
        return next(each for each in found if each.object_id == object_id)

    def step(
        self, start: int, count: int, *, reverse: bool, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        """See ``Tracker``."""
        steps: Iterator[FrameMasks] | None = None
        frame, left = start, count

        def advance() -> FrameMasks | None:
            nonlocal steps
            self._resume()
            if steps is None:
                steps = self._tracker.propagate(frame, left, reverse=reverse)
            try:
                return next(steps, None)
            except BaseException:
                steps = None  # an iterator that raised is at its end; go on with a new one
                raise

        while left > 0 and 0 <= frame < len(self._frames):
            self._take_back()
            with self._reading():
                self._frames[frame]
            try:
                found = self._run(advance, stopped)
            except Stopped:
                return
            if found is None:
                return
            self._tracked()
            yield found.frame, _objects(found, self._speck_share)
            left -= abs(found.frame - frame) + 1
            frame = found.frame + (-1 if reverse else 1)

    def suspend(self) -> None:
        """See ``Tracker``."""
        if self._away is None:
            self._back = self._back or self._run(self._tracker.suspend)
            self._away = self._keep(self._back)
            self._back = None

    def close(self) -> None:
        """See ``Tracker``."""
        if self._away is not None:
            self._away.drop()
        self._away = self._back = None
        self._tracker.reset()

    def _take_back(self) -> None:
        """In the calling thread, which may read the disk for it."""
        if self._away is not None:
            self._back = self._away.take()
            self._away = None

    def _resume(self) -> None:
        if self._back is not None:
            self._tracker.resume(self._back)
            self._back = None


def _objects(found: FrameMasks, speck_share: float) -> list[TrackedObject]:
    return [
        TrackedObject(
            str(name), PackedMask.pack(clean(mask, speck_share)), float(iou), float(score)
        )
        for name, mask, iou, score in zip(
            found.object_ids, found.masks, found.ious, found.object_scores, strict=True
        )
    ]
