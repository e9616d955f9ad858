"""The image encoder through ``torch.compile``, for devices on which that pays.

Only the image encoder is compiled. It is most of a click and much of a tracked frame, and sees one
shape whatever is clicked or tracked, so that nothing is ever compiled a second time: points,
objects and memories, which come in any number, belong to the other parts.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sam2model.image_encoder import CompiledEncoder
from sam2model.inference_weights import compute_dtype
from sam2model.sam2 import SAM2

# Largest difference from the plain encoder, as a fraction of the largest value. In bfloat16 other
# kernels differ by 0.01 (docs/measurements/modes.md); what is wrong is off by whole values.
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_HALF = 0.05


class CompiledEncoderError(RuntimeError):
    """The compiled image encoder answers otherwise than the plain one."""


def compile_image_encoder(model: SAM2, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the image encoder for single images, try it, and put it to use.

    Takes a minute or more where torch's cache (``TORCHINDUCTOR_CACHE_DIR``) does not hold it. Other
    threads may use the model meanwhile: it computes as it is until the compiled encoder has
    answered like the plain one. Yield points inside the encoder are passed without a call.

    Args:
        model: on its device, with its weights, in evaluation mode.
        backend: of ``torch.compile``.

    Raises:
        CompiledEncoderError: the answers differ.
        Exception: whatever ``torch.compile`` raises where it cannot compile, for want of a C++
            compiler for instance. The model stays as it is in either case.
    """
    size = model.image_size
    with model.inference():
        images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        images = images.to(model.device)
        plain = model.encode_maps(images)
        run = torch.compile(model.encode_maps, backend=backend, dynamic=False, fullgraph=True)
        compiled = run(images)
        dtype = compute_dtype(images)
    error = max(_relative_error(a, b) for a, b in zip(compiled, plain, strict=True))
    if not error <= _TOLERANCE.get(dtype, _TOLERANCE_HALF):
        raise CompiledEncoderError(f"the compiled image encoder is off by {error:.1e}")
    model.compiled_encoder = CompiledEncoder(run, images.shape, images.device, dtype)


def _relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())
