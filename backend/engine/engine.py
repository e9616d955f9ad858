"""The engine interface: what the service asks of the model, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.engine.embedding_disk import DiskRoom
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt, UnusableShape
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.labelstudio.geometry import Box
from backend.labelstudio.prompts import ObjectPrompt
from backend.pixels.recipes import FramesRecipe, ImageRecipe
from backend.threads.fair_queue import Busy


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of ``sam2model.build_model`` as the operator chose them.

    Attributes:
        track_memory: the name of a policy of ``sam2model.memory_policy``, for trackers; one keeps
            the policy that it began with.
        family: the version of the model that this one was fine-tuned from, at the very beginning;
            None for that model itself.
    """

    variant: str
    checkpoint: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    image_size: int | None = None
    num_mask_memories: int = 7
    track_memory: str = "reference"
    family: str | None = None

    @property
    def version(self) -> str:
        """What Label Studio shows and stores as the model version."""
        parts = [self.variant]
        if self.checkpoint is not None:
            parts.append(self.checkpoint.stem)
        if self.image_size is not None:
            parts.append(f"{self.image_size}px")
        return "-".join(parts)


class EngineError(ExpectedError):
    """Why there is no mask, in a sentence fit for the annotator."""


class NotReady(EngineError):
    """The model is still loading, or could not be loaded."""


class OutOfMemory(EngineError):
    """The device has no memory left for what was asked, though the caches were emptied."""


class Moved(EngineError):
    """What had the model is gone, with the trackers it held; something else can do the work.

    Attributes:
        died: it ended while it was at work for the caller, who may be the reason.
    """

    def __init__(self, died: bool = False) -> None:
        super().__init__("the model has moved; try again in a moment")
        self.died = died

    def __reduce__(self) -> tuple[type[Moved], tuple[bool]]:
        return type(self), (self.died,)


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


@dataclass(frozen=True)
class Vitals:
    """How a replica is: one of several processes that have the model.

    Attributes:
        name: unique.
        node: address of the machine.
        version: of the model that answers.
        refused: of the model that could not be loaded, the last time one was to replace another;
            empty where it could.
        waiting: calls for the model that wait.
        trackers: open ones.
        device: where the model computes, and in which numbers.
    """

    name: str
    node: str
    state: State
    detail: str
    version: str
    refused: str
    waiting: int
    trackers: int
    device: str


@dataclass(frozen=True)
class Answer:
    """The model's mask for a prompt, of the whole picture, and its predicted IoU in 0..1."""

    mask: PackedMask
    score: float


Outcome = Answer | UnusableShape | Busy
"""What became of a prompt: its mask, or why its region cannot be used, or that there was no
time."""


MOST_OBJECTS = 300
"""The most objects that a picture is searched for."""


@dataclass(frozen=True)
class Everything:
    """The objects that were found on a picture without being asked for one by one.

    Attributes:
        answers: a mask for each, of the whole picture; none overlaps another, or what was taken.
        more: how many were found beyond those asked for.
        looked: the share of the places where objects were looked for, 0 to 1; less than 1 where
            the time ended, and the next call goes on from there.
        overlapping: how many were left out because a better one, or what was taken, covers them.
    """

    answers: tuple[Answer, ...]
    more: int
    looked: float
    overlapping: int = 0


@dataclass(frozen=True)
class SeenMask:
    """The mask of a tracked object on another page: what a correction builds on.

    Attributes:
        page: from 0.
        mask: empty where the object is absent.
        prompted: a human marked it there, and it was not tracked.
    """

    image: ImageRecipe
    page: int
    mask: PackedMask
    prompted: bool


@dataclass(frozen=True)
class TrackedPage:
    """A page of a track, with what is known of one object.

    Attributes:
        page: from 0.
        pages: how many there are.
        mask: what is shown of the object on this page.
        others: what is known of it on other pages, what matters most first.
        reverse: it was tracked going towards the first page.
    """

    page: int
    pages: int
    mask: PackedMask
    others: tuple[SeenMask, ...]
    reverse: bool = False


