"""Checkpoints of EdgeTAM in the layout of Hugging Face's ``transformers`` (``EdgeTamVideoModel``).

The tensors are those of Meta's file under other names, but for keys and values, which are
projected apart there, and point embeddings, which are the rows of one table.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_MARK = "vision_encoder.backbone.timm_model."
# A second copy of the frequencies of point positions, for the decoder's map of positions.
_COPY = "shared_image_embedding.positional_embedding"
_COPIED = "prompt_encoder.shared_embedding.positional_embedding"

# Applied to Meta's names, in this order.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^image_encoder\.trunk\.body\.", _MARK),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"^sam_(mask_decoder|prompt_encoder)\.", r"\1."),
        (r"obj_ptr", "object_pointer"),
        (r"^no_mem_embed", "no_memory_embedding"),
        (r"^no_mem_pos_enc", "no_memory_positional_encoding"),
        (r"^maskmem_tpos_enc", "memory_temporal_positional_encoding"),
        # Multi-layer perceptrons, of two and of three layers.
        (r"(transformer\.layers\.\d+\.mlp)\.layers\.0\.", r"\1.proj_in."),
        (r"(transformer\.layers\.\d+\.mlp)\.layers\.1\.", r"\1.proj_out."),
        (r"(head|mlps\.\d+|pointer_proj)\.layers\.0\.", r"\1.proj_in."),
        (r"(head|mlps\.\d+|pointer_proj)\.layers\.1\.", r"\1.layers.0."),
        (r"(head|mlps\.\d+|pointer_proj)\.layers\.2\.", r"\1.proj_out."),
        # Sequences, whose modules have names there.
        (r"output_upscaling\.0\.", "upscale_conv1."),
        (r"output_upscaling\.1\.", "upscale_layer_norm."),
        (r"output_upscaling\.3\.", "upscale_conv2."),
        (r"mask_downscaling\.0\.", "mask_embed.conv1."),
        (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
        (r"mask_downscaling\.3\.", "mask_embed.conv2."),
        (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
        (r"mask_downscaling\.6\.", "mask_embed.conv3."),
        (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
        (r"mask_downsampler\.encoder\.0\.", "mask_downsampler.layers.0.conv."),
        (r"mask_downsampler\.encoder\.1\.", "mask_downsampler.layers.0.layer_norm."),
        (r"mask_downsampler\.encoder\.3\.", "mask_downsampler.layers.1.conv."),
        (r"mask_downsampler\.encoder\.4\.", "mask_downsampler.layers.1.layer_norm."),
        (r"mask_downsampler\.encoder\.6\.", "mask_downsampler.layers.2.conv."),
        (r"mask_downsampler\.encoder\.7\.", "mask_downsampler.layers.2.layer_norm."),
        (r"mask_downsampler\.encoder\.9\.", "mask_downsampler.layers.3.conv."),
        (r"mask_downsampler\.encoder\.10\.", "mask_downsampler.layers.3.layer_norm."),
        (r"ff\.0\.", "mlp.layer_norm."),
        (r"ff\.1\.", "mlp.up_proj."),
        (r"ff\.3\.", "mlp.down_proj."),
        (r"linear1\.", "mlp.up_proj."),
        (r"linear2\.", "mlp.down_proj."),
        (r"\.fuser\.", ".memory_fuser."),
        (r"\.dwconv\.", ".depthwise_conv."),
        (r"\.pwconv", ".pointwise_conv"),
        (r"\.gamma$", ".scale"),
        (r"\.pix_feat_proj\.", ".feature_projection."),
        (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
        (r"\.out_proj\.", ".o_proj."),
        (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
        # The perceiver, whose norms stand beside its attentions there.
        (r"^spatial_perceiver\.latents$", "spatial_perceiver.latents_1d"),
        (r"\.attn\.norm_x\.", ".layer_norm_input."),
        (r"\.attn\.norm_latents\.", ".layer_norm_latents."),
        (r"(perceiver.*\.self)_attn\.norm\.", r"\1_norm."),
        (r"(perceiver.*\.self)_attn\.", r"\1_attention."),
        (r"(perceiver.*)\.attn\.", r"\1.cross_attention."),
        (r"\.self_norm\.", ".layer_norm_self."),
        (r"\.to_q\.", ".q_proj."),
        (r"\.to_out\.", ".o_proj."),
        (r"\.norm", ".layer_norm"),
    )
)
_POINT_EMBEDDING = re.compile(r"^sam_prompt_encoder\.point_embeddings\.(\d+)\.weight$")
_POINT_TABLE = "prompt_encoder.point_embed.weight"


def is_transformers_layout(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of an EdgeTAM of ``transformers``."""
    return any(key.startswith(_MARK) for key in state_dict)


def from_transformers(state_dict: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Rename what is there; what is missing stays missing, what is unknown keeps its name.

    Args:
        state_dict: see :func:`is_transformers_layout`.
        names: Meta's, of the model to be filled.
    """
    rest = dict(state_dict)
    table = rest.pop(_POINT_TABLE, None)
    rest.pop(_COPY, None)
    found: dict[str, Tensor] = {}
    for name in names:
        theirs = _renamed(name)
        point = _POINT_EMBEDDING.match(name)
        if point is not None:
            row = int(point[1])
            if table is not None and row < len(table):
                found[name] = table[row : row + 1]
        elif theirs in rest:
            found[name] = rest.pop(theirs)
        elif all(part in rest for part in _keys_and_values(theirs)):
            found[name] = torch.cat([rest.pop(part) for part in _keys_and_values(theirs)])
    return found | rest


def to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's layout in that of ``transformers``.

    Args:
        state_dict: of an EdgeTAM.
    """
    found: dict[str, Tensor] = {}
    table: dict[int, Tensor] = {}
    for name, value in state_dict.items():
        theirs = _renamed(name)
        point = _POINT_EMBEDDING.match(name)
        if point is not None:
            table[int(point[1])] = value
        elif ".to_kv." in theirs:
            found |= zip(_keys_and_values(theirs), value.chunk(2), strict=True)
        else:
            found[theirs] = value
    found[_POINT_TABLE] = torch.cat([table[row] for row in sorted(table)])
    found[_COPY] = found[_COPIED]
    return found


def _renamed(name: str) -> str:
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name


def _keys_and_values(name: str) -> tuple[str, str]:
    return name.replace(".to_kv.", ".k_proj."), name.replace(".to_kv.", ".v_proj.")
