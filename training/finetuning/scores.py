"""How well a model does on held-out annotations, and whether another does better."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam2model.sam2 import SAM2
from training import prompts
from training.finetuning.dataset import Clip, Dataset, Example, clips_of
from training.losses import mask_iou
from training.unroll import MemoryBank, decode

MEASURES = ("click", "box", "corrections")
MIN_GAIN = 0.01
"""Gains of mean IoU below this are not worth a new version."""
NOISE = 2.0
"""A gain must exceed so many standard errors of its mean over tasks."""
_MAX_OBJECTS = 8
_MAX_CLIPS = 16
_CORRECTIONS = 3


@dataclass(frozen=True)
class Scores:
    """IoU of held-out objects.

    Attributes:
        ious: by measure, (task, IoU) of each object: after one click in its middle, for its box,
            after three corrective clicks; and where there are sequences, tracked from a box on
            the first page through the next, averaged over those.
    """

    ious: Mapping[str, Sequence[tuple[int, float]]]

    @property
    def means(self) -> dict[str, float]:
        """By measure."""
        return {name: float(np.mean([v for _, v in found])) for name, found in self.ious.items()}

    @property
    def objects(self) -> int:
        """How many were prompted."""
        return len(self.ious[MEASURES[0]])

    @property
    def score(self) -> float:
        """The mean of the measures' means: what checkpoints are compared by."""
        return float(np.mean(list(self.means.values())))

    def by_task(self) -> dict[int, float]:
        """Mean IoU over measures and objects of each task."""
        gathered: dict[int, list[float]] = defaultdict(list)
        for found in self.ious.values():
            for task, value in found:
                gathered[task].append(value)
        return {task: float(np.mean(values)) for task, values in gathered.items()}


@dataclass(frozen=True)
class Comparison:
    """A new model beside the old one, on the same annotations.

    Attributes:
        gain: of mean IoU, averaged over tasks.
        error: its standard error over tasks.
    """

    gain: float
    error: float

    @property
    def is_better(self) -> bool:
        """Whether the gain is worth it, and more than chance."""
        return self.gain >= MIN_GAIN and self.gain > NOISE * self.error

    def __str__(self) -> str:
        return f"{self.gain:+.3f} IoU (standard error {self.error:.3f})"


def compare(old: Scores, new: Scores) -> Comparison:
    """Compare two models on the same held-out annotations, task by task."""
    before, after = old.by_task(), new.by_task()
    gains = np.array([after[task] - before[task] for task in before])
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    return Comparison(float(gains.mean()), error)


@torch.no_grad()
def evaluate(model: SAM2, dataset: Dataset, examples: Sequence[Example] | None = None) -> Scores:
    """Score a model on held-out pictures, prompted without any chance.

    Args:
        model: in evaluation mode.
        examples: others than the dataset's held-out ones.
    """
    ious: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for example in dataset.held_out if examples is None else examples:
        truth = example.masks[:_MAX_OBJECTS]
        for name, values in _score(model, dataset, example, truth).items():
            ious[name] += [(example.task, value) for value in values]
    for clip in clips_of(dataset.held_out)[:_MAX_CLIPS] if examples is None else ():
        ious["tracking"] += [(clip.pages[0].task, value) for value in _track(model, dataset, clip)]
    return Scores(dict(ious))


def _track(model: SAM2, dataset: Dataset, clip: Clip) -> list[float]:
    """IoU of each object, averaged over the pages after the one with its box."""
    bank = MemoryBank(len(clip.pages))
    found = []
    for t, page in enumerate(clip.pages):
        features = dataset.features(model, [(page, 0)])
        conditioned = bank.condition(model, features.embedding, t)
        if t == 0:
            conditioned = conditioned.expand(len(clip.masks), -1, -1, -1)
            points = prompts.boxes(clip.masks[:, 0], None)
            answer = decode(model, conditioned, features.high_res, points)
        else:
            answer = decode(model, conditioned, features.high_res, None)
            truth = np.ascontiguousarray(clip.masks[:, t])
            found.append(_ious(_masks(model, answer.masked_logits), truth))
        bank.remember(model, features.embedding, answer, t, prompted=t == 0)
    return np.mean(found, axis=0).tolist()


def _score(
    model: SAM2, dataset: Dataset, example: Example, truth: np.ndarray
) -> dict[str, list[float]]:
    features = dataset.features(model, [(example, 0)])
    conditioned = model.without_memory(features.embedding).expand(len(truth), -1, -1, -1)
    box = decode(model, conditioned, features.high_res, prompts.boxes(truth, None))
    points = prompts.clicks(truth, None)
    answer = click = decode(model, conditioned, features.high_res, points)
    for _ in range(_CORRECTIONS):
        points = points.add(prompts.corrections(_masks(model, answer.logits), truth, None))
        previous = answer.logits.clamp(-32, 32)
        answer = decode(model, conditioned, features.high_res, points, previous)
    answers = (click, box, answer)
    return {
        name: _ious(_masks(model, each.logits), truth)
        for name, each in zip(MEASURES, answers, strict=True)
    }


def _masks(model: SAM2, logits: Tensor) -> np.ndarray:
    return (model.upscale(logits)[:, 0] > 0).numpy()


def _ious(masks: np.ndarray, truth: np.ndarray) -> list[float]:
    return mask_iou(torch.from_numpy(masks), torch.from_numpy(truth)).tolist()
