"""Drawn masks that no editor writes: broken PNGs, brush RLEs and data: addresses."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from backend.labelstudio.brush_rle import encode_brush

WIDTH, HEIGHT = 32, 24
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HUGE = (0, 1, 10_000, 2**16, 2**31 - 1, 2**32 - 1)


def masks(seed: int) -> Iterator[dict[str, Any]]:
    """The ``value`` of region after region without end, the same for the same ``seed``."""
    source = random.Random(seed)
    while True:
        yield (
            {"imageDataURL": png_address(source)}
            if source.random() < 0.6
            else {"rle": list(_brush(source))}
        )


def png_address(source: random.Random) -> str:
    """A data: address of a PNG; one of ten is none."""
    data = base64.b64encode(png(source)).decode()
    if source.random() < 0.9:
        return f"data:image/png;base64,{data}"
    kind = source.choice(("image/png", "image/png;base64;base64", "image/apng;base64", "", ";"))
    place = source.randrange(len(data))
    return f"data:{kind}{source.choice(',;')}{data[:place]}{source.choice('%=,é ')}{data[place:]}"


def png(source: random.Random) -> bytes:
    """A PNG with up to three things wrong, most with chunks that name an animation."""
    colour = source.choice(list(_CHANNELS))
    depth = source.choice((1, 2, 4, 8, 16)) if colour == 0 else source.choice((8, 16))
    depth = 8 if colour == 3 else depth
    bits = WIDTH * _CHANNELS[colour] * depth
    rows = b"".join(
        bytes([source.randrange(5)]) + source.randbytes(-(-bits // 8)) for _ in range(HEIGHT)
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if colour == 3:
        chunks.insert(1, (b"PLTE", source.randbytes(3 * 256)))
    if source.random() < 0.7:
        chunks.insert(1, (b"acTL", struct.pack(">II", source.choice((0, 1, 2, 2**31)), 0)))
    for _ in range(source.randrange(4)):
        _break_chunks(source, chunks, rows)
    data = _SIGNATURE
    for kind, content in chunks:
        check = zlib.crc32(kind + content) ^ (source.random() < 0.05)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return _broken(source, data)


def _break_chunks(source: random.Random, chunks: list[tuple[bytes, bytes]], rows: bytes) -> None:
    place = source.randint(1, len(chunks))
    match source.randrange(8):
        case 0:  # a second header, of another size
            width, height = source.choice(_HUGE), source.choice(_HUGE)
            chunks.insert(place, (b"IHDR", struct.pack(">II", width, height) + b"\x08\x06\0\0\0"))
        case 1:  # a row filter that does not exist
            chunks.insert(place, (b"IDAT", zlib.compress(b"\x09" + rows[1:])))
        case 2:  # a frame of an animation, with places outside of the picture
            frame = [source.choice(_HUGE) for _ in range(5)]
            chunks.insert(place, (b"fcTL", struct.pack(">IIIIIHHBB", *frame, 1, 0, 3, 3)))
            chunks.insert(place, (b"fdAT", struct.pack(">I", 0) + zlib.compress(rows)))
        case 3:  # a claim in the first header
            kind, header = chunks[0]
            at = source.randrange(len(header))
            chunks[0] = kind, header[:at] + source.randbytes(1) + header[at + 1 :]
        case 4:
            chunks.insert(place, (b"tRNS", source.randbytes(source.choice((0, 1, 2, 6, 300)))))
        case 5:  # a stream that unpacks to much more than the picture has
            chunks.insert(place, (b"IDAT", zlib.compress(bytes(1 << 20))))
        case 6:
            texts = (b"iCCP", b"zTXt", b"eXIf", b"PLTE", b"gAMA", b"sBIT", b"IEND")
            chunks.insert(place, (source.choice(texts), source.randbytes(source.randrange(40))))
        case _:
            del chunks[source.randrange(len(chunks))]
            chunks.append((b"IEND", b""))


def _brush(source: random.Random) -> bytes:
    """A brush RLE, mostly one that began as an honest one."""
    if source.random() < 0.2:
        return source.randbytes(source.randrange(200))
    grid = np.random.default_rng(source.randrange(2**32)).random((HEIGHT, WIDTH))
    mask = grid < source.random()
    mask[0, 0] = True
    data = bytearray(encode_brush(mask))
    if source.random() < 0.3:  # the number of values, or the sizes of words and runs
        data[source.randrange(7)] = source.randrange(256)
    return _broken(source, bytes(data))


def _broken(source: random.Random, data: bytes) -> bytes:
    """As it was, cut short, or with a few other bytes."""
    match source.randrange(4):
        case 0:
            return data[: source.randrange(len(data))]
        case 1:
            changed = bytearray(data)
            for _ in range(source.randint(1, 4)):
                changed[source.randrange(len(data))] = source.randrange(256)
            return bytes(changed)
    return data
