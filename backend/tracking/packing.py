"""Masks as compressed run lengths: what the store writes of them."""

from __future__ import annotations

import zlib

import numpy as np


def pack(mask: np.ndarray) -> bytes:
    """A bool mask ``[H, W]`` as compressed run lengths, row by row, beginning with background."""
    flat = np.concatenate(([False], mask.ravel(), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1]).astype(np.int64)
    runs = np.diff(edges, prepend=0)
    return zlib.compress(runs.astype("<u4").tobytes(), level=1)


def unpack(runs: bytes, height: int, width: int) -> np.ndarray:
    """Undo ``pack``: bool ``[height, width]``."""
    lengths = np.frombuffer(zlib.decompress(runs), dtype="<u4").astype(np.int64)
    ends = np.cumsum(lengths)
    flat = np.zeros(height * width, dtype=bool)
    for start, stop in zip(ends[0::2], ends[1::2], strict=True):
        flat[start:stop] = True
    return flat.reshape(height, width)
