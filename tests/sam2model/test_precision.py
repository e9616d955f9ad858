"""The table of dtypes, and the names of devices."""

import pytest
import torch

from sam2model.precision import resolve_device, resolve_dtype

CUDA, CPU, MPS = torch.device("cuda"), torch.device("cpu"), torch.device("mps")


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        (CPU, None, torch.float32),
        (MPS, None, torch.float32),
        (CUDA, (6, 0), torch.float32),  # P100
        (CUDA, (6, 1), torch.float32),  # GTX 1080, P40: float16 at 1/64 of the rate
        (CUDA, (7, 0), torch.float16),  # V100
        (CUDA, (7, 5), torch.float16),  # T4
        (CUDA, (8, 0), torch.bfloat16),  # A100
        (CUDA, (8, 6), torch.bfloat16),  # RTX 3090
        (CUDA, (8, 9), torch.bfloat16),  # L4
        (CUDA, (9, 0), torch.bfloat16),  # H100
        (CUDA, (12, 0), torch.bfloat16),  # RTX 5090
    ],
)
def test_auto(device, capability, dtype):
    assert resolve_dtype(device, capability) == dtype


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_taken(device, dtype):
    assert resolve_dtype(device, (9, 0), dtype) == getattr(torch, dtype)
    assert resolve_dtype(device, (9, 0), getattr(torch, dtype)) == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.float64, torch.int8])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="use auto, float32, bfloat16, float16"):
        resolve_dtype(CPU, None, dtype)


def test_devices(monkeypatch):
    assert resolve_device("cpu") == CPU
    assert resolve_device(CPU) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == CUDA
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == MPS
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:1", "mps"])
def test_devices_that_are_not_there_are_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"use.* cpu"):
        resolve_device(device)
