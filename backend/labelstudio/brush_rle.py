"""Label Studio's brush RLE: @thi.ng/rle-pack over the RGBA bytes of the picture.

Header: 32 bits number of values, 5 bits word size - 1, four times 4 bits size of a run length
- 1. Then per run: 1 bit (one repeated value, or as many values as follow), 2 bits choice of the run
length's size, the length - 1, the value(s).  Source:
https://github.com/thi-ng/umbrella/blob/develop/packages/rle-pack/src/index.ts
"""

from __future__ import annotations

import numpy as np
from label_studio_sdk.converter.brush import encode_rle

from backend.labelstudio.geometry import Mask

MAX_MASK_PIXELS = 100_000_000
"""Largest picture a mask is made for: 100 megapixels, 100 MB as a bool array."""


def encode_brush(mask: Mask) -> list[int]:
    """A mask as the ``rle`` of a brush region: every channel of a mask pixel is 255, else 0.

    Args:
        mask: bool [H, W].
    """
    values = np.repeat(mask.astype(np.uint8).ravel() * np.uint8(255), 4)
    rle: list[int] = encode_rle(values)
    return rle


def decode_brush(rle: bytes, width: int, height: int) -> Mask:
    """The mask of a brush region's ``rle``, bool [height, width].

    A pixel belongs to the mask if its alpha is not 0, as in the editor (``utils/canvas.js``).
    Only the mask is allocated, never the RGBA picture the RLE declares.

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
        """The next ``count`` (at most 32) bits as a number.

        Raises:
            ValueError: fewer bits are left.
        """
        start, stop = self._position, self._position + count
        if stop > self._end:
            raise ValueError("the brush RLE ends before the picture is complete")
        self._position = stop
        last = (stop + 7) // 8
        window = int.from_bytes(self._data[start // 8 : last], "big")
        return (window >> (8 * last - stop)) & ((1 << count) - 1)
