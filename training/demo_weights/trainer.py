"""One process's part of a training run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sam2model.sam2 import SAM2
from sam2model.variants import Variant
from training.demo_weights.arithmetic import training_arithmetic
from training.demo_weights.batches import clip_batch, image_batch
from training.demo_weights.initialisation import (
    calibrate_scales,
    fit_memory_norm,
    initialise,
    warm_up_decoder,
)
from training.demo_weights.library import Library
from training.demo_weights.optimizer import Optimizer
from training.demo_weights.schedule import Schedule, Stage
from training.demo_weights.state import RunState, update_ema
from training.losses import Losses, mean_losses
from training.unroll import clip_losses, image_losses

_SHORTEST_CLIP = 4
_MAX_CLIP_OBJECTS = 3


@dataclass(frozen=True)
class StepReport:
    """What one step did: its kind ("image" or "clip"), losses and the gradient's norm."""

    kind: str
    losses: Losses
    gradient_norm: float
    rate: float


class Trainer:
    """Model, optimizer and moving average, and how a step changes them.

    The pictures of a step depend on (seed, rank, step) only, so a run that was interrupted
    continues as if it had not been.

    Args:
        variant: what to train.
        schedule: how.
        library: of the "train" split.
        seed: of everything random.
        rank: number of this process among those that average their gradients.
        average: averages a flat tensor over the processes, in place.
    """

    def __init__(
        self,
        *,
        variant: Variant,
        schedule: Schedule,
        library: Library,
        seed: int,
        rank: int = 0,
        average: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.variant = variant
        self.schedule = schedule
        self.library = library
        self.seed = seed
        self.rank = rank
        self.decay: tuple[int, int] | None = None
        self.best = 0.0
        self.step = 0
        self._average = average
        self.model = SAM2(variant, schedule.stage(0).image_size).train()
        self.ema: dict[str, Tensor] = {}
        self._optimizer = Optimizer(self.model, schedule.peak_rate, schedule.weight_decay)

    def start(self) -> list[float]:
        """Begin at step 0; returns the losses of the decoder's warm-up."""
        initialise(self.model, self.seed)
        rng = np.random.default_rng([self.seed, 100])
        images, _ = image_batch(self.model.image_size, 16, 1, self.library, rng)
        calibrate_scales(self.model, images)
        history = warm_up_decoder(self.model, self.schedule.decoder_warm_up, self.seed)
        self.ema = {name: value.clone() for name, value in self.model.state_dict().items()}
        return history

    def restore(self, state: RunState) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state.model)
        self.ema = state.ema
        self._optimizer.load_state_dict(state.optimizer)
        self.step, self.best, self.decay = state.step, state.best, state.decay

    def state(self) -> RunState:
        """Everything a checkpoint needs."""
        return RunState(
            step=self.step,
            model=self.model.state_dict(),
            ema=self.ema,
            optimizer=self._optimizer.state_dict(),
            best=self.best,
            decay=self.decay,
        )

    @property
    def finished(self) -> bool:
        """Whether the final decay is over."""
        return self.decay is not None and self.step >= sum(self.decay)

    def train_step(self) -> StepReport:
        """Do the next step."""
        stage = self.schedule.stage(self.step)
        self._resize(stage.image_size)
        if self.step == self.schedule.first_clip_step():
            self._fit_memory_norm(stage)
        rate = self.schedule.learning_rate(self.step, self.decay)
        self._optimizer.set_rate(rate)
        kind = "clip" if self.schedule.is_clip_step(self.step, self.seed) else "image"
        rng = np.random.default_rng([self.seed, self.rank, self.step])
        self._optimizer.zero_grad()
        with training_arithmetic():
            losses = self._losses(kind, stage, rng)
        losses.total(self.schedule.balance(self.step)).backward()
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip_norm)
        self._optimizer.step()
        update_ema(self.ema, self.model, self.schedule.ema_decay(self.step))
        self.step += 1
        return StepReport(kind, losses, float(norm), rate)

    def evaluation_model(self) -> SAM2:
        """The averaged weights at the variant's own size, in evaluation mode."""
        model = SAM2(self.variant)
        model.load_state_dict(self.ema)
        return model.eval()

    def _losses(self, kind: str, stage: Stage, rng: np.random.Generator) -> Losses:
        if kind == "clip":
            return mean_losses([self._clip_losses(stage, rng) for _ in range(stage.clips)])
        images, masks = image_batch(
            stage.image_size,
            stage.images,
            stage.max_objects,
            self.library,
            rng,
            stage.plain,
            stage.portraits,
        )
        rounds = int(rng.integers(0, stage.corrections + 1))
        return image_losses(self.model, images, masks, rng, rounds)

    def _clip_losses(self, stage: Stage, rng: np.random.Generator) -> Losses:
        length = int(rng.integers(_SHORTEST_CLIP, stage.clip_length + 1))
        frames, masks = clip_batch(
            stage.image_size, length, _MAX_CLIP_OBJECTS, self.library, rng, stage.plain
        )
        return clip_losses(self.model, frames, masks, rng)

    def _resize(self, size: int) -> None:
        """Give the same parameters to a network for images of another size."""
        if self.model.image_size != size:
            resized = SAM2(self.variant, size).train()
            resized.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
            self.model = resized

    def _fit_memory_norm(self, stage: Stage) -> None:
        # Without the rank in the seed: the fit must be the same in every process.
        rng = np.random.default_rng([self.seed, 101])
        images, _ = image_batch(stage.image_size, 8, 1, self.library, rng)
        fit_memory_norm(self.model, images)
        fitted = self.model.state_dict()
        for name in ("memory_attention.norm.weight", "memory_attention.norm.bias"):
            self.ema[name].copy_(fitted[name])

    def _average_gradients(self) -> None:
        """Average over processes; parameters that none of them used keep no gradient."""
        if self._average is None:
            return
        parameters = list(self.model.parameters())
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat(
            [used]
            + [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        )
        self._average(flat)
        used, *grads = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, grad, share in zip(parameters, grads, used.tolist(), strict=True):
            parameter.grad = grad.view_as(parameter) if share > 0 else None


def default_run_directory() -> Path:
    """Where a run keeps its checkpoints, weights, logs and plots."""
    return Path("~/.cache/label-studio-sam2/training-run").expanduser()
