"""The engine interface: what the service asks of the model, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.pixels.recipes import ImageSource


class EngineError(ExpectedError):
    """Why there is no mask, in a sentence fit for the annotator."""


class NotReady(EngineError):
    """The model is still loading, or could not be loaded."""


class OutOfMemory(EngineError):
    """The device has no memory left for what was asked, though the caches were emptied."""


class State(StrEnum):
    """What the model is doing."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """``detail`` is a sentence: how long it has been loading, or why it failed."""

    state: State
    detail: str


class Embedded(Protocol):
    """An encoded image as the engine hands it out; opaque but for its size."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def side(self) -> int:
        """Of the square that the network saw, in its pixels."""
        ...


@dataclass(frozen=True)
class Segment:
    """One mask: bool ``[H, W]``, predicted IoU in 0..1, low-resolution logits ``[1, h, w]``."""

    mask: np.ndarray
    score: float
    logits: np.ndarray


class Frames(Protocol):
    """A video or a sequence of images; every frame uint8 RGB ``[H, W, 3]``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class TrackedObject:
    """One object on one frame: its mask, predicted IoU in 0..1, and the logit of its presence
    (above 0: it is there; the mask is empty where it is not)."""

    object_id: str
    mask: PackedMask
    iou: float
    presence: float


class Tracker(Protocol):
    """Objects through one sequence of frames; for one thread at a time.

    Every frame is a job of its own for the model, so that trackers take turns; clicks go between
    the steps of its computation.
    """

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        """Say where an object is on a frame, and get its mask there."""
        ...

    def step(
        self,
        start: int,
        count: int,
        *,
        reverse: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        """Carry all objects through ``count`` frames from ``start``; work is done only while
        the iterator is asked for its next frame.

        Where ``stopped``, asked from another thread now and then while a frame is computed, says
        so, that frame is given up and the iterator ends.
        """
        ...


class Engine(Protocol):
    """Encodes images and answers prompts; every method may be called from any thread."""

    @property
    def model_version(self) -> str:
        """Names model, weights and input size; known before the model is loaded."""
        ...

    @property
    def family(self) -> str:
        """The version of the model before any fine-tuning: tracks are kept by it, so that they
        outlast the weights that made them."""
        ...

    def status(self) -> Status:
        """What the model is doing now."""
        ...

    @property
    def busy_seconds(self) -> float:
        """How long the model has been at the step of a call it runs now; 0 while it rests."""
        ...

    def wait_ready(self, timeout: float) -> None:
        """Return when the model is loaded.

        Raises:
            NotReady: it failed to load, or is still loading after ``timeout`` seconds.
        """
        ...

    def embed(self, image: ImageSource, priority: Priority, timeout: float) -> Embedded:
        """The embedding of ``image``: cached, joined to an encode under way, or encoded now.

        Raises:
            NotReady, Busy: as above; the encode goes on for those who ask later.
        """
        ...

    def segment(
        self,
        image: Embedded,
        prompts: Sequence[PixelPrompt],
        priority: Priority,
        timeout: float,
    ) -> list[Segment]:
        """One mask for each prompt, in order.

        Raises:
            NotReady, Busy: as above.
        """
        ...

    def open_tracker(self, frames: Frames) -> Tracker:
        """A tracker over ``frames``, which are asked for as they are needed.

        Raises:
            NotReady: the model is not loaded.
        """
        ...

    def drain(self) -> None:
        """Take nothing more; those who wait get ``Busy``. What runs goes on."""
        ...

    def close(self) -> None:
        """Finish what runs and release the model."""
        ...
