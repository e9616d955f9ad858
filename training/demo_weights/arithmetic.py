"""The number format and the kernels of training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam2model.precision import native_dtypes


@contextmanager
def training_arithmetic() -> Iterator[None]:
    """bfloat16 where the CPU has it, and attention spelled out: each doubles the speed there.

    For one forward pass only: autocast keeps the weights it has cast until the context is
    left, so that a second step inside it would still compute with the weights of the first.
    """
    native = torch.bfloat16 in native_dtypes(torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16, enabled=native), sdpa_kernel(SDPBackend.MATH):
        yield
