"""How weights move: Muon on the matrices inside the network, AdamW on everything else."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_BETAS = (0.9, 0.98)
_MOMENTUM = 0.95
# Shorter sides have nothing to orthogonalise.
_SHORTEST_SIDE = 32


class Optimizer:
    """Muon (Jordan et al. 2024) and AdamW as one, at one learning rate.

    Muon's steps are scaled to the size AdamW's have ("match_rms_adamw", arXiv 2502.16982), so
    that one rate serves both. What it gains here is measured in ``training/README.md``.

    Args:
        model: its parameters must stay the same objects.
        rate: learning rate to begin with.
        weight_decay: on matrices; biases, norms, embeddings and tokens have none.
    """

    def __init__(self, model: nn.Module, rate: float, weight_decay: float) -> None:
        inner: list[Tensor] = []
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in model.named_parameters():
            decays = parameter.ndim >= 2 and "embed" not in name and "token" not in name
            if decays and parameter.ndim == 2 and min(parameter.shape) >= _SHORTEST_SIDE:
                inner.append(parameter)
            else:
                (matrices if decays else others).append(parameter)
        self._muon = torch.optim.Muon(
            inner,
            lr=rate,
            weight_decay=weight_decay,
            momentum=_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=rate,
            betas=_BETAS,
        )

    def set_rate(self, rate: float) -> None:
        """Use another learning rate from now on."""
        for group in self._muon.param_groups + self._adamw.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._muon.zero_grad()
        self._adamw.zero_grad()

    def step(self) -> None:
        """Move the weights by their gradients."""
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, object]:
        """What :meth:`load_state_dict` needs to go on."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: Mapping[str, dict[str, object]]) -> None:
        """Go on with a state of the same network's optimizer."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])
