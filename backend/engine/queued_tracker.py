"""A tracker whose every step waits its turn for the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from backend.engine.engine import Frames, TrackedObject
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Stopped, failure_of, wait_for_job
from backend.engine.segmenting import clean
from backend.engine.suspended import Kept, KeptInMemory
from backend.expected import ExpectedError

if TYPE_CHECKING:
    from sam2model import FrameMasks, VideoTracker
    from sam2model.track_memory import SuspendedTracks
    from sam2model.video_tracker import RememberedTracks

T = TypeVar("T")

# Behind a cut, a mask is left out that the model predicts a lower IoU for. How much that saves and
# costs: docs/measurements/review.md.
SURE_IOU = 0.7


class Run(Protocol):
    """Queues a call for the inference thread."""

    def __call__(self, call: Callable[[], T], /, stopped: Callable[[], bool] = ...) -> Future[T]:
        """What will have its result, or ``Stopped`` where ``stopped`` ended it."""


@dataclass
class _Begun:
    """A frame that was asked of the model.

    Attributes:
        found: its masks, or that there is nothing to track.
        before: what the tracker remembered before it, once it is begun.
        given_up: set where nobody wants it any more.
    """

    frame: int
    reverse: bool
    found: Future[FrameMasks | None]
    before: list[RememberedTracks] = field(default_factory=list)
    given_up: threading.Event = field(default_factory=threading.Event)

    def is_for(self, frame: int, reverse: bool) -> bool:
        """Whether it is what a step to ``frame`` asks for."""
        return (self.frame, self.reverse, self.given_up.is_set()) == (frame, reverse, False)

    def end(self) -> bool:
        """Nobody wants it any more; whether it has not begun, and will not."""
        self.given_up.set()
        return self.found.cancel()


class QueuedTracker:
    """See ``Tracker``.

    Frames are read here, in the calling thread, before the model is asked for: the tracker then
    finds them in the source's buffer, and the inference thread does not wait for a decoder.

    One frame is asked for ahead, so that the device computes while the masks of the frame before
    are brought from it, packed and stored. Whatever is asked between two frames finds the tracker
    as if that frame had not been asked for.
    """

    def __init__(
        self,
        build: Callable[[Frames], VideoTracker],
        frames: Frames,
        run: Run,
        *,
        weights: str = "",
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
        from sam2model.scenes import SceneWatch  # brings torch

        self.weights = weights
        self._frames = frames
        self._run = run
        self._reading = reading
        self._tracked = tracked
        self._speck_share = speck_share
        self._tracker = build(frames)
        self._keep = keep
        self._watch = SceneWatch()
        self._away: Kept | None = None  # what the tracker remembers, while it is suspended
        self._back: SuspendedTracks | None = None  # the same, on its way back to it
        self._ahead: _Begun | None = None

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        """See ``Tracker``. A mask goes before points, and both before an earlier answer's logits,
        which a tracker keeps by itself."""
        self._give_up()
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

        found = wait_for_job(self._run(call))
        place = found.object_ids.index(object_id)
        if found.look is not None and found.masks[place].any():
            self._watch.mark(object_id, frame, found.look)
        return _objects(found, self._speck_share)[place]

    def step(
        self, start: int, count: int, *, reverse: bool, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        """See ``Tracker``."""
        sign = -1 if reverse else 1
        last = min(max(start + sign * (count - 1), 0), len(self._frames) - 1)
        order = range(start, last + sign, sign)
        failed: ExpectedError | None = None
        try:
            for frame in order:
                if failed is not None:
                    raise failed
                found = wait_for_job(self._asked(frame, reverse, stopped))
                if found is None:
                    return
                self._tracked()
                if frame != last:
                    try:
                        self._ahead = self._begin(frame + sign, reverse, stopped)
                    except ExpectedError as error:  # of a frame whose turn has not come
                        failed = error
                yield frame, self._watched(found)
        except Stopped:
            return
        finally:  # perhaps in a garbage collection, where nothing may be waited for
            if self._ahead is not None:
                self._ahead.end()

    def suspend(self) -> None:
        """See ``Tracker``."""
        self._give_up()
        if self._away is None:
            self._back = self._back or wait_for_job(self._run(self._tracker.suspend))
            self._away = self._keep(self._back)
            self._back = None

    def close(self) -> None:
        """See ``Tracker``."""
        self._give_up()
        if self._away is not None:
            self._away.drop()
        self._away = self._back = None
        self._tracker.reset()

    def _begin(self, frame: int, reverse: bool, stopped: Callable[[], bool]) -> _Begun:
        """Read a frame, and queue its tracking."""
        self._take_back()
        with self._reading():
            self._frames[frame]
        before: list[RememberedTracks] = []
        given_up = threading.Event()

        def advance() -> FrameMasks | None:
            self._resume()
            before[:] = [self._tracker.remembered()]
            return next(self._tracker.propagate(frame, 1, reverse=reverse), None)

        found = self._run(advance, lambda: given_up.is_set() or stopped())
        return _Begun(frame, reverse, found, before, given_up)

    def _asked(
        self, frame: int, reverse: bool, stopped: Callable[[], bool]
    ) -> Future[FrameMasks | None]:
        """A frame, asked for ahead or else at once."""
        begun = self._ahead
        if begun is None or not begun.is_for(frame, reverse):
            self._give_up()
            begun = self._begin(frame, reverse, stopped)
        self._ahead = None
        return begun.found

    def _give_up(self) -> None:
        """Make the frame ahead one that was never asked for: what computes it ends at the next step
        of its computation, and is waited for."""
        begun, self._ahead = self._ahead, None
        if begun is None:
            return
        if not begun.end():
            failure_of(begun.found)
        for before in begun.before:
            self._tracker.go_back(before)

    def _watched(self, found: FrameMasks) -> list[TrackedObject]:
        """The objects on a tracked frame, with what is known of its scene."""
        elsewhere = self._watch.see(found.frame, found.object_ids, found.look)
        objects = _objects(found, self._speck_share)
        return [
            _in_another_scene(each) if strange else each
            for each, strange in zip(objects, elsewhere, strict=True)
        ]

    def _take_back(self) -> None:
        """In the calling thread, which may read the disk for it."""
        if self._away is not None:
            self._back = self._away.take()
            self._away = None

    def _resume(self) -> None:
        if self._back is not None:
            self._tracker.resume(self._back)
            self._back = None


def _in_another_scene(found: TrackedObject) -> TrackedObject:
    """Without its mask, if the model is not sure of it: what was marked may not be there at all."""
    if found.iou >= SURE_IOU:
        return replace(found, elsewhere=True)
    nothing = np.zeros((found.mask.height, found.mask.width), bool)
    return replace(found, mask=PackedMask.pack(nothing), elsewhere=True)


def _objects(found: FrameMasks, speck_share: float) -> list[TrackedObject]:
    return [
        TrackedObject(
            str(name), PackedMask.pack(clean(mask, speck_share)), float(iou), float(score)
        )
        for name, mask, iou, score in zip(
            found.object_ids, found.masks, found.ious, found.object_scores, strict=True
        )
    ]
