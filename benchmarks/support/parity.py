"""The relative error of every part of the network beside the official ``sam2`` package, in float32.

``tests/sam2model/test_parity.py`` asserts the bound, ``benchmarks/quality/parity.py`` prints the
table.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.support.reference import Pair, make_pair, relative_error
from sam2model.mask_decoder import to_tokens
from sam2model.sam2 import (
    MAX_OBJECT_POINTERS,
    NUM_MASK_MEMORIES,
    ImageFeatures,
    ObjectMasks,
    ObjectPointer,
    SpatialMemory,
)

# The largest relative error any part may have.
BOUND = 1e-4

VARIANT_NAMES = (
    "sam2_hiera_tiny",
    "sam2_hiera_base_plus",
    "sam2.1_hiera_tiny",
    "sam2.1_hiera_base_plus",
)
# Everything after the image encoder is independent of the trunk and of the image's size, and
# memory attention is quadratic in the latter's square.
_SMALL_IMAGE = 256
# Large enough for the few pointers to be noticed among thousands of memory tokens.
POINTER_SCALE = 2.0

Errors = Iterator[tuple[str, float]]


def image_features(pair: Pair) -> Errors:
    """The image encoder, on noise."""
    images = _noise(1, 3, pair.ours.image_size, pair.ours.image_size)
    official = pair.official.forward_image(images)["backbone_fpn"]
    ours = pair.ours.encode_image(images)
    for stride, a, b in zip((4, 8, 16), (*ours.high_res, ours.embedding), official, strict=True):
        yield f"image features, stride {stride}", relative_error(a, b)


def large_memory_attention(pair: Pair) -> Errors:
    """Conditioning on one memory and one pointer, at the pair's image size."""
    embedding = _features(pair, batch=1).embedding
    yield (
        "memory attention, full size",
        _conditioning_error(pair, embedding, frame=1, conditioning={0}, others=set(), num_frames=2),
    )


