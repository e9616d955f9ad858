"""Memory attention: a frame's features look at what is remembered of the object."""

import torch
from torch import Tensor, nn

from sam2model.attention import RoPEAttention
from sam2model.inference_weights import compute_dtype
from sam2model.layers import LayerNorm, Linear
from sam2model.position_encoding import axial_rope
from sam2model.variants import PerceiverConfig, Variant

# How strongly the input's own positions are added at the entrance (fixed in the reference).
_POSITION_WEIGHT = 0.1


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to the memories, feed-forward; each pre-normalised."""

    def __init__(self, dim: int, memory_dim: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = RoPEAttention(dim, num_heads=1, dropout=dropout)
        self.cross_attn_image = RoPEAttention(
            dim, num_heads=1, kv_in_dim=memory_dim, dropout=dropout
        )
        self.linear1 = Linear(dim, feedforward)
        self.linear2 = Linear(feedforward, dim)
        self.norm1 = LayerNorm(dim)
        self.norm2 = LayerNorm(dim)
        self.norm3 = LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rope: Tensor,
        memory_rope: Tensor,
        num_pointer_tokens: int,
    ) -> Tensor:
        """Update ``[B or 1, N, C]`` to ``[B, N, C]``.

        Arguments as in :class:`MemoryAttention`.
        """
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn.to_itself(y, rope))
        y = self.norm2(x)
        x = x + self.dropout(
            self.cross_attn_image(y, keys, values, rope, memory_rope, num_pointer_tokens)
        )
        y = self.linear2(self.dropout(self.linear1(self.norm3(x), "relu")))
        return x + self.dropout(y)


class MemoryAttention(nn.Module):
    """The stack of layers; holds the rotations of feature map and memories, computed once.

    Args:
        variant: decides width, depth and dropout.
        memory_dim: channels of memory tokens.
        embedding_size: side of the feature map, in cells.
    """

    rope: Tensor
    memory_rope: Tensor

    def __init__(self, variant: Variant, memory_dim: int, embedding_size: int) -> None:
        super().__init__()
        dim = variant.d_model
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(
                dim, memory_dim, variant.memory_feedforward, variant.memory_dropout
            )
            for _ in range(variant.memory_layers)
        )
        self.norm = LayerNorm(dim)
        rope = axial_rope(dim, embedding_size, embedding_size)
        self.register_buffer("rope", rope, persistent=False)
        if variant.perceiver is not None:
            rope = _latent_rope(dim, variant.perceiver)
        self.register_buffer("memory_rope", rope, persistent=False)

    def forward(
        self,
        features: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        num_pointer_tokens: int,
    ) -> Tensor:
        """Condition a frame's features on memories.

        Args:
            features: ``[B or 1, N, C]``, the frame's features, N = h * w. Until the objects'
                memories come in, one frame is computed once for all of them.
            position: ``[1, N, C]``, their positions.
            memory: ``[B, R * M + P, memory_dim]``: R spatial memories of M tokens, then P
                tokens of object pointers.
            memory_position: ``[B or 1, R * M + P, memory_dim]``.
            num_pointer_tokens: P.

        Returns:
            ``[B, N, C]``.
        """
        x = torch.add(features, position, alpha=_POSITION_WEIGHT)
        keys = memory + memory_position
        if not torch.is_grad_enabled():  # once, and not in every layer
            keys, memory = keys.to(compute_dtype(keys)), memory.to(compute_dtype(memory))
        for layer in self.layers:
            x = layer(x, keys, memory, self.rope, self.memory_rope, num_pointer_tokens)
        return self.norm(x)


def _latent_rope(dim: int, perceiver: PerceiverConfig) -> Tensor:
    """Rotations of a memory's latents: none of the global ones, of the local ones their windows'.

    Windows count from 0 to 15 where queries count from 0 to 63, as in the reference.
    """
    unmoved = torch.tensor([1.0, 0.0]).expand(perceiver.num_global_latents, dim // 2, 2)
    return torch.cat((unmoved, axial_rope(dim, perceiver.local_side, perceiver.local_side)))
