"""Small layers that several parts of SAM 2 share.

Parameter names follow Meta's ``sam2`` package (``sam2/modeling/sam2_utils.py``).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.inference_weights import CastWeights, Derived, compute_dtype
from sam2model.matrix_product import Activation, activate, linear


class Linear(nn.Linear):
    """Linear layer and activation; without gradients its weights are cast once, not every time."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._cast = CastWeights()

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        if torch.is_grad_enabled():
            return activate(super().forward(x), activation)
        dtype = compute_dtype(x)
        weight, bias = self._cast.of(self, dtype)
        return linear(x.to(dtype), weight, bias, activation)


class SideBySide:
    """MLPs of one shape, each on a token of its own; without gradients all at once."""

    def __init__(self) -> None:
        self._stacked: Derived[list[tuple[Tensor, Tensor]]] = Derived()

    def __call__(self, mlps: nn.ModuleList, x: Tensor) -> Tensor:
        """Map ``[B, N, C]`` with N MLPs to ``[B, N, C']``."""
        if torch.is_grad_enabled():
            return torch.stack([mlp(x[:, i]) for i, mlp in enumerate(mlps)], dim=1)
        dtype = compute_dtype(x)
        weights = self._stacked.get(list(mlps.parameters()), dtype, lambda: _stacked(mlps, dtype))
        x = x.to(dtype).transpose(0, 1)
        for i, (weight, bias) in enumerate(weights):
            x = torch.baddbmm(bias, x if i == 0 else F.relu(x), weight)
        return x.transpose(0, 1)


def _stacked(mlps: nn.ModuleList, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Per layer the weights ``[N, in, out]`` and biases ``[N, 1, out]`` of all MLPs."""
    layers = zip(*(mlp.layers for mlp in mlps), strict=True)
    return [
        (
            torch.stack([each.weight.T for each in same]).to(dtype),
            torch.stack([each.bias[None] for each in same]).to(dtype),
        )
        for same in layers
    ]


class Conv2d(nn.Conv2d):
    """Convolution; without gradients its weights are cast once, not every time."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
        self._cast = CastWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, in, H, W]`` to ``[B, out, H', W']``."""
        if torch.is_grad_enabled():
            return super().forward(x)
        dtype = compute_dtype(x)
        return self._conv_forward(x.to(dtype), *self._cast.of(self, dtype))


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution; without gradients its weights are cast once, not every time."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self._cast = CastWeights()

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map ``[B, in, H, W]`` to ``[B, out, H', W']``."""
        if torch.is_grad_enabled():
            return super().forward(x, output_size)
        dtype = compute_dtype(x)
        weight, bias = self._cast.of(self, dtype)
        return F.conv_transpose2d(x.to(dtype), weight, bias, self.stride)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dimension, in the dtype of what it is given.

    Statistics are float32 whatever that is, which float16 needs: squares overflow at 256. Kernels
    for CPUs take float32 weights with narrower values, those for GPUs weights of their dtype.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps)
        self._cast = CastWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., dim]``."""
        if torch.is_grad_enabled() or x.device.type == "cpu":
            return super().forward(x)
        weight, bias = self._cast.of(self, x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


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


class LayerNorm2d(LayerNorm):
    """LayerNorm over the channels of a ``[B, C, H, W]`` map, each position by itself."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, H, W]``; the shape stays."""
        if torch.is_grad_enabled():
            x = x.float()  # as the reference is under autocast
        # Channels last, where normalising is one pass over memory. Maps mostly are so already.
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
