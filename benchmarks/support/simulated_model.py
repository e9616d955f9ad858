"""Stand-ins for the model in the replicas of a cluster, on a machine that has no GPU.

``make`` gives an engine without a network: whatever is asked takes a stated time, in which it
sleeps, and is answered with a disc. So two cores carry many replicas, and what is measured is all
that lies around the model. ``make_paced`` gives the engine with its real weights, of which every
tracked frame takes a stated time at least, and is noted in a file.

``gunicorn "benchmarks.support.simulated_model:application()"`` is the whole service over replicas
of the first kind.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from flask import Flask

from backend import wsgi
from backend.engine.building import ModelChoice, build_video_tracker
from backend.engine.local import LocalEngine
from backend.metrics import Metrics
from backend.settings import Settings
from backend.threads.caller import caller
from backend.wiring import Wiring
from sam2model.track_memory import SuspendedTracks

MAKE, MAKE_PACED = f"{__name__}:make", f"{__name__}:make_paced"
SECONDS, NOTES = "SIMULATED_SECONDS", "SIMULATED_NOTES"  # variables
STEP_SECONDS = 0.02
"""Between two yield points, where a click goes before the rest of a frame or a picture."""
RADIUS = 20


@dataclass(frozen=True)
class Seconds:
    """What the model takes to encode a picture, to answer a prompt, and to track a frame."""

    encode: float
    prompt: float
    frame: float

    def variable(self) -> dict[str, str]:
        """For the environment of whoever makes the engines."""
        return {SECONDS: json.dumps(asdict(self))}

    @classmethod
    def given(cls) -> Seconds:
        """Those of the environment."""
        return cls(**json.loads(os.environ[SECONDS]))


def rest(seconds: float, yield_to: Callable[[], None]) -> None:
    """Take so long as a device would; what goes before the rest comes on top."""
    left = seconds
    while left > 0:
        begun = time.monotonic()
        time.sleep(min(left, STEP_SECONDS))
        left -= time.monotonic() - begun
        yield_to()


@dataclass(frozen=True)
class Embedding:
    """Of a picture: nothing but its size."""

    original_size: tuple[int, int]
    nbytes: int = 1 << 20


@dataclass(frozen=True)
class Prediction:
    """See ``sam2model.Prediction``."""

    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class FrameMasks:
    """See ``sam2model.FrameMasks``."""

    frame: int
    object_ids: tuple[str, ...]
    masks: np.ndarray
    ious: np.ndarray
    object_scores: np.ndarray
    look: None = None


class Network(torch.nn.Module):
    """As much of one as the engine looks at."""

    image_size = 256
    device = torch.device("cpu")


class Predictor:
    """See ``ImagePredictor``: the mask of a prompt is a disc around its first point, or the middle
    of its box."""

    def __init__(self, seconds: Seconds, yield_to: Callable[[], None]) -> None:
        self.model = Network()
        self._seconds, self._yield_to = seconds, yield_to

    def embed(self, pixels: np.ndarray) -> Embedding:
        """Take the time of an encoding."""
        rest(self._seconds.encode, self._yield_to)
        return Embedding((pixels.shape[0], pixels.shape[1]))

    def predict(self, embedding: Embedding, **prompt: Any) -> Prediction:
        """Take the time of a prompt."""
        rest(self._seconds.prompt, lambda: None)
        mask = disc(embedding.original_size, prompt)
        logits = cv2.resize(mask.astype(np.float32), (64, 64)) * 20 - 10
        return Prediction(mask[None], np.array([0.9], np.float32), logits[None])

    def predict_boxes(self, embedding: Embedding, boxes: np.ndarray) -> list[Prediction]:
        """Take the time of one prompt."""
        found = [disc(embedding.original_size, {"box": box}) for box in boxes]
        first = self.predict(embedding, box=boxes[0])
        return [Prediction(mask[None], first.scores, first.logits) for mask in found]


class Tracker:
    """See ``VideoTracker``: objects stay where they are."""

    def __init__(self, frames: Any, seconds: Seconds, yield_to: Callable[[], None]) -> None:
        self._frames, self._seconds, self._yield_to = frames, seconds, yield_to
        self._masks: dict[str, np.ndarray] = {}

    def prompt(
        self, frame: int, object_id: str, mask: np.ndarray | None = None, **prompt: Any
    ) -> FrameMasks:
        """Take the time of a prompt."""
        rest(self._seconds.prompt, self._yield_to)
        size = self._frames[frame].shape[:2]
        self._masks[object_id] = disc(size, prompt) if mask is None else mask
        return self._found(frame)

    def propagate(self, start: int, count: int, reverse: bool) -> Iterator[FrameMasks]:
        """Take the time of a frame for each."""
        for number in range(count):
            rest(self._seconds.frame, self._yield_to)
            yield self._found(start - number if reverse else start + number)

    def remembered(self) -> None:
        """Frames change nothing."""

    def go_back(self, to: None) -> None:
        """There is nothing to undo."""

    def suspend(self) -> SuspendedTracks:
        """Nothing is on a device."""
        return SuspendedTracks({}, {}, next=None, nbytes=0)

    def resume(self, suspended: SuspendedTracks) -> None:
        """Nothing was given away."""

    def reset(self) -> None:
        """Forget all."""
        self._masks.clear()

    def _found(self, frame: int) -> FrameMasks:
        count = len(self._masks)
        masks = np.stack(list(self._masks.values()))
        return FrameMasks(frame, tuple(self._masks), masks, np.full(count, 0.9), np.full(count, 5))


def disc(size: tuple[int, int], prompt: dict[str, Any]) -> np.ndarray:
    """bool ``[H, W]``."""
    points, box = prompt.get("points"), prompt.get("box")
    if points is not None:
        x, y = points[0]
    else:
        x, y = np.zeros(2) if box is None else np.reshape(box, (2, 2)).mean(axis=0)
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, (int(x), int(y)), RADIUS, 1, -1)
    return mask.view(bool)


class PacedTracker:
    """A ``VideoTracker`` of which every frame takes so long at least."""

    def __init__(
        self, tracker: Any, seconds: float, notes: Path | None, yield_to: Callable[[], None]
    ) -> None:
        self._tracker, self._seconds, self._notes = tracker, seconds, notes
        self._yield_to = yield_to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def propagate(self, start: int, count: int, reverse: bool) -> Iterator[Any]:
        """See ``VideoTracker``."""
        frames = self._tracker.propagate(start, count, reverse=reverse)
        while True:
            if self._notes is not None:
                with self._notes.open("a") as file:
                    file.write(f"{os.getpid()} {caller().job or '-'}\n")
            begun = time.monotonic()
            found = next(frames, None)
            if found is None:
                return
            rest(self._seconds - (time.monotonic() - begun), self._yield_to)
            yield found


def make(choice: ModelChoice, *, speck_share: float) -> tuple[LocalEngine, Metrics]:
    """See ``replica.Make``: an engine that sleeps."""
    wiring, seconds = Wiring(Settings.from_env(os.environ)), Seconds.given()
    engines: list[LocalEngine] = []

    def yield_to() -> None:
        engines[0]._thread.yield_point()

    engine = wiring.local_engine(
        choice,
        speck_share,
        build=lambda _: Predictor(seconds, yield_to),
        build_tracker=lambda _, frames: Tracker(frames, seconds, yield_to),
    )
    engines.append(engine)
    return engine, wiring.metrics


def make_paced(choice: ModelChoice, *, speck_share: float) -> tuple[LocalEngine, Metrics]:
    """See ``replica.Make``: the engine, whose tracked frames take a while."""
    wiring = Wiring(Settings.from_env(os.environ))
    seconds = Seconds.given().frame
    notes = Path(os.environ[NOTES]) if NOTES in os.environ else None
    engines: list[LocalEngine] = []

    def build_tracker(predictor: Any, frames: Any) -> Any:
        yield_to = engines[0]._thread.yield_point
        tracker = build_video_tracker(choice, yield_to, predictor, frames)
        return PacedTracker(tracker, seconds, notes, yield_to)

    engine = wiring.local_engine(choice, speck_share, build_tracker=build_tracker)
    engines.append(engine)
    return engine, wiring.metrics


class SimulatedWiring(Wiring):
    """The service over replicas that sleep."""

    make_replica = MAKE


def application() -> Flask:
    """See ``backend.wsgi.application``."""
    return wsgi.application(SimulatedWiring)
