"""Scaled dot-product attention, with what is fastest for the device, the dtype and the shape."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sam2model.matrix_product import linear, pack
from sam2model.yield_point import yield_point

# Bytes of scores that a CPU computes at a time, and the queries they may belong to: more of them
# make the products faster, until malloc has to ask for new memory each time (32 MiB).
_BYTES_PER_BLOCK = 16 << 20
_QUERIES_PER_BLOCK = (64, 256)
# Below this torch's own kernel wins; windows have at most 256 keys.
_MIN_KEYS = 1024


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v``.

    Args:
        q: ``[B, heads, N, D]``.
        k: ``[B, heads, M, D]``.
        v: ``[B, heads, M, V]``; V may differ from D where :func:`takes_narrow_values`.
        dropout: probability with which a weight is dropped.

    Returns:
        ``[B, heads, N, V]``.
    """
    if torch.is_grad_enabled() and q.device.type == "cpu" and not dropout:
        return _spelled_out(q, k, v)
    yield_point()  # most of the time is spent here, in every part of the network
    # In bfloat16 torch's kernel for CPUs reaches a third of the rate of a plain product.
    plain = q.dtype == torch.bfloat16 or v.shape[3] != q.shape[3]
    if plain and takes_narrow_values(q, k.shape[2]):
        return _in_blocks_of_queries(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def takes_narrow_values(q: Tensor, num_keys: int) -> bool:
    """Whether values of another width than that of queries and keys gain time.

    Torch's kernels do not take them, and so compute more than a plain product on CPUs.
    """
    return q.device.type == "cpu" and num_keys >= _MIN_KEYS and not torch.is_grad_enabled()


def _spelled_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # For training: its way back is twice as fast as that of torch's kernels for CPUs.
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(-2, -1)
        return torch.softmax(scores, dim=-1) @ v


def _in_blocks_of_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, queries, _ = q.shape
    fewest, most = _QUERIES_PER_BLOCK
    block = min(max(_BYTES_PER_BLOCK // (k.shape[2] * k.element_size()), fewest), most)
    q = q * q.shape[3] ** -0.5
    # Laid out as torch's kernel does, so that joining the heads afterwards copies nothing.
    out = q.new_empty(batch, queries, heads, v.shape[3]).transpose(1, 2)
    for i in range(batch):
        for head in range(heads):
            keys = pack(k[i, head].contiguous())
            values = pack(v[i, head].T.contiguous())
            for start in range(0, queries, block):
                yield_point()
                rows = slice(start, start + block)
                scores = linear(q[i, head, rows].contiguous(), keys)
                torch.softmax(scores, dim=-1, out=scores)
                out[i, head, rows] = linear(scores, values)
    return out
