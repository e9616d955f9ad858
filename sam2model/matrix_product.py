"""Matrix products with bias and activation, by the fastest kernel that the device has."""

from functools import cache
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

    On CPUs through oneDNN where it can (:func:`onednn_multiplies`), which is up to a fifth faster
    in float32 than torch's default, and applies the activation where the product is still in the
    cache.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]`` of the same dtype, or what :func:`pack` made of it.
        bias: ``[out]``.
        activation: GELU is the exact one, with the error function.

    Returns:
        ``[..., out]``.
    """
    if _uses_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return activate(F.linear(x, weight, bias), activation)


def pack(weight: Tensor) -> Tensor:
    """A weight ``[out, in]`` in the layout that :func:`linear` is fastest with.

    Pays where few rows at a time are multiplied with one weight. Only :func:`linear` takes the
    result.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight) if _uses_onednn(weight) else weight


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation by its name."""
    if activation == "relu":
        return F.relu(x)
    return F.gelu(x) if activation == "gelu" else x


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether :func:`linear` computes in this dtype through oneDNN on this CPU.

    In float32 every CPU does. bfloat16 takes AVX-512 or AVX-NE-CONVERT; elsewhere torch's own
    kernels multiply it, several times slower than float32.
    """
    if dtype not in _ONEDNN_DTYPES or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.backends.mkldnn.enabled) and _tried(dtype)


@cache
def _tried(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplied two small matrices, tried once in a process.

    The CPU's instructions alone do not say: ``ONEDNN_MAX_CPU_ISA`` can hold oneDNN to fewer.
    """
    x = torch.ones(2, 8, dtype=dtype, device="cpu")
    weight = torch.ones(8, 8, dtype=dtype, device="cpu")
    try:
        for form in (weight, torch.ops.mkldnn._reorder_linear_weight(weight)):
            torch.ops.mkldnn._linear_pointwise(x, form, weight[0], "gelu", [], "none")
    except RuntimeError:  # "could not create a primitive descriptor"
        return False
    return True


def _uses_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and onednn_multiplies(x.dtype)
