"""Which dtype a device computes in, and the names of devices."""

import pytest
import torch

from sam2model import build_model, precision
from sam2model.precision import native_dtypes, resolve_device, resolve_dtype

pytestmark = pytest.mark.instruction_set
CUDA, CPU, MPS = torch.device("cuda"), torch.device("cpu"), torch.device("mps")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 0), torch.float32),  # P100
        ((6, 1), torch.float32),  # GTX 1080, P40: float16 at 1/64 of the rate
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4
        ((8, 0), torch.bfloat16),  # A100
        ((8, 6), torch.bfloat16),  # RTX 3090
        ((8, 9), torch.bfloat16),  # L4
        ((9, 0), torch.bfloat16),  # H100
        ((12, 0), torch.bfloat16),  # RTX 5090
    ],
)
def test_auto_on_cuda(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_dtype(native_dtypes(CUDA)) == dtype


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"architecture": "x86_64", "avx512_f": True, "avx2": True}, torch.float32),
        ({"architecture": "aarch64", "bf16": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_on_cpus(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(precision, "onednn_multiplies", lambda dtype: True)
    assert resolve_dtype(native_dtypes(CPU)) == dtype
    assert resolve_dtype(native_dtypes(CPU), "float32") == torch.float32


def test_auto_on_a_cpu_whose_bfloat16_onednn_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "onednn_multiplies", lambda dtype: False)
    assert resolve_dtype(native_dtypes(CPU)) == torch.float32


def test_auto_on_mps():
    assert resolve_dtype(native_dtypes(MPS)) == torch.float32


def test_a_model_computes_in_what_its_cpu_has(monkeypatch):
    monkeypatch.setattr(precision, "onednn_multiplies", lambda dtype: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert build_model("demo", device="cpu").compute_dtype == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert build_model("demo", device="cpu").compute_dtype == torch.float32


@pytest.mark.parametrize("native", [frozenset(), frozenset({torch.bfloat16})])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_taken(native, dtype):
    assert resolve_dtype(native, dtype) == getattr(torch, dtype)
    assert resolve_dtype(native, getattr(torch, dtype)) == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.float64, torch.int8])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="use auto, float32, bfloat16, float16"):
        resolve_dtype(frozenset(), dtype)


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


class TestUnusedCard:
    @pytest.fixture(autouse=True)
    def card(self, monkeypatch, tmp_path):
        sign = tmp_path / "nvidiactl"
        sign.touch()
        monkeypatch.setattr(precision, "_SIGNS_OF_A_CARD", (str(sign),))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        return sign

    def test_a_torch_without_cuda_is_named(self, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", None)
        assert "was built without" in precision.why_card_is_unused("auto")

    def test_an_old_driver_is_named(self, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        assert "its driver must know CUDA 13.0" in precision.why_card_is_unused("auto")

    def test_nothing_is_amiss_without_a_card_with_cuda_or_by_choice(self, monkeypatch, card):
        assert precision.why_card_is_unused("cpu") is None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert precision.why_card_is_unused("auto") is None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        card.unlink()
        assert precision.why_card_is_unused("auto") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_on_cuda_is_not_rounded_to_tf32(monkeypatch, dtype):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    asked = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    precision.settle_kernels(CPU, dtype)
    assert torch.backends.cudnn.allow_tf32
    assert asked == []
    precision.settle_kernels(CUDA, dtype)
    assert torch.backends.cudnn.allow_tf32 == (dtype != torch.float32)
    assert torch.backends.cuda.matmul.allow_tf32 == (dtype != torch.float32)
    assert asked == [False]
