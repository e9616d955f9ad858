"""The loop: a few hundred steps of the trained parts, the best by held-out score kept."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.files import replacing
from sam2model.sam2 import SAM2
from training.finetuning.dataset import Dataset, Example, TooFewAnnotations, clips_of
from training.finetuning.parts import What, trained_names
from training.finetuning.scores import Scores, evaluate
from training.finetuning.steps import clip_losses, picture_losses

_BETAS = (0.9, 0.98)
_CLIP_NORM = 1.0
_CLIP_SHARE = 0.5  # of the steps, where there are clips and what they teach is trained
# Learning rates without and with the image encoder. Those of the demo network were measured
# (docs/finetuning.md); for official weights, which could not be had here, they are a guess on the
# careful side: they begin with far better features.
_RATES_SMALL = (3e-4, 2e-4)
_RATES_LARGE = (1e-4, 1e-5)
_LARGE_DIM = 256


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train.

    Attributes:
        what: which parts.
        steps: at most; the learning rate decays over them.
        seed: of everything random.
        rate: highest learning rate.
        batch: pictures per step.
        evaluate_every: steps.
        patience: evaluations without a better one before it stops.
        ema: decay of the moving average of the weights, which is what is scored and kept.
    """

    what: What = What.DECODER
    steps: int = 200
    seed: int = 0
    rate: float = 3e-4
    batch: int = 8
    evaluate_every: int = 25
    patience: int = 6
    ema: float = 0.98
    warm_up: int = 20
    weight_decay: float = 0.01

    @classmethod
    def default(cls, model: SAM2, what: What, steps: int, seed: int) -> Plan:
        """What served well; large networks and encoders are changed more carefully."""
        rates = _RATES_SMALL if model.variant.d_model < _LARGE_DIM else _RATES_LARGE
        return cls(what=what, steps=steps, seed=seed, rate=rates[what is What.ALL])

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to 2 %."""
        progress = step / max(self.steps, 1)
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * cosine


class Tuner:
    """Trains a model in place.

    What a step sees depends on the seed and its number only, so a run that was killed goes on from
    its checkpoint as if nothing had happened.

    Args:
        model: with the weights to start from.
        folder: where the checkpoint is kept.
    """

    def __init__(self, model: SAM2, dataset: Dataset, plan: Plan, folder: Path) -> None:
        self.model = model
        self.dataset = dataset
        self.plan = plan
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._path = folder / "state.pt"
        self._clips = [] if plan.what is What.DECODER else clips_of(dataset.train)
        if plan.what is What.DECODER_AND_MEMORY and not self._clips:
            raise TooFewAnnotations(
                "the memory learns from frame sequences, and no task has an object on two pages "
                "in a row; train the decoder alone"
            )
        self._names = trained_names(model, plan.what)
        parameters = dict(model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in set(self._names))
        self._trained = {name: parameters[name] for name in self._names}
        self._ema = self._copy()
        self._best = self._copy()
        self._key = self._name()
        self._optimizer = self._new_optimizer()

    @property
    def best_step(self) -> int:
        """The step whose weights scored best; 0: those it began with."""
        return int(max(self.curve, key=lambda row: row["score"])["step"]) if self.curve else 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or nothing better came for a while."""
        late = self.step - self.best_step >= self.plan.patience * self.plan.evaluate_every
        return self.step >= self.plan.steps or late

    def run(self, report: Callable[[], None] = lambda: None) -> Scores:
        """Train to the end; returns the scores of the best weights, which the model then has.

        Args:
            report: called after every evaluation, whose result stands in ``curve``.
        """
        self._restore()
        if not self.curve:
            self._evaluate()
            self._save()
            report()
        while not self.finished:
            self._train_step()
            if self.step % self.plan.evaluate_every == 0 or self.step >= self.plan.steps:
                self._evaluate()
                self._save()
                report()
        self._load(self._best)
        return evaluate(self.model.eval(), self.dataset)

    def _train_step(self) -> None:
        rng = np.random.default_rng([self.plan.seed, self.step])
        torch.manual_seed(int(rng.integers(2**31)))  # dropout
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        self.model.train()
        self._optimizer.zero_grad()
        if self._clips and rng.random() < _CLIP_SHARE:
            clip = self._clips[int(rng.integers(len(self._clips)))]
            losses = clip_losses(self.model, self.dataset, clip, rng)
        else:
            losses = picture_losses(self.model, self.dataset, self._batch(rng), rng)
        losses.total().backward()
        torch.nn.utils.clip_grad_norm_(self._trained.values(), _CLIP_NORM)
        self._optimizer.step()
        self.step += 1
        decay = min(self.plan.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self._trained.items():
                self._ema[name].lerp_(value, 1 - decay)

    def _batch(self, rng: np.random.Generator) -> Sequence[Example]:
        pictures = self.dataset.train
        chosen = rng.permutation(len(pictures))[: self.plan.batch]
        return [pictures[index] for index in chosen]

    def _evaluate(self) -> None:
        own = self._copy()
        self._load(self._ema)
        scores = evaluate(self.model.eval(), self.dataset)
        self._load(own)
        self.curve.append({"step": self.step, "score": scores.score, **scores.means})
        if self.best_step == self.step:
            self._best = {name: value.clone() for name, value in self._ema.items()}

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._trained.items()}

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self._trained[name].copy_(value)

    def _save(self) -> None:
        """Write the checkpoint."""
        state = {
            "key": self._key,
            "step": self.step,
            "curve": self.curve,
            "trained": self._copy(),
            "ema": self._ema,
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
        }
        with replacing(self._path) as partial:
            torch.save(state, partial)

    def _restore(self) -> None:
        """Go on from the checkpoint, where there is one of the same run."""
        if not self._path.exists():
            return
        state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        if state["key"] != self._key:
            return
        self._load(state["trained"])
        self._ema, self._best = state["ema"], state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve = state["step"], state["curve"]

    def _name(self) -> str:
        """Names the run: how, on what, and from which weights."""
        weights = hashlib.sha256()
        for value in self.model.state_dict().values():
            weights.update(value.cpu().contiguous().numpy().tobytes())
        parts = [asdict(self.plan), self.dataset.digest, weights.hexdigest()]
        return json.dumps(parts, sort_keys=True)

    def _new_optimizer(self) -> torch.optim.AdamW:
        matrices = [p for name, p in self._trained.items() if _decays(name, p)]
        others = [p for name, p in self._trained.items() if not _decays(name, p)]
        groups = [
            {"params": matrices, "weight_decay": self.plan.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.plan.rate, betas=_BETAS)


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and "embed" not in name and "token" not in name
