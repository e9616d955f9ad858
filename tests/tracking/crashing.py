"""A process whose jobs end it: ``python -m tests.tracking.crashing STORE [JOB ...]``.

Takes up what is unfinished in the store, begins the named jobs, and ends when all have ended. The
name of a job says what it does to the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.engine.engine import TrackedObject, Tracker
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Direction, Goal, plan_spans
from backend.tracking.store import TrackStore

FRAMES = 12
MASK = np.eye(4, dtype=bool)


def die() -> None:
    """End as a defect in a library written in C ends a process."""
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait()


class DeadlyTracker:
    """A tracker of one object that does what its job is called.

    Args:
        hold: waits, before the mask that a job ends the process or stops at.
        held: whether healthy jobs are to be running still when the process ends.
    """

    weights = ""

    def __init__(self, does: str, hold: Callable[[], None], *, held: bool) -> None:
        self._does, self._hold, self._held = does, hold, held
        self._stepped = 0

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        if self._does in ("at once", "waits"):
            self._hold()
        if self._does == "at once":
            die()
        return TrackedObject("a", PackedMask.pack(MASK), 0.9, 5.0)

    def step(
        self,
        start: int,
        count: int,
        *,
        reverse: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        if self._does == "healthy" and self._held:
            threading.Event().wait()
        for frame in range(start, start + count):
            if self._does == "now and then" and self._stepped == 3:
                die()
            self._stepped += 1
            yield frame, [TrackedObject("a", PackedMask.pack(MASK), 0.9, 5.0)]

    def suspend(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class DeadlyEngine:
    """As much of an ``Engine`` as jobs need; frames are what their job does."""

    hold: Callable[[], None]
    held: bool = False
    broken: bool = False

    def wait_ready(self, timeout: float) -> None:
        if self.broken:
            die()

    def open_tracker(self, frames: Any, chosen: Sequence[int] | None = None) -> Tracker:
        return DeadlyTracker(str(frames), self.hold, held=self.held)


def open_work(request: Mapping[str, Any]) -> Work:
    prompts = {0: PixelPrompt(mask=MASK)}
    spans = plan_spans(prompts, first=0, last=FRAMES - 1, direction=Direction.FORWARD)
    frames: Any = request["does"]
    return Work(frames, [Goal("a", prompts, {0: "digest"}, spans)])


def request(name: str) -> dict[str, str]:
    """Of the job called ``name``, each in a project of its own; "healthy 1" is healthy."""
    return {"project": name, "does": name.rstrip(" 0123456789")}


def crashing_jobs(store: TrackStore, engine: DeadlyEngine) -> JobRunner:
    of_kind: Any = engine
    return JobRunner(store, of_kind, open_work, hand_over=lambda job: None, workers=4)


def main() -> None:
    path, *names = sys.argv[1:]
    broken = "--broken-model" in names
    begun = [name for name in names if not name.startswith("--")]
    store = TrackStore(Path(path))

    def hold() -> None:
        """Until all jobs that were begun here are under way."""
        while begun and not all(job.under_way for job in store.jobs(unfinished=True)):
            time.sleep(0.01)

    runner = crashing_jobs(store, DeadlyEngine(hold, held="at once" in begun, broken=broken))
    runner.resume()
    for name in begun:
        runner.submit(name, request(name))
    while unfinished := store.jobs(unfinished=True):
        runner.wait(unfinished[0].id, 60.0)
    runner.close()
    store.close()


if __name__ == "__main__":
    main()
