"""SAM 2 of Hugging Face's ``transformers`` (``Sam2Model``, ``Sam2VideoModel``), same weights.

``transformers`` is a second implementation of SAM 2 that users have; where it is not installed,
benchmarks leave it out and say so. Its parameters are those of the official package under other
names, by the rules of its own conversion script (``convert_sam2_to_hf.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2model.preprocessing import preprocess
from sam2model.transformers_layout import to_transformers
from sam2model.variants import VARIANTS, TrunkConfig, Variant

Encode = Callable[[Tensor], Tensor]

# What a name holds once it is changed as EdgeTAM's are, and what stands there in transformers.
_RENAMED = (
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("patch_embed.proj.", "patch_embed.projection."),
    (".layer_layer_norm", ".layer_norm"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("object_pointer_tpos_proj", "temporal_positional_encoding_projection_layer"),
)
_BLOCK = re.compile(r"(vision_encoder\.backbone\.blocks\.\d+\.mlp)\.layers\.([01])\.")
_FEED_FORWARD = re.compile(r"(memory_attention\.layers\.\d+)\.mlp\.(up|down)_proj\.")


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
        RuntimeError: a weight has no counterpart.
    """
    model = build_model(name, image_size, weights, device)
    # It is part of the embedding there, and of what follows elsewhere.
    torch.nn.init.zeros_(model.no_memory_embedding)

    def encode(image: Tensor) -> Tensor:
        features: Tensor = model.get_image_embeddings(image)[-1]
        return features

    return encode


def build_model(
    name: str,
    image_size: int,
    weights: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
    *,
    video: bool = False,
) -> Any:
    """``Sam2Model``, or ``Sam2VideoModel``, in evaluation mode.

    Args:
        name: of the variant.
        image_size: side of the square input, S.
        weights: the official state dict.
        device: that it runs on.
        video: whether it tracks.

    Raises:
        RuntimeError: a weight of the model has no counterpart.
    """
    from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

    config = _config(VARIANTS[name], image_size)
    model: Any = (
        Sam2VideoModel(Sam2VideoConfig(**config, **_memory_config(VARIANTS[name], image_size)))
        if video
        else Sam2Model(Sam2Config(**config))
    )
    renamed = {_renamed(key): value for key, value in to_transformers(weights).items()}
    wanted = model.state_dict().keys()
    model.load_state_dict({key: renamed[key] for key in wanted if key in renamed}, strict=True)
    return model.eval().to(device)


class Track:
    """Drives a ``Sam2VideoModel`` frame by frame."""

    def __init__(self, model: Any, frames: Sequence[NDArray[np.uint8]]) -> None:
        from transformers import Sam2VideoInferenceSession

        device = model.device
        video = torch.cat([preprocess(frame, model.image_size, device) for frame in frames])
        self._model = model
        self._size = (frames[0].shape[0], frames[0].shape[1])
        self._session = Sam2VideoInferenceSession(
            video,
            self._size[0],
            self._size[1],
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=model.dtype,
        )

    def prompt(self, object_id: int, box: Sequence[float]) -> None:
        """A box on frame 0, x0, y0, x1, y1 in pixels."""
        session, (height, width) = self._session, self._size
        corners = torch.tensor(box).view(1, 1, 2, 2) / torch.tensor([width, height])
        given = {
            "point_coords": corners * self._model.image_size,
            "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32),
        }
        session.add_point_inputs(session.obj_id_to_idx(object_id), 0, given)
        session.obj_with_new_inputs.append(object_id)

    def masks(self, frame: int) -> NDArray[np.bool_]:
        """Of a frame, all before it having been asked for: bool ``[O, H, W]``."""
        logits = self._model(self._session, frame_idx=frame).pred_masks
        return large(logits, self._size)[:, 0].cpu().numpy()


def large(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """As its ``post_process_masks``: bool ``[B, M, H, W]`` of logits ``[B, M, h, w]``."""
    resized = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    return resized > 0


def _renamed(key: str) -> str:
    for official, theirs in _RENAMED:
        key = key.replace(official, theirs)
    key = _BLOCK.sub(lambda found: f"{found[1]}.proj_{('in', 'out')[int(found[2])]}.", key)
    return _FEED_FORWARD.sub(lambda found: f"{found[1]}.linear{1 if found[2] == 'up' else 2}.", key)


def _memory_config(variant: Variant, image_size: int) -> dict[str, Any]:
    dim = variant.d_model
    return {
        "image_size": image_size,
        "memory_attention_hidden_size": dim,
        "memory_attention_num_layers": variant.memory_layers,
        "memory_attention_feed_forward_hidden_size": variant.memory_feedforward,
        "memory_attention_rope_feat_sizes": [image_size // 16] * 2,
        "memory_encoder_hidden_size": dim,
        "mask_downsampler_embed_dim": dim,
        "memory_fuser_embed_dim": dim,
        "memory_fuser_intermediate_dim": 4 * dim,
        "enable_occlusion_spatial_embedding": variant.occlusion_embedding,
        "enable_temporal_pos_encoding_for_object_pointers": variant.pointer_time_encoding,
    }


def _config(variant: Variant, image_size: int) -> dict[str, Any]:
    trunk, dim = variant.trunk, variant.d_model
    assert isinstance(trunk, TrunkConfig)
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