def mask_decoder(pair: Pair) -> Errors:
    """Prompt encoder and mask decoder on three objects, for every kind of prompt."""
    size = pair.ours.image_size
    features = _features(pair, batch=3)
    embedding, high_res = features.embedding, features.high_res
    points = torch.rand(3, 4, 2, generator=_generator()) * size
    logits = 5 * _noise(3, 1, size // 4, size // 4)
    clicks = torch.tensor([[1, 0, 1, -1]] * 3)
    box = torch.tensor([[2, 3, 1, 0]] * 3)
    cases: dict[str, dict[str, Any]] = {
        "one click, three masks": {
            "points": points[:, :1],
            "labels": clicks[:, :1],
            "multimask": True,
        },
        "one click, one mask": {"points": points[:, :1], "labels": clicks[:, :1]},
        "clicks of both signs": {"points": points, "labels": clicks},
        "box": {"points": points[:, :2], "labels": box[:, :2]},
        "box and clicks": {"points": points, "labels": box},
        "clicks and mask": {"points": points, "labels": clicks, "mask_logits": logits},
        "no prompt, three masks": {"multimask": True},
    }
    for case, prompt in cases.items():
        _set_presence(pair, features, prompt, absent=True)
        official = pair.official._forward_sam_heads(
            backbone_features=embedding,
            point_inputs=_point_inputs(prompt),
            mask_inputs=prompt.get("mask_logits"),
            high_res_features=list(high_res),
            multimask_output=prompt.get("multimask", False),
        )
        yield from _object_errors(
            case, pair.ours.segment_object(embedding, high_res, **prompt), official
        )


def mask_as_output(pair: Pair) -> Errors:
    """Given masks as answers: one of an object, one empty."""
    size = pair.ours.image_size
    features = _features(pair, batch=2)
    masks = _blobs(2, size)
    masks[1] = 0
    # Presence is the mask's to say, but the decoder must not call its object absent first.
    as_prompt = {"mask_logits": pair.ours.mask_downsample(masks)}
    _set_presence(pair, features, as_prompt, absent=False)
    official = pair.official._use_mask_as_output(features.embedding, list(features.high_res), masks)
    yield from _object_errors("given mask", pair.ours.mask_as_output(features, masks), official)


def memory_encoder(pair: Pair) -> Errors:
    """Spatial memories of a present and of an absent object."""
    size = pair.ours.image_size
    embedding = _features(pair, batch=2).embedding
    logits = 8 * _noise(2, 1, size, size)
    scores = torch.tensor([[3.0], [-3.0]])
    for binarize in (True, False):
        pair.official.binarize_mask_from_pts_for_mem_enc = binarize
        official, position = pair.official._encode_new_memory(
            [_tokens(embedding)], [tuple(embedding.shape[-2:])], logits, scores, binarize
        )
        ours = pair.ours.encode_memory(embedding, logits, scores, binarize)
        case = "memory, binarized mask" if binarize else "memory"
        yield case, relative_error(ours, to_tokens(official))
    position = position[0].flatten(2).mT[:1]
    yield "memory positions", relative_error(pair.ours.memory_position, position)


def memory_attention(pair: Pair) -> Errors:
    """Conditioning on memories and pointers, forwards and backwards, of two objects."""
    embedding = _features(pair, batch=2).embedding
    for case, reverse, num_frames in (
        ("memory attention", False, 40),
        ("memory attention, backwards", True, 40),
        ("memory attention, short video", False, 10),
    ):
        others = {t for t in range(2, 15) if t < num_frames and t not in (8, 9)}
        yield case, _conditioning_error(pair, embedding, 8, {0, 9}, others, num_frames, reverse)


def _conditioning_error(
    pair: Pair,
    embedding: Tensor,
    frame: int,
    conditioning: set[int],
    others: set[int],
    num_frames: int,
    reverse: bool = False,
) -> float:
    """Error of one frame's conditioned features, given which frames are remembered.

    The official package computes in float64 here. The attention that these weights make is so sharp
    that its own float32 is as far from that as the bound, on some CPUs; this network's is not.
    """
    sign = -1 if reverse else 1
    outputs = {t: _output(pair, len(embedding), t) for t in sorted(conditioning | others)}
    position = _official_position(pair, embedding)
    with _in_float64(pair.official) as model:
        official = model._prepare_memory_conditioned_features(
            frame_idx=frame,
            is_init_cond_frame=False,
            current_vision_feats=[_tokens(embedding).double()],
            current_vision_pos_embeds=[position.double()],
            feat_sizes=[tuple(embedding.shape[-2:])],
            output_dict={
                "cond_frame_outputs": {t: _float64(outputs[t]) for t in sorted(conditioning)},
                "non_cond_frame_outputs": {t: _float64(outputs[t]) for t in sorted(others)},
            },
            num_frames=num_frames,
            track_in_reverse=reverse,
        )
    ago = {t: (frame - t) * sign for t in outputs}
    span = min(num_frames, MAX_OBJECT_POINTERS)
    memories = [
        SpatialMemory(0 if t in conditioning else ago[t], to_tokens(outputs[t]["maskmem_features"]))
        for t in outputs
        if t in conditioning or 0 < ago[t] < NUM_MASK_MEMORIES
    ]
    # Pointers of conditioning frames that lie ahead are left out; the others have no limit.
    pointers = [
        ObjectPointer(ago[t], outputs[t]["obj_ptr"])
        for t in outputs
        if ago[t] > 0 and (t in conditioning or ago[t] < span)
    ]
    ours = pair.ours.condition_on_memory(embedding, memories, pointers, span - 1)
    return relative_error(ours, official)


@contextmanager
def _in_float64(model: Any) -> Iterator[Any]:
    """Let an official model compute in float64 for a while; its float32 weights stay what they
    are."""
    usual = torch.get_default_dtype()
    model.double()
    torch.set_default_dtype(torch.float64)  # it makes tensors of its own
    try:
        yield model
    finally:
        torch.set_default_dtype(usual)
        model.float()


def _float64(output: dict[str, Any]) -> dict[str, Any]:
    """What :func:`_output` gives, in float64."""
    return {
        name: [each.double() for each in value] if isinstance(value, list) else value.double()
        for name, value in output.items()
    }


def tracking(pair: Pair) -> Errors:
    """Six frames of two objects through ``track_step``: a click, then memories only."""
    size = pair.ours.image_size
    num_frames = 6
    clicks = torch.rand(2, 1, 2, generator=_generator()) * size
    labels = torch.ones(2, 1, dtype=torch.int32)
    start = _features(pair, batch=2, seed=0)
    start = replace(start, embedding=pair.ours.without_memory(start.embedding))
    _set_presence(pair, start, {"points": clicks, "labels": labels}, absent=True)
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    memories: dict[int, Tensor] = {}
    pointers: dict[int, Tensor] = {}
    errors = []
    for frame in range(num_frames):
        first = frame == 0
        features = _features(pair, batch=2, seed=frame)
        high_res = [_tokens(x) for x in features.high_res]
        maps = [*features.high_res, features.embedding]
        official = pair.official.track_step(
            frame_idx=frame,
            is_init_cond_frame=first,
            current_vision_feats=[*high_res, _tokens(features.embedding)],
            current_vision_pos_embeds=[None, None, _official_position(pair, features.embedding)],
            feat_sizes=[tuple(x.shape[-2:]) for x in maps],
            point_inputs={"point_coords": clicks, "point_labels": labels} if first else None,
            mask_inputs=None,
            output_dict=outputs,
            num_frames=num_frames,
        )
        outputs["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = official
        if first:
            conditioned = pair.ours.without_memory(features.embedding)
        else:
            conditioned = pair.ours.condition_on_memory(
                features.embedding,
                [SpatialMemory(frame - t if t else 0, memories[t]) for t in memories],
                [ObjectPointer(frame - t, pointers[t]) for t in pointers],
                num_frames - 1,
            )
        ours = pair.ours.segment_object(
            conditioned,
            features.high_res,
            clicks if first else None,
            labels if first else None,
            multimask=True,
        )
        memories[frame] = pair.ours.encode_memory(
            features.embedding, ours.high_res_logits, ours.object_score_logits
        )
        pointers[frame] = ours.pointer
        errors += [
            _object_error(ours.logits, official["pred_masks"]),
            _object_error(ours.pointer, official["obj_ptr"]),
            _object_error(memories[frame], to_tokens(official["maskmem_features"])),
        ]
    yield "tracking, 6 frames", max(errors)


def _object_errors(case: str, ours: ObjectMasks, official: tuple[Tensor, ...]) -> Errors:
    candidates, _, ious, logits, high_res_logits, pointer, scores = official
    yield (
        f"mask logits: {case}",
        max(
            _object_error(ours.candidates, candidates),
            _object_error(ours.logits, logits),
            _object_error(ours.high_res_logits, high_res_logits),
        ),
    )
    yield f"IoU scores: {case}", relative_error(ours.candidate_ious, ious)
    yield f"object scores: {case}", relative_error(ours.object_score_logits, scores)
    yield f"object pointers: {case}", _object_error(ours.pointer, pointer)


def _object_error(ours: Tensor, official: Tensor) -> float:
    """The worst error of any object, each by itself: absent objects have logits of -1024."""
    return max(relative_error(a, b) for a, b in zip(ours, official, strict=True))


def _generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=_generator(seed))


def _blobs(batch: int, size: int) -> Tensor:
    """Random smooth masks ``[batch, 1, size, size]`` of zeros and ones."""
    coarse = _noise(batch, 1, 8, 8)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (smooth > 0).float()


def _features(pair: Pair, batch: int, seed: int = 7) -> ImageFeatures:
    """Noise in the shape of image features: other parts are compared on equal inputs."""
    dim, size = pair.ours.variant.d_model, pair.ours.embedding_size
    return ImageFeatures(
        _noise(batch, dim, size, size, seed=seed),
        (
            _noise(batch, dim // 8, 4 * size, 4 * size, seed=seed + 100),
            _noise(batch, dim // 4, 2 * size, 2 * size, seed=seed + 200),
        ),
    )


def _output(pair: Pair, batch: int, frame: int) -> dict[str, Any]:
    """What the official tracker keeps of a frame, as noise."""
    dim, size = pair.ours.variant.d_model, pair.ours.embedding_size
    memory = _noise(batch, 64, size, size, seed=frame)
    return {
        "maskmem_features": memory,
        "maskmem_pos_enc": [pair.official.memory_encoder.position_encoding(memory)],
        "obj_ptr": POINTER_SCALE * _noise(batch, dim, seed=frame),
    }


def _official_position(pair: Pair, features: Tensor) -> Tensor:
    return _tokens(pair.official.image_encoder.neck.position_encoding(features))


def _tokens(feature_map: Tensor) -> Tensor:
    """``[B, C, h, w]`` to ``[h * w, B, C]``, the official layout."""
    return feature_map.flatten(2).permute(2, 0, 1)


def _point_inputs(prompt: dict[str, Any]) -> dict[str, Tensor] | None:
    if "points" not in prompt:
        return None
    return {"point_coords": prompt["points"], "point_labels": prompt["labels"].int()}


def _set_presence(
    pair: Pair, features: ImageFeatures, prompt: dict[str, Any], absent: bool
) -> None:
    """Shift the object scores so that the lowest counts as absent, or none does."""
    scores = pair.ours.segment_object(
        features.embedding, features.high_res, **prompt
    ).object_score_logits
    lowest = scores.sort(dim=0).values[:2]
    shift = -lowest.mean() if absent else 1 - lowest[0]
    models: tuple[Any, Any] = pair.ours, pair.official
    for model in models:
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += shift


PARTS: tuple[Callable[[Pair], Errors], ...] = (
    mask_decoder,
    mask_as_output,
    memory_encoder,
    memory_attention,
    tracking,
)


def measure(name: str) -> Errors:
    """All relative errors of one variant, by part."""
    yield from measure_full_size(name)
    yield from measure_parts(name)


def measure_full_size(name: str) -> Errors:
    """Errors of what depends on the trunk or the image size."""
    with torch.no_grad():
        pair = make_pair(name)
        yield from image_features(pair)
        yield from large_memory_attention(pair)


def measure_parts(name: str) -> Errors:
    """Errors of everything after the image encoder."""
    pair = make_pair(name, image_size=_SMALL_IMAGE)
    with torch.no_grad():
        for part in PARTS:
            yield from part(pair)
