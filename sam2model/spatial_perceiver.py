"""EdgeTAM's spatial perceiver: a spatial memory in fewer tokens (Zhou et al. 2025, section 3.2).

Learned latents look at the memory, as in a Perceiver (Jaegle et al. 2021, arXiv 2103.03206): the
global ones at all of it, the local ones each at a window of its own, so that what they hold has a
place. Both go through the same layers.

Keys and values are projected once for both, and the latents of one kind only meet the keys of
their own; the reference runs the layers twice.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from sam2model.dot_product import dot_product_attention
from sam2model.layers import LayerNorm, Linear
from sam2model.mask_decoder import to_tokens
from sam2model.position_encoding import sine_position_encoding
from sam2model.variants import PerceiverConfig

_MLP_RATIO = 4


class LatentAttention(nn.Module):
    """Latents attend to a memory's tokens, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_x = LayerNorm(dim)
        self.norm_latents = LayerNorm(dim)
        self.to_q = Linear(dim, dim, bias=False)
        self.to_kv = Linear(dim, 2 * dim, bias=False)
        self.to_out = Linear(dim, dim, bias=False)

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both ``[B, N, C]``, of a memory's tokens ``[B, N, C]``."""
        keys, values = self.to_kv(self.norm_x(tokens)).chunk(2, dim=-1)
        return keys, values

    def forward(self, latents: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map latents ``[B, L, C]``, keys and values ``[B, N, C]`` to ``[B, L, C]``."""
        return self.to_out(_attend(self.to_q(self.norm_latents(latents)), keys, values))


class SelfAttention(nn.Module):
    """Latents attend to each other, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.to_q = Linear(dim, dim, bias=False)
        self.to_kv = Linear(dim, 2 * dim, bias=False)
        self.to_out = Linear(dim, dim, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``[B, L, C]`` to ``[B, L, C]``."""
        normalised = self.norm(latents)
        keys, values = self.to_kv(normalised).chunk(2, dim=-1)
        return self.to_out(_attend(self.to_q(normalised), keys, values))


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    q, k, v = (x.to(queries.dtype)[:, None] for x in (queries, keys, values))
    return dot_product_attention(q, k, v)[:, 0]


class FeedForward(nn.Sequential):
    """Norm, and an MLP of one hidden layer."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            LayerNorm(dim),
            Linear(dim, _MLP_RATIO * dim, bias=False),
            nn.GELU(),
            Linear(_MLP_RATIO * dim, dim, bias=False),
        )


class PerceiverLayer(nn.Module):
    """Attention to the memory, and among the latents; an MLP after each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn = LatentAttention(dim)
        self.ff = FeedForward(dim)
        self.self_attn = SelfAttention(dim)
        self.self_ff = FeedForward(dim)

    def forward(self, latents: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Update latents ``[B, L, C]``."""
        latents = latents + self.attn(latents, keys, values)
        latents = latents + self.ff(latents)
        latents = latents + self.self_attn(latents)
        return latents + self.self_ff(latents)


class SpatialPerceiver(nn.Module):
    """The latents and their layers.

    Args:
        config: numbers of latents and layers.
        dim: channels of memories and latents.
        embedding_size: side of the memory in cells, a multiple of ``config.local_side``.
    """

    position: Tensor

    def __init__(self, config: PerceiverConfig, dim: int, embedding_size: int) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.latents = nn.Parameter(torch.randn(config.num_global_latents, dim))
        self.latents_2d = nn.Parameter(torch.randn(config.local_side**2, dim))
        self.layers = nn.ModuleList(PerceiverLayer(dim) for _ in range(config.depth))
        self.norm = LayerNorm(dim)
        position = to_tokens(sine_position_encoding(dim, embedding_size, embedding_size))
        self.register_buffer("position", position.contiguous(), persistent=False)

    def latent_position(self) -> Tensor:
        """Places of the latents in the image, ``[1, L, dim]``: 0 for the global ones."""
        side = self.config.local_side
        local = to_tokens(sine_position_encoding(self.dim, side, side))
        return torch.cat((local.new_zeros(1, self.config.num_global_latents, self.dim), local), 1)

    def forward(self, memory: Tensor) -> Tensor:
        """Map a memory ``[B, dim, h, w]`` to latents ``[B, L, dim]``, the global ones first.

        Only the global latents' keys and values carry positions: a local latent knows its place.
        """
        batch, _, height, width = memory.shape
        tokens = to_tokens(memory)
        whole = self.latents.expand(batch, -1, -1)
        local = self.latents_2d.repeat(batch, 1)[:, None]
        for layer in cast("Iterable[PerceiverLayer]", self.layers):
            keys, values = layer.attn.keys_and_values(tokens)
            windows = [self._windows(x, height, width) for x in (keys, values)]
            position = self.position.to(keys.dtype)
            whole = layer(whole, keys + position, values + position)
            local = layer(local, *windows)
        return self.norm(torch.cat((whole, local.view(batch, -1, self.dim)), dim=1))

    def _windows(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """``[B, h * w, C]`` to ``[B * windows, h * w / windows, C]``, row by row."""
        side = self.config.local_side
        cells = tokens.view(-1, side, height // side, side, width // side, self.dim)
        return cells.transpose(2, 3).reshape(len(tokens) * side**2, -1, self.dim)
