"""Which device to run on, and in which number format."""

from collections.abc import Collection
from pathlib import Path

import torch

from sam2model.matrix_product import onednn_multiplies

# The compute capability from which bfloat16 arithmetic is native (Ampere).
_BFLOAT16_CAPABILITY = (8, 0)
# The compute capability from which float16 has tensor cores (Volta). Before it float16 is
# no faster, and on 6.1 (Pascal consumer cards) 64 times slower than float32: the table
# "Throughput of Native Arithmetic Instructions" of the CUDA C programming guide.
_FLOAT16_CAPABILITY = (7, 0)

# There where an NVIDIA driver is, natively, in a container, or in WSL.
_SIGNS_OF_A_CARD = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn a device name into a device; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        ValueError: the name is none torch knows, or torch has no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"unknown device {device!r}: use auto, cpu, cuda, cuda:N or mps"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device cuda was asked for, but torch finds no CUDA device; use cpu or auto"
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps was asked for, but torch finds none; use cpu or auto")
    return resolved


def why_card_is_unused(device: str | torch.device = "auto") -> str | None:
    """Why "auto" runs on the CPU of a machine with an NVIDIA card, and what to do; None where
    nothing is amiss."""
    if device != "auto" or torch.cuda.is_available():
        return None
    if not any(Path(sign).exists() for sign in _SIGNS_OF_A_CARD):
        return None
    if torch.version.cuda is None:
        return (
            f"this machine has an NVIDIA card, which torch {torch.__version__} was built without: "
            "install the CUDA build (the one on PyPI for Linux)"
        )
    return (
        f"this machine has an NVIDIA card that torch cannot use: its driver must know CUDA "
        f"{torch.version.cuda}, and a container must be given the card (docker run --gpus all)"
    )


def settle_kernels(device: torch.device, dtype: torch.dtype) -> None:
    """Choose, for the whole process, how a CUDA device computes; nothing on others.

    Float32 means float32: cuDNN rounds it to TF32 by default. cuDNN's attention stays off, since it
    builds a plan for every new shape, and a track has a new one on each of its first frames and for
    every number of objects.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    if dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def native_dtypes(device: torch.device) -> frozenset[torch.dtype]:
    """The dtypes below float32 in which a device computes faster than in float32."""
    if device.type == "cpu":
        return frozenset({torch.bfloat16} if _cpu_multiplies_bfloat16() else ())
    if device.type != "cuda":
        return frozenset()
    capability = torch.cuda.get_device_capability(device)
    least = {torch.bfloat16: _BFLOAT16_CAPABILITY, torch.float16: _FLOAT16_CAPABILITY}
    return frozenset(dtype for dtype, since in least.items() if capability >= since)


def _cpu_multiplies_bfloat16() -> bool:
    # Where bfloat16 is emulated it is slower than float32. ARM's was never measured.
    capabilities = torch.cpu.get_capabilities()
    has_instructions = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return has_instructions and onednn_multiplies(torch.bfloat16)


def resolve_dtype(
    native: Collection[torch.dtype], dtype: str | torch.dtype = "auto"
) -> torch.dtype:
    """Choose the dtype to compute in; weights stay float32 and are cast on the fly.

    "auto" means bfloat16 on devices that have it natively: CUDA from capability 8.0, CPUs with
    AVX512-BF16 or AMX (AMD from Zen 4, Intel from Cooper Lake) that oneDNN may use. Else it is
    float16 on CUDA from 7.0, and float32 on older cards, on MPS and on other CPUs. What that
    costs in masks is in docs/measurements/modes.md.

    Args:
        native: of the device, from :func:`native_dtypes`.
        dtype: "auto", "float32", "bfloat16", "float16", or the torch dtype itself.

    Raises:
        ValueError: another dtype.
    """
    if dtype == "auto":
        faster = (each for each in (torch.bfloat16, torch.float16) if each in native)
        return next(faster, torch.float32)
    resolved = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in _DTYPES.values():
        raise ValueError(f"unknown dtype {dtype!r}: use auto, {', '.join(_DTYPES)}")
    return resolved
