"""Images up to the limit, in bounded memory; larger ones are told the limit."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from backend.media.errors import MediaError, Reason
from backend.pixels.sandbox.image_decoding import ImageDecoder
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    made = ImageDecoder(max_pixels=100_000_000, warm=1, seconds=PATIENCE)
    yield made
    made.close()


def flat(width: int, height: int, kind: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(stream, kind, **options)
    return stream


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not say")


def test_a_hundred_megapixels(decoder: ImageDecoder) -> None:
    """Turned upright, which takes a second copy; the limit in the process is 4.8 GB."""
    exif = Image.Exif()
    exif[0x112] = 6
    [process] = decoder._idle
    pixels = decoder.load(flat(12_500, 8_000, "JPEG", exif=exif))
    assert pixels.shape == (12_500, 8_000, 3)
    assert abs(pixels[6_000, 4_000].astype(int) - (200, 100, 50)).max() <= 2
    if sys.platform == "linux":
        assert peak_bytes(process.pid) < 1_100_000_000


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "I;16"), ("TIFF", "F")])
def test_conversions_take_no_copies_of_the_whole(kind: str, mode: str) -> None:
    """Four bytes a pixel for the samples and four for reading them, and the libraries."""
    decoder = ImageDecoder(max_pixels=100_000_000, warm=1, seconds=PATIENCE)
    try:
        stream = io.BytesIO()
        options = {"compress_level": 1} if kind == "PNG" else {}
        Image.new(mode, (5_000, 4_000)).save(stream, kind, **options)
        [process] = decoder._idle
        assert decoder.load(stream).shape == (4_000, 5_000, 3)
        if sys.platform == "linux":
            assert peak_bytes(process.pid) < 80_000_000 + 20_000_000 * 9
    finally:
        decoder.close()


def claimed(width: int, height: int) -> io.BytesIO:
    """A PNG that is nothing but a header."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = (
        struct.pack(">I", 4) + b"IDAT" + bytes(4) + struct.pack(">I", zlib.crc32(b"IDAT\0\0\0\0"))
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + data)


def test_one_row_more_is_told_the_limit(decoder: ImageDecoder) -> None:
    with pytest.raises(MediaError, match="10001 x 10000 pixels; the limit is 100 megapixels") as up:
        decoder.load(claimed(10_001, 10_000))
    assert up.value.reason is Reason.TOO_LARGE
    assert "MAX_IMAGE_PIXELS" in up.value.hint


def test_a_higher_limit_is_the_operators() -> None:
    """Pillow's own is at 179 million. These here are looked at, and found not to be there."""
    decoder = ImageDecoder(max_pixels=400_000_000, warm=1, seconds=PATIENCE)
    try:
        with pytest.raises(MediaError) as caught:
            decoder.load(claimed(19_000, 20_000))
        assert caught.value.reason is Reason.DAMAGED
    finally:
        decoder.close()


def test_memory_is_limited_by_what_the_header_says(decoder: ImageDecoder) -> None:
    """A code stream of 1.6 gigapixels in a JPEG 2000 box of few: it gets no memory."""
    body = bytearray(flat(64, 48, "JPEG2000").getvalue())
    at = body.index(b"\xff\x51") + 6
    body[at : at + 8] = (40_000).to_bytes(4, "big") * 2
    with pytest.raises(MediaError):
        decoder.load(io.BytesIO(bytes(body)))
    [process] = decoder._idle
    if sys.platform == "linux":
        assert peak_bytes(process.pid) < 1_100_000_000
