"""Which device to run on, and in which number format."""

import torch

# The compute capability from which bfloat16 arithmetic is native (Ampere).
_BFLOAT16_CAPABILITY = (8, 0)
# The compute capability from which float16 has tensor cores (Volta). Before it float16 is
# no faster, and on 6.1 (Pascal consumer cards) 64 times slower than float32: the table
# "Throughput of Native Arithmetic Instructions" of the CUDA C programming guide.
_FLOAT16_CAPABILITY = (7, 0)

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


def cuda_capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a CUDA device, None for any other device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def resolve_dtype(
    device: torch.device,
    capability: tuple[int, int] | None,
    dtype: str | torch.dtype = "auto",
) -> torch.dtype:
    """Choose the dtype to compute in; weights stay float32 and are cast on the fly.

    "auto" means bfloat16 on CUDA devices that have it natively (capability 8.0 and above),
    float16 on 7.x, and float32 on older ones, on MPS and on the CPU.

    Args:
        device: where the model runs.
        capability: of that device, from :func:`cuda_capability`.
        dtype: "auto", "float32", "bfloat16", "float16", or the torch dtype itself.

    Raises:
        ValueError: another dtype.
    """
    if dtype == "auto":
        if device.type != "cuda" or capability is None or capability < _FLOAT16_CAPABILITY:
            return torch.float32
        return torch.bfloat16 if capability >= _BFLOAT16_CAPABILITY else torch.float16
    resolved = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in _DTYPES.values():
        raise ValueError(f"unknown dtype {dtype!r}: use auto, {', '.join(_DTYPES)}")
    return resolved
