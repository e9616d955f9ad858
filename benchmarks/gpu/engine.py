"""The service's engine on a device, with pictures and frames that are made here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from backend.engine.building import ModelChoice
from backend.engine.engine import TrackedObject, Tracker
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource, PixelResolver
from benchmarks.support.clips import MovingDiscs

SIDE = 256
LONG = 1_000_000  # frames, more than are tracked
PATIENCE = 300.0


class _Given:
    """Takes pictures and frames for their recipes."""

    def find(self, image: ImageSource, deadline: float) -> ImageSource:
        return image

    def masks(self, seconds: float) -> None:
        return None

    def frames(self, frames: MovingDiscs) -> _Frames:
        return _Frames(frames)


class _Frames:
    """As much of ``VideoFrames`` as a tracker needs."""

    def __init__(self, clip: MovingDiscs) -> None:
        self._clip = clip

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._clip[index]

    def frame_size(self, index: int) -> tuple[int, int]:
        return SIDE, SIDE

    def suspend(self) -> None:
        """There is nothing to free."""

    def close(self) -> None:
        """There is nothing to free."""


class Bench:
    """An engine with its model loaded; close it."""

    def __init__(self, variant: str, device: torch.device) -> None:
        self.metrics = Metrics()
        self.choice = ModelChoice(variant, device=str(device))
        self.engine = LocalEngine(
            self.choice,
            cast(PixelResolver, _Given()),
            cache_bytes=1 << 30,
            metrics=self.metrics,
        )
        self.engine.wait_ready(PATIENCE)

    def close(self) -> None:
        """Free all."""
        self.engine.close()

    def answer(self, picture: int, x: int) -> np.ndarray:
        """The mask of a click on a picture, bool ``[SIDE, SIDE]``."""
        source = ImageSource(str(picture), lambda: MovingDiscs(picture + 1, SIDE)[picture])
        point = PointPrompt(100 * x / SIDE, 30.0)
        asked = [ObjectPrompt("image", points=(point,))]
        [found] = self.engine.answer(cast(Any, source), asked, Priority.CLICK, PATIENCE)
        if isinstance(found, Exception):
            raise found
        return found.mask.unpack()

    def click(self, picture: int, x: int) -> float:
        """Seconds of a click on a picture."""
        begun = time.perf_counter()
        self.answer(picture, x)
        return time.perf_counter() - begun

    def tracker(self, objects: int, frames: int = LONG) -> Tracker:
        """A track of that many objects, prompted on frame 0."""
        tracker = self.engine.open_tracker(cast(Any, MovingDiscs(frames, SIDE)))
        for each in range(objects):
            box = np.array([20 + 8 * each, 30, 120 + 8 * each, 160], np.float32)
            tracker.prompt(0, str(each), PixelPrompt(box=box))
        return tracker

    def followed(self, objects: int, frames: int) -> list[tuple[int, list[TrackedObject]]]:
        """The masks of a track."""
        tracker = self.tracker(objects, frames)
        try:
            return list(tracker.step(0, frames, reverse=False))
        finally:
            tracker.close()

    @contextmanager
    def tracking(self, tracks: int) -> Iterator[Callable[[], int]]:
        """That many tracks run inside; gives how many frames were tracked."""
        ended = threading.Event()
        done = [0] * tracks

        def track(number: int) -> None:
            tracker = self.tracker(1)
            for _ in tracker.step(0, LONG, reverse=False, stopped=ended.is_set):
                done[number] += 1
                if ended.is_set():
                    break
            tracker.close()

        threads = [threading.Thread(target=track, args=(number,)) for number in range(tracks)]
        for each in threads:
            each.start()
        try:
            yield lambda: sum(done)
        finally:
            ended.set()
            for each in threads:
                each.join()
