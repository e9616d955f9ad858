"""EdgeTAM of Hugging Face's ``transformers`` beside ours, with the same random weights.

``EdgeTamVideoModel`` is a second implementation of EdgeTAM, with ``timm``'s RepViT for a trunk.
Its batch norms and branches are computed one by one, ours are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from benchmarks.support import timm_stand_in
from benchmarks.support.reference import draw_weights
from sam2model.preprocessing import preprocess
from sam2model.sam2 import SAM2
from sam2model.transformers_layout import to_transformers
from sam2model.variants import VARIANTS

NAME = "edgetam"
_LOGIT_LIMIT = 32.0  # of an earlier answer that is improved, as in Meta's predictor


class EdgeTAMPair(NamedTuple):
    """``transformers``' model and ours, with the same weights."""

    peer: Any
    ours: SAM2


def make_pair(image_size: int, seed: int = 0) -> EdgeTAMPair:
    """Build both models and load the same random weights into them, strictly.

    Args:
        image_size: side of the square input, a multiple of 256.
        seed: of the weights.
    """
    ours = SAM2(VARIANTS[NAME], image_size).eval()
    weights = draw_weights(ours.state_dict(), seed)
    peer = build_peer(image_size)
    peer.load_state_dict(to_transformers(weights), strict=True)
    ours.load_state_dict(weights, strict=True)
    return EdgeTAMPair(peer, ours)


def build_peer(image_size: int) -> Any:
    """``EdgeTamVideoModel`` in evaluation mode, with weights of its own."""
    from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, PreTrainedConfig

    side = image_size // 16
    vision = {
        "model_type": "edgetam_vision_model",
        "backbone_config": PreTrainedConfig(),
        "backbone_feature_sizes": [[image_size // stride] * 2 for stride in (4, 8, 16)],
    }
    config = EdgeTamVideoConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": image_size},
        image_size=image_size,
        memory_attention_rope_feat_sizes=[side, side],
        enable_temporal_pos_encoding_for_object_pointers=False,
        enable_occlusion_spatial_embedding=False,
    )
    # Its own wrapper of timm asks for torchvision, which it then does not use.
    with mock.patch("transformers.models.edgetam.modeling_edgetam.AutoModel", TimmTrunk):
        return EdgeTamVideoModel(config).eval()


class TimmTrunk(nn.Module):
    """``timm``'s RepViT-M1, in the place and under the name of ``transformers``' wrapper."""

    def __init__(self) -> None:
        super().__init__()
        timm = timm_stand_in.import_timm()
        self.timm_model = timm.create_model(
            "repvit_m1", features_only=True, out_indices=(0, 1, 2, 3)
        )

    @classmethod
    def from_config(cls, _: object) -> TimmTrunk:
        """As ``AutoModel`` is called."""
        return cls()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Four maps, as ``last_hidden_state``."""
        return SimpleNamespace(last_hidden_state=self.timm_model(pixel_values), hidden_states=None)


class PeerFrame(NamedTuple):
    """What the peer says about a frame: logits ``[O, S/4, S/4]`` and object scores ``[O]``."""

    frame: int
    logits: Tensor
    object_scores: Tensor


class PeerTracker:
    """``EdgeTamVideoModel`` driven frame by frame; methods mean what ``VideoTracker``'s do.

    Its own loop begins every answer to points anew and forgets corrections. What is done about
    both is Meta's way, and ours: an earlier answer goes in with the points, and a corrected frame
    conditions the others.
    """

    def __init__(self, model: Any, frames: Sequence[NDArray[np.uint8]]) -> None:
        from transformers import EdgeTamVideoInferenceSession

        device = torch.device("cpu")
        video = torch.cat([preprocess(frame, model.image_size, device) for frame in frames])
        height, width = frames[0].shape[:2]
        self._model = model
        self._session = EdgeTamVideoInferenceSession(video, height, width, dtype=torch.float32)
        self._size = (width, height)

    @torch.inference_mode()
    def prompt(
        self,
        frame: int,
        object_id: int,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
    ) -> None:
        """Answer points or a box; on a frame with an answer, points improve it."""
        session = self._session
        index = session.obj_id_to_idx(object_id)
        outputs = session.output_dict_per_obj[index]
        earlier = outputs["non_cond_frame_outputs"].pop(frame, None)
        answer = self._model._run_single_frame_inference(
            inference_session=session,
            frame_idx=frame,
            obj_idx=index,
            batch_size=1,
            is_init_cond_frame=frame not in session.frames_tracked_per_obj[index],
            point_inputs=self._point_inputs(points, labels, box),
            mask_inputs=None,
            reverse=False,
            run_mem_encoder=True,
            prev_sam_mask_logits=(
                None
                if earlier is None
                else earlier["pred_masks"].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
            ),
        )
        session.store_output(index, frame, output_value=answer, is_conditioning_frame=True)

    def propagate(self, start: int, count: int) -> Iterator[PeerFrame]:
        """Carry all objects on, one frame per step."""
        for frame in range(start, start + count):
            output = self._model(self._session, frame_idx=frame)
            yield PeerFrame(
                frame, output.pred_masks.flatten(0, 1), output.object_score_logits.flatten()
            )

    def _point_inputs(
        self, points: ArrayLike | None, labels: ArrayLike | None, box: ArrayLike | None
    ) -> dict[str, Tensor]:
        xy = [np.reshape(np.asarray(x, dtype=np.float32), (-1, 2)) for x in (box, points) if x]
        given = [2, 3] if box else []
        given += list(np.asarray(labels if labels else [1] * len(xy[-1]))) if points else []
        scaled = np.concatenate(xy) / self._size * self._model.image_size
        return {
            "point_coords": torch.from_numpy(scaled.astype(np.float32))[None, None],
            "point_labels": torch.tensor(given, dtype=torch.int32)[None, None],
        }


def tracked_masks(
    pair: EdgeTAMPair,
    image: Tensor,
    memories: Mapping[int, Tensor],
    pointers: Mapping[int, Tensor],
    frame: int,
    length: int,
) -> Tensor:
    """The peer's masks of a tracked frame, object by object: bool ``[O, 1, S/4, S/4]``.

    Args:
        image: ``[1, 3, S, S]``.
        memories: by frame, tokens ``[O, 512, 64]``; frame 0 is the prompted one.
        pointers: by frame, ``[O, C]``.
        frame: index of the frame.
        length: of the video.
    """
    from transformers import EdgeTamVideoInferenceSession

    session = EdgeTamVideoInferenceSession(dtype=torch.float32)
    session.processed_frames = dict.fromkeys(range(length), image[0])
    masks = []
    for i in range(len(pointers[0])):
        index = session.obj_id_to_idx(i)
        outputs = session.output_dict_per_obj[index]
        for t, tokens in memories.items():
            kind = "cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"
            outputs[kind][t] = {
                "maskmem_features": tokens[i : i + 1].to(image.dtype),
                "maskmem_pos_enc": pair.ours.memory_position,
                "object_pointer": pointers[t][i : i + 1],
            }
        answer = pair.peer._run_single_frame_inference(
            inference_session=session,
            frame_idx=frame,
            obj_idx=index,
            batch_size=1,
            is_init_cond_frame=False,
            point_inputs=None,
            mask_inputs=None,
            reverse=False,
            run_mem_encoder=True,
        )
        masks.append(answer["pred_masks"] > 0)
    return torch.cat(masks)
