"""Label Studio's brush RLE: @thi.ng/rle-pack over the RGBA bytes of the picture.

Header: 32 bits number of values, 5 bits word size - 1, four times 4 bits size of a run length
- 1. Then per run: 1 bit (one repeated value, or as many values as follow), 2 bits choice of the run
length's size, the length - 1, the value(s).  Source:
https://github.com/thi-ng/umbrella/blob/develop/packages/rle-pack/src/index.ts
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # at run time it would bring OpenCV into the decoding processes
    from backend.labelstudio.geometry import Mask

MAX_MASK_PIXELS = 100_000_000
"""Largest picture a mask is made for: 100 megapixels, 100 MB as a bool array."""

_LENGTH_BITS = np.array([3, 4, 8, 16], np.uint32)
_HEADER = f"{8 - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
_RUNS_AT_A_TIME = 1 << 16


def encode_brush(mask: Mask) -> list[int]:
    """A mask as the ``rle`` of a brush region: every channel of a mask pixel is 255, else 0.

    The same bytes as those of ``encode_rle`` of Label Studio's SDK, which goes through the runs
    one by one and takes longer than the network for masks with rough edges.

    Args:
        mask: bool [H, W], with at least one pixel.
    """
    header = f"{4 * mask.size:032b}" + _HEADER
    bits = [np.array(list(header), np.uint8), *_run_bits(mask)]
    count = sum(len(part) for part in bits)
    bits.append(np.zeros(8 - count % 8, np.uint8))  # a whole byte, where the last one is full
    rle: list[int] = np.packbits(np.concatenate(bits)).tolist()
    return rle


def run_edges(mask: Mask) -> NDArray[np.intp]:
    """Where the runs of a mask begin and end: pixels counted row by row, two to a run, the first
    of a run and the one after its last.

    Args:
        mask: bool [H, W].
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros(0, np.intp)
    width = mask.shape[1]
    start = rows[0] * width  # most of a picture's rows are not looked at
    flat = np.zeros((rows[-1] + 1) * width - start + 2, bool)  # background at both ends
    flat[1:-1] = mask[rows[0] : rows[-1] + 1].ravel()
    edges: NDArray[np.intp] = np.flatnonzero(flat[1:] != flat[:-1]) + start
    return edges


def _run_bits(mask: Mask) -> Iterator[NDArray[np.uint8]]:
    """The bits of all runs, 0 and 1, in arrays of many."""
    # in values, four to a pixel; none at an end that the mask reaches
    lengths = 4 * np.diff(run_edges(mask), prepend=0, append=mask.size)
    inside = np.arange(len(lengths)) % 2 == 1
    inside, lengths = inside[lengths > 0], lengths[lengths > 0]
    longest = 1 << int(_LENGTH_BITS[-1])
    pieces = -(-lengths // longest)
    last = np.cumsum(pieces) - 1
    pieced = np.full(last[-1] + 1, longest)
    pieced[last] = lengths - (pieces - 1) * longest
    values = np.repeat(inside, pieces) * np.uint32(255)
    choices = np.repeat(np.searchsorted(1 << _LENGTH_BITS[:-1], lengths), pieces).astype(np.uint32)
    for start in range(0, len(pieced), _RUNS_AT_A_TIME):
        part = slice(start, start + _RUNS_AT_A_TIME)
        length = pieced[part].astype(np.uint32) - np.uint32(1)
        size = _LENGTH_BITS[choices[part]]
        head = np.uint32(4) | choices[part]  # one value, so many times
        run = (((head << size) | length) << np.uint32(8)) | values[part]
        bits = np.unpackbits(run.astype(">u4").view(np.uint8)).reshape(-1, 32)
        used = np.arange(31, -1, -1, dtype=np.uint32) < (size + np.uint32(1 + 2 + 8))[:, None]
        yield bits[used]


def decode_brush(rle: bytes, width: int, height: int) -> Mask:
    """The mask of a brush region's ``rle``, bool [height, width].

    A pixel belongs to the mask if its alpha is not 0, as in the editor (``utils/canvas.js``).
    Only the mask is allocated, never the RGBA picture the RLE declares. It goes through the values
    bit by bit: of what others sent it is called in a decoding process, see ``DecodeMask``.

    Raises:
        ValueError: ``rle`` ends early or declares another picture size, or the size is refused.
    """
    check_size(width, height)
    bits = _Bits(rle)
    values = bits.read(32)
    word = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    if values != 4 * width * height:
        raise ValueError(
            f"the brush RLE holds {values} values, a {width} x {height} picture has "
            f"{4 * width * height}"
        )
    alpha = np.zeros(width * height, dtype=bool)
    position = 0
    while position < values:
        repeated = bits.read(1)
        end = min(position + 1 + bits.read(lengths[bits.read(2)]), values)
        if repeated:
            if bits.read(word):
                # the alpha bytes are 3, 7, 11, ...: those in [position, end)
                alpha[position // 4 : end // 4] = True
        else:
            for index in range(position, end):
                if bits.read(word) and index % 4 == 3:
                    alpha[index // 4] = True
        position = end
    return alpha.reshape(height, width)


def check_size(width: int, height: int) -> None:
    """Refuse picture sizes no mask can be made for.

    Raises:
        ValueError: a side is below 1, or the picture has more than MAX_MASK_PIXELS.
    """
    if width < 1 or height < 1 or width * height > MAX_MASK_PIXELS:
        raise ValueError(
            f"a picture of {width} x {height} pixels is outside 1 to {MAX_MASK_PIXELS} pixels"
        )


class _Bits:
    """Reads big-endian bit fields from bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._end = 8 * len(data)

    def read(self, count: int) -> int:
        """The next ``count`` (at most 32) bits as a number. Raises ValueError if fewer are left."""
        start, stop = self._position, self._position + count
        if stop > self._end:
            raise ValueError("the brush RLE ends before the picture is complete")
        self._position = stop
        last = (stop + 7) // 8
        window = int.from_bytes(self._data[start // 8 : last], "big")
        return (window >> (8 * last - stop)) & ((1 << count) - 1)
