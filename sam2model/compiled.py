"""The image encoder through ``torch.compile``, for devices on which that pays.

Only the image encoder is compiled. It is most of a click and much of a tracked frame, and sees one
shape whatever is clicked or tracked, so that nothing is ever compiled a second time: points,
objects and memories, which come in any number, belong to the other parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2model.inference_weights import compute_dtype

if TYPE_CHECKING:
    from sam2model.sam2 import SAM2

Maps = tuple[Tensor, Tensor, Tensor]
# Largest difference from the plain encoder, as a fraction of the largest value. In bfloat16 other
# kernels differ by 0.01 (docs/measurements/modes.md); what is wrong is off by whole values.
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_HALF = 0.05


class CompiledEncoderError(RuntimeError):
    """The compiled image encoder answers otherwise than the plain one."""


@dataclass(frozen=True)
class CompiledEncoder:
    """A compiled image encoder and what it was compiled for.

    Attributes:
        run: takes images as ``ImageEncoder`` does, returns its three maps.
        shape, device, dtype: of the images, and the dtype computed in.
    """

    run: Callable[[Tensor], Maps]
    shape: torch.Size
    device: torch.device
    dtype: torch.dtype

    def takes(self, images: Tensor) -> bool:
        """Whether it can encode these images, as things stand, without being compiled anew."""
        return (
            torch.is_inference_mode_enabled()
            and images.is_inference()
            and images.is_contiguous()
            and images.shape == self.shape
            and images.device == self.device
            and images.dtype == torch.float32
            and compute_dtype(images) == self.dtype
        )


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
    with torch.inference_mode(), model.autocast():
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
