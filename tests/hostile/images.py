"""Attacks by the content of a file that should be an image."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.hostile.arena import Arena
from tests.hostile.corpus import Attack

LIMIT = "the limit is 4 megapixels"
DAMAGED = "damaged or incomplete"
UNKNOWN = "known format"
TOO_MUCH = f"{LIMIT}|more memory|too long|{DAMAGED}"


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 1) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _photo(kind: str, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _flat(kind: str, size: tuple[int, int], **options: object) -> bytes:
    """Few bytes, many pixels."""
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, kind, **options)
    return stream.getvalue()


def _jpeg_claims(width: int, height: int) -> bytes:
    body = _photo("JPEG")
    at = body.index(b"\xff\xc0") + 5
    return body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]


def _jpeg_of_many_scans() -> bytes:
    """A progressive image of the full size whose last scan comes again and again, each of which
    goes over all of it (a known way to make libjpeg work for hours)."""
    body = _flat("JPEG", (2000, 1900), progressive=True)
    last = body.rindex(b"\xff\xda")
    scan = body[last:-2]
    return body[:last] + scan * ((6 << 20) // len(scan)) + b"\xff\xd9"


def _tiff(
    entries: list[tuple[int, int, int, int]], *, next_at: int = 0, rest: bytes = b""
) -> bytes:
    """A little-endian TIFF: entries of tag, type, count, value."""
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", next_at) + rest


def _tiff_of(width: int, height: int, strip: int, *, kind: int = 1, **more: int) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, kind),
               (262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, height),
               (279, 4, 1, strip)]  # fmt: skip
    body = _tiff(entries, next_at=more.get("next_at", 0))
    return body + bytes(200 - len(body))


def _tiff_bomb() -> bytes:
    packed = zlib.compress(bytes(100 << 20), 9)
    return _tiff_of(2000, 2000, len(packed), kind=8) + packed


def _gif(width: int, height: int, frame: tuple[int, int], frames: int = 1) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    one = b"," + struct.pack("<HHHH", 0, 0, *frame) + b"\0\x02\x02D\x01\0"
    return head + one * frames + b";"


def _bmp(width: int, height: int, *, compression: int = 0, data: bytes = b"") -> bytes:
    bits = 8 if compression else 24
    table = bytes(1024) if compression else b""
    offset = 54 + len(table)
    head = struct.pack("<IHHI", offset + len(data), 0, 0, offset)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0
    )
    return b"BM" + head + info + table + data


def _webp_claims(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    inner = _photo("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(vp8x) + len(inner)) + b"WEBP" + vp8x + inner


def _avif_claims(width: int, height: int) -> bytes:
    body = bytearray(_photo("AVIF"))
    at = body.index(b"ispe") + 8
    body[at : at + 8] = struct.pack(">II", width, height)
    return bytes(body)


def _jpeg2000_claims(width: int, height: int) -> bytes:
    body = bytearray(_photo("JPEG2000"))
    at = body.index(b"ihdr") + 4
    body[at : at + 8] = struct.pack(">II", height, width)
    return bytes(body)


def _jpeg2000_stream_claims(width: int, height: int) -> bytes:
    """The box keeps the true size, the code stream in it does not."""
    body = bytearray(_photo("JPEG2000"))
    at = body.index(b"\xff\x51") + 6
    body[at : at + 8] = struct.pack(">II", width, height)
    return bytes(body)


def _cut(kind: str) -> bytes:
    body = _photo(kind, (200, 150))
    return body[: len(body) * 2 // 3]


def _zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("evil.class", b"\xca\xfe\xba\xbe")
    return stream.getvalue()


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of four exapixels": (lambda: _png(2**31 - 1, 2**31 - 1, (b"IDAT", b"x")), LIMIT),
    "PNG of zeros": (
        lambda: _png(30_000, 30_000, (b"IDAT", zlib.compress(bytes(30_000 * 3751), 9))),
        LIMIT,
    ),
    "PNG just above the limit": (lambda: _flat("PNG", (2001, 2000)), LIMIT),
    "PNG with a text bomb": (
        lambda: _png(1, 1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20), 9))),
        DAMAGED,
    ),
    "PNG without data": (lambda: _png(100, 100), DAMAGED),
    "JPEG of four gigapixels": (lambda: _jpeg_claims(65_500, 65_500), LIMIT),
    "GIF of four gigapixels": (lambda: _gif(65_535, 65_535, (65_535, 65_535)), LIMIT),
    "GIF whose frame is larger than it": (lambda: _gif(1, 1, (65_535, 65_535)), LIMIT),
    "BMP of eight gigapixels": (lambda: _bmp(90_000, 90_000), LIMIT),
    "PPM header": (lambda: b"P6 100000 100000 255\n", LIMIT),
    "PPM number without end": (lambda: b"P6 " + b"1" * 100_000, f"{DAMAGED}|{UNKNOWN}"),
    "WebP of 268 megapixels": (lambda: _webp_claims(16_384, 16_384), LIMIT),
    "WebP of zeros above the limit": (lambda: _flat("WEBP", (2500, 2500), lossless=True), LIMIT),
    "AVIF of four gigapixels": (lambda: _avif_claims(65_500, 65_500), f"{LIMIT}|damaged AVIF"),
    "JPEG 2000 of an exapixel": (lambda: _jpeg2000_claims(2**30, 2**30), LIMIT),
    "JPEG 2000 whose stream is larger": (
        lambda: _jpeg2000_stream_claims(60_000, 60_000),
        TOO_MUCH,
    ),
    "TIFF of an exapixel": (lambda: _tiff_of(2**31 - 1, 2**31 - 1, 10), LIMIT),
    "TIFF with a strip of four gigabytes": (lambda: _tiff_of(1000, 1000, 2**32 - 1), DAMAGED),
    "TIFF without end": (lambda: _tiff([(256, 4, 2**32 - 1, 8)]), "a TIFF image of a kind"),
    "TIFF of a million tags": (
        lambda: b"II*\0" + struct.pack("<IH", 8, 65535) + b"\xff" * 786_420,
        "a TIFF image of a kind",
    ),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
    "SVG with an entity bomb": (
        lambda: b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><svg>',
        "SVG drawing",
    ),
    "web page": (lambda: b"<html><script>alert(1)</script>", "web page"),
    "PostScript, which runs programs": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        UNKNOWN,
    ),
    "PDF": (lambda: b"%PDF-1.7\n" + bytes(100), "PDF document"),
    "Photoshop": (lambda: b"8BPS\0\x01" + bytes(100), UNKNOWN),
    "icon of PNGs": (lambda: b"\0\0\x01\0\x01\0" + bytes(200), UNKNOWN),
    "program": (lambda: b"\x7fELF\x02\x01\x01" + bytes(200), UNKNOWN),
    "archive": (_zipped, UNKNOWN),
    "video": (lambda: b"\0\0\0\x18ftypmp42" + bytes(100), "a video"),
    "MVG script of ImageMagick": (
        lambda: b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x|id'\n",
        UNKNOWN,
    ),
    "nothing": (lambda: b"", "empty file"),
    "zeros": (lambda: bytes(100_000), UNKNOWN),
    **{f"{kind} cut short": ((lambda kind=kind: _cut(kind)), DAMAGED)
       for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")},
}  # fmt: skip

SHOWN: dict[str, tuple[Callable[[], bytes], str]] = {
    "BMP with runs past its end": (
        lambda: _bmp(2000, 2000, compression=1, data=b"\0\x02\xff\xff" * 100_000),
        f"shows 2000 x 2000|{DAMAGED}",
    ),
    "PNG with more data than pixels": (
        lambda: _png(8, 8, (b"IDAT", zlib.compress(bytes(100 << 20), 9))),
        f"shows 8 x 8|{DAMAGED}",
    ),
    "PNG with a profile bomb": (
        lambda: _png(8, 8, (b"iCCP", b"a\0\0" + zlib.compress(bytes(80 << 20), 9)),
                     (b"IDAT", zlib.compress(bytes(16)))),
        f"shows 8 x 8|{DAMAGED}",
    ),
    "animation of a million frames": (
        lambda: _gif(8, 8, (8, 8), 300_000),
        f"shows 8 x 8|{DAMAGED}",
    ),
    "TIFF that goes round in circles": (
        lambda: _tiff_of(10, 10, 100, next_at=8) + bytes(100),
        f"shows 10 x 10|{DAMAGED}",
    ),
    "TIFF that unpacks to more than it shows": (_tiff_bomb, f"shows 2000 x 2000|{DAMAGED}"),
    "GIF that is an archive too": (lambda: _photo("GIF") + _zipped(), "shows 64 x 48"),
    "JPEG that is a script too": (
        lambda: _photo("JPEG") + b"<script>alert(1)</script><?php system('id') ?>",
        "shows 64 x 48",
    ),
    "PNG that is a playlist too": (
        lambda: _photo("PNG") + b"\n#EXTM3U\nhttp://127.0.0.1/x.ts\n",
        "shows 64 x 48",
    ),
}  # fmt: skip


def attacks() -> list[Attack]:
    """See the module."""
    found = [_attack(name, make, says) for name, (make, says) in REFUSED.items()]
    found += [_attack(name, make, says, True) for name, (make, says) in SHOWN.items()]
    found.append(
        Attack("image", "JPEG of thousands of scans",
               lambda arena: arena.image(arena.serve(_jpeg_of_many_scans()), hasty=True),
               f"too long|{DAMAGED}")
    )  # fmt: skip
    kinds = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000")
    found += [
        Attack("image", f"{kind}, damaged in twenty ways", _damaged(kind), f"{DAMAGED}|shows",
               harmless=True, seconds=20)
        for kind in kinds
    ]  # fmt: skip
    return found


def _attack(name: str, make: Callable[[], bytes], says: str, harmless: bool = False) -> Attack:
    return Attack("image", name, lambda arena: arena.image(arena.serve(make())), says, harmless)


def _damaged(kind: str) -> Callable[[Arena], str]:
    def run(arena: Arena) -> str:
        whole, chance, told = _photo(kind, (200, 150)), random.Random(kind), ""
        for _ in range(20):
            body = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                body[chance.randrange(len(body))] = chance.randrange(256)
            told = arena.image_or_message(arena.serve(bytes(body)))
        return told

    return run
