"""The official ``sam2`` package as a reference, with weights that hide nothing."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS, TrunkConfig

_SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


# Of batch norms in RepViT: with it, what branches add neither explodes nor fades.
_TYPICAL_VARIANCE = 4.0


@dataclass(frozen=True)
class Pair:
    """The official model and ours, with the same weights.

    Attributes:
        name: of the variant.
        official: ``sam2.modeling.sam2_base.SAM2Base``.
        ours: the model under test.
    """

    name: str
    official: Any
    ours: SAM2


def make_pair(name: str, image_size: int | None = None, seed: int = 0) -> Pair:
    """Build both models for a variant and load the same random weights into them, strictly.

    Args:
        name: of a variant.
        image_size: side of the square input; the variant's own where None.
        seed: of the random weights.
    """
    size = VARIANTS[name].image_size if image_size is None else image_size
    official = build_official(name, size)
    weights = draw_weights(official.state_dict(), seed)
    official.load_state_dict(weights, strict=True)
    ours = SAM2(VARIANTS[name], size).eval()
    ours.load_state_dict(weights, strict=True)
    return Pair(name, official, ours)


def build_official(name: str, image_size: int) -> Any:
    """The official model for a variant, as ``build_sam2`` makes it for the image predictor."""
    from sam2.build_sam import build_sam2

    config, overrides = official_config(name, image_size)
    return build_sam2(config, device="cpu", hydra_overrides_extra=overrides)


def official_config(name: str, image_size: int) -> tuple[str, list[str]]:
    """The official configuration file of a variant, and what to override in it."""
    overrides = [f"++model.image_size={image_size}"]
    if name == "demo":
        return "configs/sam2.1/sam2.1_hiera_t.yaml", overrides + _demo_overrides()
    generation, _, size = name.partition("_hiera_")
    return f"configs/{generation}/{generation}_hiera_{_SIZES[size]}.yaml", overrides


def _demo_overrides() -> list[str]:
    """What turns the official tiny configuration into the demo variant's shape."""
    variant = VARIANTS["demo"]
    trunk, dim = variant.trunk, variant.d_model
    assert isinstance(trunk, TrunkConfig)
    channels = [trunk.embed_dim * 2**stage for stage in (3, 2, 1, 0)]
    values = {
        "image_encoder.trunk.embed_dim": trunk.embed_dim,
        "image_encoder.trunk.num_heads": trunk.num_heads,
        "image_encoder.trunk.stages": list(trunk.stages),
        "image_encoder.trunk.global_att_blocks": list(trunk.global_att_blocks),
        "image_encoder.trunk.window_spec": list(trunk.window_spec),
        "image_encoder.trunk.window_pos_embed_bkg_spatial_size": list(
            trunk.window_pos_embed_bkg_spatial_size
        ),
        "image_encoder.neck.d_model": dim,
        "image_encoder.neck.backbone_channel_list": channels,
        "image_encoder.neck.position_encoding.num_pos_feats": dim,
        "memory_attention.d_model": dim,
        "memory_attention.num_layers": variant.memory_layers,
        "memory_attention.layer.d_model": dim,
        "memory_attention.layer.dim_feedforward": variant.memory_feedforward,
        "memory_attention.layer.self_attention.embedding_dim": dim,
        "memory_attention.layer.cross_attention.embedding_dim": dim,
        "memory_encoder.in_dim": dim,
        "memory_encoder.mask_downsampler.embed_dim": dim,
        "memory_encoder.fuser.layer.dim": dim,
    }
    return [f"++model.{key}={value}".replace(" ", "") for key, value in values.items()]


def draw_weights(state_dict: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draw every tensor at random, at a scale at which it matters.

    Default initialisation would hide errors: layer scales start at 1e-6, so that the memory
    encoder's blocks do nothing; position embeddings and biases at zero; norms at one.

    Args:
        state_dict: names and shapes.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, tensor: Tensor) -> Tensor:
        shape = tensor.shape
        if not tensor.is_floating_point():  # a batch norm's count of batches
            return tensor
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            return _TYPICAL_VARIANCE * (0.3 * noise).exp()
        is_scale = name.endswith("gamma") or (len(shape) == 1 and name.endswith("weight"))
        if is_scale:
            return 1 + 0.2 * noise
        if len(shape) == 1:  # biases
            return 0.3 * noise
        is_table = shape[0] == 1 or any(mark in name for mark in ("tokens", "tpos_enc", "latents"))
        if is_table or "gaussian_matrix" in name:
            return noise
        # Sharper attention than the mean over all keys, which would drown what makes them differ.
        gain = 2 if "q_proj" in name or "k_proj" in name else 4 if "to_q" in name else 1
        return gain * noise / shape[1:].numel() ** 0.5

    return {name: draw(name, tensor) for name, tensor in state_dict.items()}


def relative_error(ours: Tensor, official: Tensor) -> float:
    """Largest difference, as a fraction of the largest value of the reference."""
    if ours.shape != official.shape:
        raise ValueError(f"shapes differ: {list(ours.shape)} and {list(official.shape)}")
    return float((ours - official).abs().max() / official.abs().max())