class Frames(Protocol):
    """A video or a sequence of images; every frame uint8 RGB ``[H, W, 3]``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class TrackedObject:
    """One object on one frame.

    Attributes:
        mask: empty where the object is absent, or left out, see ``elsewhere``.
        iou: predicted IoU of the mask, in 0..1.
        presence: logit: above 0, it is there.
        elsewhere: the picture has cut to a scene in which the object was not marked. A mask that
            the model is not sure of is left out there.
    """

    object_id: str
    mask: PackedMask
    iou: float
    presence: float
    elsewhere: bool = False


class Tracker(Protocol):
    """Objects through one sequence of frames; for one thread at a time. Every method may raise
    ``Moved``: what was stored of it is all that is left then.

    Every frame is a job of its own for the model, so that trackers take turns; clicks go between
    the steps of its computation.
    """

    @property
    def weights(self) -> str:
        """The version of the model that it has, whatever replaces that meanwhile."""

    def prompt(self, frame: int, object_id: str, prompt: PixelPrompt) -> TrackedObject:
        """Say where an object is on a frame, and get its mask there."""

    def step(
        self,
        start: int,
        count: int,
        *,
        reverse: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, list[TrackedObject]]]:
        """Carry all objects through ``count`` frames from ``start``; work is done only while
        the iterator is asked for its next frame, but for one frame ahead.

        Where ``stopped``, asked from another thread now and then while a frame is computed, says
        so, that frame is given up and the iterator ends.
        """

    def suspend(self) -> None:
        """Nothing is asked of it for a while: give up what others may need meanwhile. Not while it
        computes. Whatever is asked next takes all of it back, and gives the masks that it would
        have given anyway; an iterator of ``step`` goes on.

        Raises:
            EngineError, Busy: there is no room for what it remembers; it is as if not asked.
        """

    def close(self) -> None:
        """Free what is remembered of frames and objects; nothing is asked of it any more."""


class Engine(Protocol):
    """Answers prompts on images and opens trackers; every method may be called from any thread."""

    @property
    def model_version(self) -> str:
        """Names model, weights and input size; known before the model is loaded."""

    @property
    def family(self) -> str:
        """The version of the model before any fine-tuning: tracks are kept by it, so that they
        outlast the weights that made them."""

    def status(self) -> Status:
        """What the model is doing now."""

    @property
    def replicas(self) -> Sequence[Vitals]:
        """How each replica is; none where the model is in this process."""

    @property
    def busy_seconds(self) -> float:
        """How long the model has been at the step of a call it runs now; 0 while it rests."""

    def wait_ready(self, timeout: float) -> None:
        """Return when the model is loaded.

        Raises:
            NotReady: it failed to load, or is still loading after ``timeout`` seconds.
        """

    def embed(self, image: ImageRecipe, priority: Priority, timeout: float) -> None:
        """Encode ``image`` ahead: it is encoded now, joined to an encode under way, or found to
        be encoded already.

        Raises:
            NotReady, Busy: as above; the encode goes on for those who ask later.
            MediaError, VideoError: the image cannot be had, or decoded.
        """

    def disk_room(self, timeout: float) -> DiskRoom:
        """How many embeddings are kept on the disk, where they outlive a restart.

        Raises:
            NotReady, Busy: as above.
        """

    def answer(
        self,
        image: ImageRecipe,
        prompts: Sequence[ObjectPrompt],
        priority: Priority,
        timeout: float,
        *,
        zoom: bool = False,
        refine: bool = False,
    ) -> list[Outcome]:
        """What becomes of each prompt on an image, in order.

        Args:
            timeout: seconds, encoding the image included where it is not encoded yet.
            zoom: look closely at objects that are small in a large image, see ``zoom.py``.
            refine: take the last point of a prompt for a correction of the answer to its other
                points and its box, where that was asked of the same image a while ago. The logits
                of such answers stay here.

        Raises:
            NotReady, Busy: as above, before the first prompt; the encode goes on for those who ask
                later.
            MediaError, VideoError: the image cannot be had, or decoded.
        """

    def correct(
        self, image: ImageRecipe, prompt: ObjectPrompt, seen: TrackedPage, timeout: float
    ) -> Answer:
        """The mask of a tracked object on a page, improved by clicks, with all that is known of
        the object. Pages that are not encoded yet, and would take long, are left out.

        Raises as ``answer`` does.
        """

    def everything(
        self,
        image: ImageRecipe,
        priority: Priority,
        timeout: float,
        *,
        within: Box | None = None,
        taken: Sequence[ObjectPrompt] = (),
        most: int = MOST_OBJECTS,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Everything:
        """Find all objects of an image, batch by batch, so that clicks go between. What was found
        when the time ends is the answer, and is remembered for a while.

        Args:
            within: look in this box only, for what mostly lies in it.
            taken: regions, boxes and shapes, that are labelled already: objects there are left out.
            most: objects to answer with, up to ``MOST_OBJECTS``.
            stopped: asked from another thread now and then; where it says so, what was found so far
                is the answer.

        Raises:
            UnusableShape: the box is too small.
            NotReady, Busy, MediaError, VideoError: as ``answer``, before the search has begun.
        """

    def open_tracker(self, frames: FramesRecipe, chosen: Sequence[int] | None = None) -> Tracker:
        """A tracker over ``frames``, which are read as they are needed. Its masks have the sizes
        of the frames as they are stored, which may differ between pages.

        Args:
            chosen: track only these, ascending, all prompted ones among them; the masks between
                are interpolated, see ``StridedTracker``.

        Raises:
            NotReady: the model is not loaded.
            MediaError, VideoError, Busy: the frames cannot be had, read, or not in time.
        """

    def replace(self, choice: ModelChoice) -> None:
        """Load other weights of the same family, and answer with them from the next request on.

        They are loaded while the present ones answer; tracks under way keep those they began with.
        Embeddings stay where the image encoder is the same.

        Raises:
            Exception: they cannot be loaded; the present ones stay.
        """

    def drain(self) -> None:
        """Take nothing more; those who wait get ``Busy``. What runs goes on."""

    def close(self) -> None:
        """Finish what runs and release the model."""
