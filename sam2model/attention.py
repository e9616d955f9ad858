"""Multi-head attention with separate projections, plain and with rotary positions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sam2model.dot_product import dot_product_attention, takes_narrow_values
from sam2model.inference_weights import Derived, compute_dtype
from sam2model.layers import Linear
from sam2model.matrix_product import linear
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
        self.q_proj = Linear(embedding_dim, inner_dim)
        self.k_proj = Linear(kv_in_dim, inner_dim)
        self.v_proj = Linear(kv_in_dim, inner_dim)
        self.out_proj = Linear(inner_dim, embedding_dim)

    def _split_heads(self, x: Tensor) -> Tensor:
        """``[B, tokens, C]`` to ``[B, heads, tokens, C / heads]``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        out = dot_product_attention(q, k, v, dropout)
        return out.transpose(1, 2).flatten(2)


class Attention(_ProjectedAttention):
    """Multi-head attention whose inner width may be smaller than its input's."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q: ``[B or 1, N, embedding_dim]``; 1 where it is the same for all.
            k: ``[B or 1, M, kv_in_dim]``.
            v: ``[B or 1, M, kv_in_dim]``.

        Returns:
            ``[B, N, embedding_dim]``.
        """
        if not torch.is_grad_enabled():  # each once, though two of them may be the same
            narrow = {id(x): x.to(compute_dtype(x)) for x in (q, k, v)}
            q, k, v = (narrow[id(x)] for x in (q, k, v))
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        batch = max(len(q), len(k), len(v))
        heads = (self._split_heads(x).expand(batch, -1, -1, -1) for x in (q, k, v))
        return self.out_proj(self._attend(*heads))


class RoPEAttention(_ProjectedAttention):
    """Attention whose queries and keys carry rotary positions.

    Keys may stack several groups of tokens of the same places (memories of several frames): each
    gets the same rotations. Keys at the end may have no place in the image (object pointers):
    they are left as they are.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._joined: Derived[tuple[Tensor, Tensor]] = Derived()

    def to_itself(self, x: Tensor, rope: Tensor) -> Tensor:
        """Attend among ``[B, N, embedding_dim]``, with one rotation per token.

        Without gradients queries, keys and values come from one product, and both former are
        turned together.
        """
        if torch.is_grad_enabled():
            return self(x, x, x, rope, rope)
        dtype = compute_dtype(x)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        parameters = [p for each in projections for p in (each.weight, each.bias)]
        weight, bias = self._joined.get(parameters, dtype, lambda: _joined(projections, dtype))
        heads = linear(x.to(dtype), weight, bias).unflatten(-1, (3 * self.num_heads, -1))
        turned, v = heads.transpose(1, 2).split((2 * self.num_heads, self.num_heads), dim=1)
        q, k = apply_rope(turned, rope).chunk(2, dim=1)
        return self.out_proj(self._attend(q, k, v))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rope: Tensor,
        key_rope: Tensor,
        num_keys_without_rope: int = 0,
    ) -> Tensor:
        """Attend.

        Args:
            q: ``[B or 1, N, embedding_dim]``, one token per cell of the feature map; 1 where
                the queries of all objects are the same.
            k: ``[B, R * M + P, kv_in_dim]``.
            v: ``[B, R * M + P, kv_in_dim]``.
            rope: ``[N, head_dim / 2, 2]`` from ``axial_rope``, of the queries.
            key_rope: ``[M, head_dim / 2, 2]``, of a group of keys.
            num_keys_without_rope: P.

        Returns:
            ``[B, N, embedding_dim]``.
        """
        queries = apply_rope(self._split_heads(self.q_proj(q)), rope)
        queries = queries.expand(len(k), -1, -1, -1)
        keys = self._placed_keys(k, key_rope, num_keys_without_rope)
        # The weights of a query add up to 1, so what it takes from the values can be projected
        # after mixing: a quarter of the channels to mix, and N tokens to project, not R * M.
        if self.num_heads == 1 and takes_narrow_values(queries, k.shape[1]):
            mixed = self._attend(queries, keys, v.to(keys.dtype)[:, None])
            return self.out_proj(self.v_proj(mixed))
        return self.out_proj(self._attend(queries, keys, self._split_heads(self.v_proj(v))))

    def _placed_keys(self, k: Tensor, rope: Tensor, num_unplaced: int) -> Tensor:
        keys = self._split_heads(self.k_proj(k))
        placed, unplaced = keys.split((keys.shape[2] - num_unplaced, num_unplaced), dim=2)
        placed = apply_rope(placed.unflatten(2, (-1, len(rope))), rope).flatten(2, 3)
        return torch.cat((placed, unplaced), dim=2) if num_unplaced else placed


def _joined(projections: Sequence[nn.Linear], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight ``[3 * inner, in]`` and bias ``[3 * inner]`` of all three."""
    return (
        torch.cat([each.weight for each in projections]).to(dtype),
        torch.cat([each.bias for each in projections]).to(dtype),
    )
