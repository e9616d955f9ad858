"""Multi-head attention with separate projections, plain and with rotary positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.position_encoding import apply_rope


class _ProjectedAttention(nn.Module):
    """Projections and heads, common to both kinds of attention below.

    Args:
        embedding_dim: channels of queries and of the result.
        num_heads: heads; divides ``embedding_dim / downsample_rate``.
        downsample_rate: inner width = ``embedding_dim / downsample_rate``.
        kv_in_dim: channels of keys and values, where they differ from the queries'.
        dropout: dropout of the attention weights while training.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        downsample_rate: int = 1,
        kv_in_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner_dim = embedding_dim // downsample_rate
        kv_in_dim = embedding_dim if kv_in_dim is None else kv_in_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(embedding_dim, inner_dim)
        self.k_proj = nn.Linear(kv_in_dim, inner_dim)
        self.v_proj = nn.Linear(kv_in_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, embedding_dim)

    def _project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project and split into heads: ``[B, heads, tokens, head_dim]`` each."""
        return (
            self._split_heads(self.q_proj(q)),
            self._split_heads(self.k_proj(k)),
            self._split_heads(self.v_proj(v)),
        )

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Attention(_ProjectedAttention):
    """Multi-head attention whose inner width may be smaller than its input's."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q: ``[B, N, embedding_dim]``.
            k: ``[B, M, kv_in_dim]``.
            v: ``[B, M, kv_in_dim]``.

        Returns:
            ``[B, N, embedding_dim]``.
        """
        return self._attend(*self._project(q, k, v))


class RoPEAttention(_ProjectedAttention):
    """Attention whose queries and keys carry rotary positions of one feature map.

    Keys may stack several feature maps of that size (memories of several frames): each gets
    the same rotations. Keys at the end may have no place in the image (object pointers):
    they are left as they are.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor, num_keys_without_rope: int = 0
    ) -> Tensor:
        """Attend.

        Args:
            q: ``[B, N, embedding_dim]``, one token per cell of the feature map.
            k: ``[B, R * N + P, kv_in_dim]``.
            v: ``[B, R * N + P, kv_in_dim]``.
            rope: ``[2, N, head_dim / 2]`` from ``axial_rope``.
            num_keys_without_rope: P.

        Returns:
            ``[B, N, embedding_dim]``.
        """
        q, k, v = self._project(q, k, v)
        num_placed = k.shape[2] - num_keys_without_rope
        placed, unplaced = k.split((num_placed, num_keys_without_rope), dim=2)
        placed = apply_rope(placed.unflatten(2, (-1, q.shape[2])), rope).flatten(2, 3)
        return self._attend(apply_rope(q, rope), torch.cat((placed, unplaced), dim=2), v)
