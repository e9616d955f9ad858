"""Build a model: variant, weights, device and dtype."""

from os import PathLike

import torch

from sam2model.checkpoints import find_checkpoint, load_checkpoint
from sam2model.precision import native_dtypes, resolve_device, resolve_dtype, settle_kernels
from sam2model.sam2 import NUM_MASK_MEMORIES, SAM2
from sam2model.variants import get_variant


def build_model(
    name: str,
    checkpoint: str | PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    image_size: int | None = None,
    num_mask_memories: int = NUM_MASK_MEMORIES,
) -> SAM2:
    """Build a model with its weights, ready for inference.

    Args:
        name: "sam2_hiera_tiny", "..._small", "..._base_plus", "..._large", the same with
            "sam2.1_hiera_", "edgetam" (made for devices without a GPU), or "demo" (256 pixels,
            rough weights that come with the package).
        checkpoint: None for the published weights of that name, downloaded once from the
            Hugging Face hub; or the path of a ``.pt`` or ``.safetensors`` file that holds
            a state dict, or ``{"model": state_dict}``.
        device: "auto" (CUDA, else MPS, else CPU), or a torch device.
        dtype: "auto" (bfloat16 or float16 where the device, CPUs too, has it natively, see
            :func:`sam2model.precision.resolve_dtype`), or a dtype to compute in.
        image_size: side of the square images are resized to; a multiple of 32, for "edgetam"
            of 256. None for the size the variant was trained at. Smaller is faster and coarser.
        num_mask_memories: 1 to 7, spatial memories that a tracked frame reads, see
            :class:`sam2model.sam2.SAM2`. Fewer are faster, and lose objects sooner.

    Raises:
        ValueError: an unknown name, device or dtype, an image size that does not divide, or
            an impossible number of memories.
        sam2model.CheckpointError: weights that cannot be found, fetched or used.
    """
    if not 1 <= num_mask_memories <= NUM_MASK_MEMORIES:
        raise ValueError(
            f"num_mask_memories must be 1 to {NUM_MASK_MEMORIES}, not {num_mask_memories}: the "
            "models were trained with that many places in time"
        )
    variant = get_variant(name)
    resolved_device = resolve_device(device)
    compute_dtype = resolve_dtype(native_dtypes(resolved_device), dtype)
    settle_kernels(resolved_device, compute_dtype)
    model = SAM2(variant, image_size)
    load_checkpoint(model, find_checkpoint(name, checkpoint), name)
    model.compute_dtype = compute_dtype
    model.num_mask_memories = num_mask_memories
    return model.to(resolved_device).eval()
