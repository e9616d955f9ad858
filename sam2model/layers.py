"""Small layers that several parts of SAM 2 share.

Parameter names follow Meta's ``sam2`` package (``sam2/modeling/sam2_utils.py``).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Stack of linear layers with an activation between them, none after the last.

    Args:
        input_dim: channels in.
        hidden_dim: channels of every layer but the last.
        output_dim: channels out.
        num_layers: number of linear layers, at least 1.
        activation: applied after every layer but the last.
        sigmoid_output: squash the result into (0, 1); the IoU head of SAM 2 does.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(dims[i], dims[i + 1]) for i in range(len(dims) - 1))
        self.activation = activation
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., input_dim]`` to ``[..., output_dim]``."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < last:
                x = self.activation(x)
        return x.sigmoid() if self.sigmoid_output else x


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a ``[B, C, H, W]`` map, each position by itself."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, H, W]`` to float32; the shape stays.

        Always in float32, as the reference is under autocast: squares of float16 overflow
        at 256.
        """
        centred = x.float() - x.float().mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        normalised = centred * torch.rsqrt(variance + self.eps)
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]
