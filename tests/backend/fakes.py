"""Stand-ins for the model: quick, countable, and able to be slow or broken on purpose."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np

from tests.pixels.in_process import decoded_mask
from tests.waiting import LONGER


class Gate(threading.Event):
    """Open at first; while it is cleared, it holds who comes to it. ``reached`` tells whether
    somebody has come since."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.set()

    def clear(self) -> None:
        self.reached.clear()
        super().clear()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.wait(LONGER)


class AsGiven:
    """Takes images with their pixels, and frames, for recipes."""

    def find(self, image, deadline):
        return image

    def masks(self, seconds):
        return decoded_mask

    def frames(self, frames):
        return GivenFrames(frames)


class GivenFrames:
    """As much of ``VideoFrames`` as a tracker needs."""

    def __init__(self, frames):
        self._frames = frames

    def __len__(self):
        return len(self._frames)

    def __getitem__(self, index):
        return self._frames[index]

    def frame_size(self, index):
        return self._frames[index].shape[1::-1]

    def suspend(self):
        """There is nothing to free."""

    def close(self):
        """They are not its own."""


@dataclass(frozen=True)
class FakeEmbedding:
    pixels: np.ndarray
    nbytes: int = 1000

    @property
    def original_size(self):
        return self.pixels.shape[:2]

    @property
    def features(self):
        return self.pixels


@dataclass(frozen=True)
class FakePrediction:
    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


class FakePredictor:
    """The mask of a prompt is the box, or a disc of 20 pixels around each positive click; on a
    tracked frame, what was tracked with that disc, or without the one of a negative click."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(image_size=256, state_dict=dict)
        self.embeds = 0
        self.calls: list[dict] = []
        self.batches: list[int] = []  # how many boxes were decoded at once
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()

    def embed(self, pixels):
        self.embeds += 1
        self.entered.set()
        assert self.hold.wait(LONGER)
        return FakeEmbedding(pixels)

    def predict(
        self,
        embedding,
        points=None,
        labels=None,
        box=None,
        mask=None,
        multimask=True,
        memory=None,
        heed=None,
    ):
        call = {"points": points, "labels": labels, "box": box, "mask": mask}
        self.calls.append({**call, "multimask": multimask, "memory": memory})
        height, width = embedding.pixels.shape[:2]
        rows, columns = np.mgrid[:height, :width]
        found = np.zeros((height, width), bool)
        if memory is not None:  # of an object that was tracked here
            found = cv2.resize(np.asarray(mask[0], np.float32), (width, height)) > 0
        if box is not None:
            x0, y0, x1, y1 = box
            found |= (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
        for (x, y), label in zip(
            points if points is not None else (), labels if labels is not None else (), strict=True
        ):
            disc = (columns - x) ** 2 + (rows - y) ** 2 <= 20**2
            found = found | disc if label else found & ~disc
        small = cv2.resize(found.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
        return FakePrediction(found[None], np.array([0.9]), small[None] * 20 - 10)

    def predict_boxes(self, embedding, boxes):
        self.batches.append(len(boxes))
        return [self.predict(embedding, box=box, multimask=False) for box in boxes]


@dataclass(frozen=True)
class FakeFrameMasks:
    frame: int
    object_ids: tuple
    masks: np.ndarray
    object_scores: np.ndarray
    ious: np.ndarray
    look: np.ndarray | None = None


class FakeVideoTracker:
    """Objects move one pixel to the right per frame from their nearest earlier prompt.

    A prompt is a mask, a box, or a disc of 20 pixels around a click. ``steps`` counts frames
    tracked, over all trackers that share the list.
    """

    def __init__(self, frames, steps, hold):
        self.frames, self.steps, self.hold = frames, steps, hold
        self.prompts: dict[str, dict[int, np.ndarray]] = {}

    def prompt(self, frame, object_id, points=None, labels=None, box=None, mask=None):
        self.hold.pass_through()
        height, width = self.frames[frame].shape[:2]
        if mask is None:
            fake = FakePredictor()
            blank = FakeEmbedding(np.zeros((height, width, 3)))
            mask = fake.predict(blank, points, labels, box).masks[0]
        self.prompts.setdefault(object_id, {})[frame] = mask
        return FakeFrameMasks(frame, (object_id,), mask[None], np.full(1, 5.0), np.full(1, 0.9))

    def propagate(self, start, count, reverse):
        for frame in range(start, start - count, -1) if reverse else range(start, start + count):
            self.hold.pass_through()
            self.frames[frame]
            self.steps.append(frame)
            names = tuple(self.prompts)
            masks = np.stack([self._moved(self.prompts[name], frame, reverse) for name in names])
            yield FakeFrameMasks(
                frame, names, masks, np.full(len(names), 5.0), np.full(len(names), 0.9)
            )

    def remembered(self):
        """Tracking changes nothing."""

    def go_back(self, to):
        """There is nothing to undo."""

    def reset(self):
        self.prompts.clear()

    @staticmethod
    def _moved(prompts, frame, reverse):
        ruling = [f for f in prompts if (f >= frame if reverse else f <= frame)]
        if not ruling:
            return np.zeros_like(next(iter(prompts.values())))
        anchor = min(ruling) if reverse else max(ruling)
        return np.roll(prompts[anchor], frame - anchor, axis=1)
