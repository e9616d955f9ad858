"""The model's side of tracking, as functions: objects and what is remembered in, answers out.

:mod:`sam2model.video_tracker` decides what is computed when; nothing here keeps any state.
Everything runs inside the caller's inference mode and autocast.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sam2model.sam2 import (
    MAX_OBJECT_POINTERS,
    NO_OBJECT_LOGIT,
    SAM2,
    ImageFeatures,
    ObjectMasks,
    is_ambiguous,
)
from sam2model.track_memory import Answer, PromptedFrame, Recall, SpilledAnswer
from sam2model.yield_point import yield_point

# Logits of an earlier answer are clipped to this range where they become a prompt.
_LOGIT_LIMIT = 32.0
# Objects computed at once. At 1024 pixels each takes about 0.3 GB on its way through memory
# attention and memory encoder.
_MAX_BATCH = 8
# Dtype of spatial memories between frames, as in the reference.
_MEMORY_DTYPE = torch.bfloat16


def answer_mask(model: SAM2, features: ImageFeatures, mask: NDArray[np.bool_]) -> PromptedFrame:
    """Take a mask prompt for the answer.

    Args:
        model: the network.
        features: of the frame.
        mask: bool ``[h, w]``, stretched over the frame.
    """
    pixels = torch.from_numpy(mask).to(model.device).float()[None, None]
    size = (model.image_size, model.image_size)
    if pixels.shape[2:] != size:
        pixels = F.interpolate(
            pixels, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        pixels = (pixels >= 0.5).float()
    return _remember_prompted(model, features, model.mask_as_output(features, pixels))


def answer_points(
    model: SAM2,
    features: ImageFeatures,
    conditioned: Tensor,
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    earlier: Answer | None,
) -> PromptedFrame:
    """Answer points.

    Args:
        model: the network.
        features: of the frame.
        conditioned: ``[1, C, h, w]``, the same with or without memory.
        points: ``[1, P, 2]``, xy in pixels of the model's input.
        labels: ``[1, P]``, see :meth:`sam2model.sam2.SAM2.decode_masks`.
        earlier: the object's answer on this frame so far, to be improved.
    """
    masks = model.segment_object(
        conditioned,
        features.high_res,
        torch.from_numpy(points).to(model.device),
        torch.from_numpy(labels).to(model.device),
        None if earlier is None else earlier.logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)[None, None],
        multimask=is_ambiguous(labels.shape[1]),
    )
    return _remember_prompted(model, features, masks)


def _remember_prompted(model: SAM2, features: ImageFeatures, masks: ObjectMasks) -> PromptedFrame:
    # Encoded at once, while there are features. The reference waits for propagation, to keep
    # objects from overlapping in memory, an option that is off in every model.
    memory = model.encode_memory(
        features.embedding, model.upscale(masks.logits), masks.object_score_logits, binarize=True
    )
    return PromptedFrame(_answers(masks)[0], memory.to(_MEMORY_DTYPE))


class Followed(NamedTuple):
    """An object on a frame that it was followed to.

    Attributes:
        memory: spatial memory ``[1, M, 64]``.
        candidates: float ``[3, S/4, S/4]``, logits of the masks that the answer was chosen from.
    """

    answer: Answer
    memory: Tensor
    candidates: Tensor


def follow(
    model: SAM2, features: ImageFeatures, recalls: Sequence[Recall], num_frames: int
) -> list[Followed]:
    """Find objects on a frame by what is remembered of them.

    Args:
        model: the network.
        features: of the frame.
        recalls: one per object.
        num_frames: length of the video.

    Returns:
        What was found of each object, in the same order.
    """
    found: dict[int, Followed] = {}
    order = sorted(range(len(recalls)), key=lambda i: recalls[i].layout)
    for first in range(0, len(order), _MAX_BATCH):
        batch = order[first : first + _MAX_BATCH]
        groups = groupby((recalls[i] for i in batch), key=lambda recall: recall.layout)
        masks = model.segment_object(
            torch.cat([condition(model, features, list(alike), num_frames) for _, alike in groups]),
            features.high_res,
            multimask=is_ambiguous(num_points=0),
        )
        yield_point()
        memories = model.encode_memory(
            features.embedding, masks.high_res_logits, masks.object_score_logits
        ).to(_MEMORY_DTYPE)
        parts = zip(_answers(masks), memories.split(1), masks.candidates, strict=True)
        found |= zip(batch, (Followed(*each) for each in parts), strict=True)
        yield_point()
    return [found[i] for i in range(len(recalls))]


def condition(
    model: SAM2, features: ImageFeatures, recalls: Sequence[Recall], num_frames: int
) -> Tensor:
    """Memory attention for B objects whose recalls have the same layout: ``[B, C, h, w]``."""
    first = recalls[0]
    memories = [
        memory._replace(tokens=tokens)
        for memory, tokens in zip(
            first.memories,
            _together([[memory.tokens for memory in recall.memories] for recall in recalls]),
            strict=True,
        )
    ]
    pointers = [
        pointer._replace(vector=vector)
        for pointer, vector in zip(
            first.pointers,
            _together([[pointer.vector for pointer in recall.pointers] for recall in recalls]),
            strict=True,
        )
    ]
    horizon = min(num_frames, MAX_OBJECT_POINTERS) - 1
    return model.condition_on_memory(features.embedding, memories, pointers, horizon)


def _together(values: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
    """The tensors ``[1, ...]`` of B objects, each object's the same number, as ``[B, ...]``; by one
    copy, however many they are."""
    if len(values) == 1 or not values[0]:
        return values[0]
    flat = [value for same in values for value in same]
    return torch.cat(flat).unflatten(0, (len(values), -1)).unbind(1)


def encode_again(model: SAM2, features: ImageFeatures, spilled: SpilledAnswer) -> Tensor:
    """The spatial memory ``[1, M, 64]`` of a frame whose answer was spilled."""
    logits = torch.from_numpy(spilled.logits())[None, None].to(model.device)
    score = torch.full((1, 1), spilled.object_score, device=model.device)
    memory = model.encode_memory(features.embedding, model.upscale(logits), score, spilled.binarize)
    return memory.to(_MEMORY_DTYPE)


def unspill(spilled: SpilledAnswer, device: torch.device) -> Answer:
    """A spilled answer, back on the device."""
    return Answer(
        torch.from_numpy(spilled.logits()).to(device),
        torch.from_numpy(spilled.pointer).to(device),
        torch.tensor(spilled.object_score, device=device),
        torch.tensor(spilled.iou, device=device),
    )


def no_answer(model: SAM2) -> Answer:
    """The answer given for an object that has none on a frame, as in the reference."""
    side = model.image_size // 4
    return Answer(
        torch.full((side, side), NO_OBJECT_LOGIT, device=model.device),
        model.no_obj_ptr[0].float(),
        torch.tensor(NO_OBJECT_LOGIT, device=model.device),
        torch.tensor(0.0, device=model.device),
    )


def _answers(masks: ObjectMasks) -> list[Answer]:
    """One answer per object of a batch."""
    return [
        Answer(*parts)
        for parts in zip(
            masks.logits[:, 0].float(),
            masks.pointer.float(),
            masks.object_score_logits[:, 0].float(),
            masks.iou[:, 0].float(),
            strict=True,
        )
    ]
