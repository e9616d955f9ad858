"""Checkpoints of a run: written atomically, the last two and the best kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.files import replacing

_KEPT = 2


@dataclass
class RunState:
    """What a run needs to go on where it was.

    Attributes:
        step: the next step to do.
        model: weights being trained.
        ema: their moving average.
        optimizer: state of :class:`training.demo_weights.optimizer.Optimizer`.
        best: best held-out score so far.
        decay: (first step, steps) of the final decay, once it has been asked for.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: float = 0.0
    decay: tuple[int, int] | None = None


def save_state(directory: Path, state: RunState) -> Path:
    """Write a checkpoint and delete those before the last two."""
    path = directory / f"step-{state.step:08d}.pt"
    with replacing(path) as partial:
        torch.save(vars(state), partial)
    for old in checkpoints(directory)[:-_KEPT]:
        old.unlink()
    return path


def checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(directory.glob("step-*.pt"))


def load_latest(directory: Path) -> RunState | None:
    """The newest checkpoint, None where there is none."""
    found = checkpoints(directory)
    if not found:
        return None
    content = torch.load(found[-1], map_location="cpu", weights_only=True)
    return RunState(**content)


def save_weights(path: Path, weights: dict[str, Tensor], notes: Mapping[str, object]) -> None:
    """Write weights as they are shipped: bfloat16 safetensors, with notes beside (JSON)."""
    shipped = {
        name: (w.bfloat16() if w.is_floating_point() else w).contiguous()
        for name, w in weights.items()
    }
    with replacing(path) as partial:
        save_file(shipped, partial)
    path.with_suffix(".json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def update_ema(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move the average towards the model's weights; ``decay`` stays of the old."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)
