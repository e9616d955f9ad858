"""What stands in the network's place where one of its means is switched off; for ``means.py``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from sam2model import attention, dot_product, fpn_neck, hiera, layers, memory_attention
from sam2model.inference_weights import Derived
from sam2model.matrix_product import Activation, activate, linear, pack
from sam2model.sam2 import SAM2

Patches = Iterable[AbstractContextManager[Any]]


@dataclass(frozen=True)
class Means:
    """One means.

    Attributes:
        meaning: what is there without it.
        patches: context managers within which the model computes without it.
        dtypes: those in which it makes a difference.
    """

    meaning: str
    patches: Callable[[SAM2], Patches]
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


def _plain_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Tensor:
    return activate(F.linear(x, weight, bias), activation)


def _no_strips(model: SAM2) -> Patches:
    yield mock.patch.object(hiera, "_TOKENS_PER_STRIP", 1 << 40)


def _no_window_order(model: SAM2) -> Patches:
    def forward(image: Tensor) -> list[Tensor]:
        trunk = model.image_encoder.trunk
        x = trunk.patch_embed(image)
        x = x + trunk._position_embedding(x.shape[1], x.shape[2])
        maps = []
        for i, block in enumerate(trunk.blocks):
            x = block(x)
            if i in trunk.stage_ends:
                maps.append(x)
        return [x.permute(0, 3, 1, 2) for x in maps]

    yield mock.patch.object(model.image_encoder.trunk, "forward", forward)


def _no_onednn(model: SAM2) -> Patches:
    for module in (layers, fpn_neck):
        yield mock.patch.object(module, "linear", _plain_linear)


def _no_fused_activation(model: SAM2) -> Patches:
    def apart(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
    ) -> Tensor:
        return activate(linear(x, weight, bias), activation)

    yield mock.patch.object(layers, "linear", apart)


def _no_folding(model: SAM2) -> Patches:
    def one_by_one(self: fpn_neck.Pointwise, x: Tensor, *convs: torch.nn.Conv2d) -> Tensor:
        for conv in convs:
            x = conv(x)
        return x

    yield mock.patch.object(fpn_neck.Pointwise, "__call__", one_by_one)


def _nothing_kept(model: SAM2) -> Patches:
    def anew(
        self: Derived[Any],
        parameters: Sequence[Tensor | None],
        variety: Hashable,
        compute: Callable[[], Any],
    ) -> Any:
        return compute()

    yield mock.patch.object(Derived, "get", anew)


def _torch_attention(model: SAM2) -> Patches:
    yield mock.patch.object(hiera, "dot_product_attention", F.scaled_dot_product_attention)


def _packed_weights(model: SAM2) -> Patches:
    packed: dict[int, tuple[Tensor, Tensor]] = {}  # by address, with the weight itself

    def with_packed(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
    ) -> Tensor:
        kept = packed.get(weight.data_ptr())
        if kept is None or kept[0].dtype != weight.dtype:
            kept = packed[weight.data_ptr()] = (weight, pack(weight))
        return linear(x, kept[1], bias, activation)

    yield mock.patch.object(layers, "linear", with_packed)


def _no_narrow_values(model: SAM2) -> Patches:
    yield mock.patch.object(attention, "takes_narrow_values", lambda q, num_keys: False)


def _not_shared(model: SAM2) -> Patches:
    forward = memory_attention.MemoryAttention.forward

    def each_by_itself(
        self: memory_attention.MemoryAttention,
        features: Tensor,
        position: Tensor,
        memory: Tensor,
        *others: Any,
    ) -> Tensor:
        features = features.expand(len(memory), -1, -1).contiguous()
        return forward(self, features, position, memory, *others)

    yield mock.patch.object(memory_attention.MemoryAttention, "forward", each_by_itself)


def _real_rope(model: SAM2) -> Patches:
    def rotate(x: Tensor, rope: Tensor) -> Tensor:
        cos, sin = rope
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return rotated.flatten(-2).type_as(x)

    yield mock.patch.object(attention, "apply_rope", rotate)


def _unpacked_memories(model: SAM2) -> Patches:
    yield mock.patch.object(dot_product, "pack", lambda weight: weight)


def _small_blocks(model: SAM2) -> Patches:
    yield mock.patch.object(dot_product, "_QUERIES_PER_BLOCK", (72, 72))


ENCODER_MEANS = {
    "no strips": Means(
        "stages 1 and 2 go through whole, not in strips of 8192 tokens.", _no_strips
    ),
    "no window order": Means(
        "every block cuts its windows out of a map and joins them again.", _no_window_order
    ),
    "no oneDNN": Means(
        "linear layers by torch's default (MKL in float32), activations after them.", _no_onednn
    ),
    "activation apart": Means(
        "linear layers through oneDNN, activations after them, not in them.", _no_fused_activation
    ),
    "1x1 one by one": Means(
        "the neck's lateral 1x1 convolutions and the decoder's after them, at 256 channels.",
        _no_folding,
    ),
    "nothing kept": Means(
        "positions interpolated, weights cast and multiplied for every image.", _nothing_kept
    ),
    "torch's attention": Means(
        "the global blocks attend by torch's own kernel, not by plain products in blocks.",
        _torch_attention,
        ("bfloat16",),
    ),
    "weights packed (left out)": Means(
        "a copy of each linear layer's weight in oneDNN's own layout is kept.", _packed_weights
    ),
}
MEMORY_MEANS = {
    "values at 256 channels": Means(
        "memories are projected before they are mixed, at four times the channels, and torch's "
        "kernel mixes them in float32.",
        _no_narrow_values,
    ),
    "nothing shared": Means(
        "the first self-attention is computed for each object, though it is the same.", _not_shared
    ),
    "real RoPE": Means("rotary positions in real numbers, not complex ones.", _real_rope),
    "memories not packed": Means(
        "keys and values are not laid out for oneDNN before they are multiplied.",
        _unpacked_memories,
    ),
    "blocks of 72 queries": Means(
        "as in the first version of the products in blocks; now up to 256.", _small_blocks
    ),
    "no oneDNN": Means(
        "linear layers by torch's default (MKL in float32), activations after them.", _no_onednn
    ),
}
