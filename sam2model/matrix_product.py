"""Matrix products with what follows them, by the fastest kernel there is for the device."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Activation: TypeAlias = Literal["none", "relu", "gelu"]

_ONEDNN_DTYPES = (torch.float32, torch.bfloat16)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Tensor:
    """``activation(x weight^T + bias)``, without gradients.

    On CPUs through oneDNN, which is up to a fifth faster in float32 than torch's default, and
    applies the activation where the product is still in the cache.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]`` of the same dtype, or what :func:`pack` made of it.
        bias: ``[out]``.
        activation: GELU is the exact one, with the error function.

    Returns:
        ``[..., out]``.
    """
    if _has_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return activate(F.linear(x, weight, bias), activation)


def pack(weight: Tensor) -> Tensor:
    """A weight ``[out, in]`` in the layout that :func:`linear` is fastest with.

    Pays where few rows at a time are multiplied with one weight. The result is good for
    nothing else.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight) if _has_onednn(weight) else weight


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation by its name."""
    if activation == "relu":
        return F.relu(x)
    return F.gelu(x) if activation == "gelu" else x


def _has_onednn(x: Tensor) -> bool:
    if torch.compiler.is_dynamo_compiling():  # inductor calls it by itself where it can
        return False
    if x.device.type != "cpu" or x.dtype not in _ONEDNN_DTYPES:
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
