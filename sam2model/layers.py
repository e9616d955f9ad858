"""Small layers that several parts of SAM 2 share.

Parameter names follow Meta's ``sam2`` package (``sam2/modeling/sam2_utils.py``).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.inference_weights import Derived, compute_dtype
from sam2model.matrix_product import Activation, activate, linear


class Linear(nn.Linear):
    """Linear layer and activation; without gradients its weights are cast once, not every time."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._cast: Derived[tuple[Tensor, Tensor | None]] = Derived()

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        if torch.is_grad_enabled():
            return activate(super().forward(x), activation)
        dtype = compute_dtype(x)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if weight.dtype != dtype:
            weight, bias = self._cast.get((weight, bias), dtype, lambda: self._in_dtype(dtype))
        return linear(x.to(dtype), weight, bias, activation)

    def _in_dtype(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        bias: Tensor | None = self.bias
        return self.weight.to(dtype), None if bias is None else bias.to(dtype)


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
        activation: Activation = "relu",
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(Linear(dims[i], dims[i + 1]) for i in range(len(dims) - 1))
        self.activation = activation
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., input_dim]`` to ``[..., output_dim]``."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, self.activation if i < last else "none")
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
        # Channels last, where normalising is one pass over memory. Maps mostly are so already.
        tokens = x.float().permute(0, 2, 3, 1)
        normalised = F.layer_norm(tokens, self.weight.shape, self.weight, self.bias, self.eps)
        return normalised.permute(0, 3, 1, 2)
