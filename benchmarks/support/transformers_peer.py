"""The image encoder of Hugging Face's ``transformers`` (``Sam2Model``), with the same weights.

``transformers`` is a second implementation of SAM 2 that users have; where it is not installed,
benchmarks leave it out and say so. Its parameters are those of the official package under other
names, by the rules of its own conversion script (``convert_sam2_to_hf.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from sam2model.variants import VARIANTS, Variant

Encode = Callable[[Tensor], Tensor]

# In this order: what a name holds, and what stands there in transformers.
_RENAMED = (
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("image_encoder.neck.", "vision_encoder.neck."),
    ("sam_mask_decoder.conv_s", "mask_decoder.conv_s"),
    ("patch_embed.proj.", "patch_embed.projection."),
    (".norm", ".layer_norm"),
    (".mlp.layers.0.", ".mlp.proj_in."),
    (".mlp.layers.1.", ".mlp.proj_out."),
    (".conv.", "."),  # of the neck, whose levels are containers in the official package
)
_ENCODER = ("vision_encoder.", "mask_decoder.conv_s")


def is_installed() -> bool:
    """Whether there is a ``transformers`` to compare with."""
    return find_spec("transformers") is not None


def build_encoder(
    name: str,
    image_size: int,
    weights: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
) -> Encode:
    """``Sam2Model.get_image_embeddings`` of a variant.

    Args:
        name: of the variant.
        image_size: side of the square input, S.
        weights: the official state dict.
        device: that it runs on.

    Returns:
        Maps ``[B, 3, S, S]`` to the features of stride 16, ``[B, C, S/16, S/16]``.

    Raises:
        ValueError: a weight of the image encoder has no counterpart, or the other way round.
    """
    from transformers import Sam2Config, Sam2Model

    model = Sam2Model(Sam2Config(**_config(VARIANTS[name], image_size))).eval()
    mapped = {_renamed(key): value for key, value in weights.items()}
    mapped = {key: value for key, value in mapped.items() if key.startswith(_ENCODER)}
    found = model.load_state_dict(mapped, strict=False)
    missing = [key for key in found.missing_keys if key.startswith(_ENCODER)]
    if missing or found.unexpected_keys:
        raise ValueError(f"names differ: {missing} and {found.unexpected_keys}")
    # It is part of the embedding there, and of what follows elsewhere.
    torch.nn.init.zeros_(model.no_memory_embedding)
    model.to(device)

    def encode(image: Tensor) -> Tensor:
        features: Tensor = model.get_image_embeddings(image)[-1]
        return features

    return encode


def _renamed(key: str) -> str:
    for official, theirs in _RENAMED:
        key = key.replace(official, theirs)
    return key


def _config(variant: Variant, image_size: int) -> dict[str, object]:
    trunk, dim = variant.trunk, variant.d_model
    widths = [trunk.embed_dim * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": trunk.embed_dim,
        "num_attention_heads": trunk.num_heads,
        "image_size": [image_size, image_size],
        "blocks_per_stage": list(trunk.stages),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [trunk.num_heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(trunk.window_spec),
        "window_positional_embedding_background_size": list(
            trunk.window_pos_embed_bkg_spatial_size
        ),
        "global_attention_blocks": list(trunk.global_att_blocks),
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[image_size // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": dim,
    }
    return {
        "vision_config": vision,
        "prompt_encoder_config": {"image_size": image_size, "hidden_size": dim},
        "mask_decoder_config": {"hidden_size": dim},
    }
