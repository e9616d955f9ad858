"""Less usual forms of the formats, decoded in the decoding process as a viewer shows them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from backend.media.errors import MediaError, Reason
from backend.pixels.sandbox.image_decoding import ImageDecoder

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    made = ImageDecoder(max_pixels=1_000_000, warm=1)
    yield made
    made.close()


def quadrants() -> np.ndarray:
    """Red, green / blue, black, uint8 RGB [48, 64, 3]."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:24, :32, 0] = pixels[:24, 32:, 1] = pixels[24:, :32, 2] = 255
    return pixels


def corners(image: np.ndarray) -> str:
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (0, 0, 0): "K", (1, 1, 1): "W"}
    height, width, _ = image.shape
    spots = [(4, 4), (4, width - 5), (height - 5, 4), (height - 5, width - 5)]
    return "".join(names.get(tuple((image[spot] > 128).astype(int)), "?") for spot in spots)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def by_opencv(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]), options)
    assert done
    return data.tobytes()


def tiff(
    pixels: np.ndarray, *, tile: int = 0, planar: bool = False, photometric: int = 2,
    big: bool = False, extra: int | None = None,
) -> bytes:  # fmt: skip
    """A little-endian TIFF without compression, as Pillow does not write it.

    Args:
        pixels: [H, W, samples] of any number type.
        tile: side of square tiles; 0 for one strip.
        planar: one plane after the other.
        big: BigTIFF.
        extra: the meaning of a fourth sample (1, 2: alpha; 0: something else).
    """
    height, width, samples = pixels.shape
    planes = [pixels[..., k : k + 1] for k in range(samples)] if planar else [pixels]
    pieces: list[bytes] = []
    for plane in planes:
        if not tile:
            pieces.append(plane.tobytes())
            continue
        padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
        for top in range(0, padded.shape[0], tile):
            for left in range(0, padded.shape[1], tile):
                pieces.append(padded[top : top + tile, left : left + tile].tobytes())
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    entries: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [pixels.itemsize * 8] * samples),
        259: (3, [1]), 262: (3, [photometric]), 277: (3, [samples]),
        284: (3, [2 if planar else 1]), 339: (3, [kind] * samples),
    }  # fmt: skip
    if extra is not None:
        entries[338] = (3, [extra])
    where = 16 if big else 8
    offsets = [where + sum(map(len, pieces[:k])) for k in range(len(pieces))]
    sizes = [len(piece) for piece in pieces]
    if tile:
        entries |= {322: (4, [tile]), 323: (4, [tile]), 324: (4, offsets), 325: (4, sizes)}
    else:
        entries |= {273: (4, offsets), 278: (4, [height]), 279: (4, sizes)}
    return _tiff_file(entries, b"".join(pieces), big)


def _tiff_file(entries: dict[int, tuple[int, list[int]]], data: bytes, big: bool) -> bytes:
    count, number, inline = ("<Q", "<HHQ", 8) if big else ("<H", "<HHI", 4)
    directory_at = (16 if big else 8) + len(data)
    size = struct.calcsize(count) + len(entries) * (struct.calcsize(number) + inline) + inline
    values, directory = b"", struct.pack(count, len(entries))
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        directory += struct.pack(number, tag, kind, len(numbers))
        if len(packed) <= inline:
            directory += packed.ljust(inline, b"\0")
        else:
            at = directory_at + size + len(values)
            directory += at.to_bytes(inline, "little")
            values += packed
    directory += bytes(inline)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, directory_at)
    if not big:
        head = struct.pack("<2sHI", b"II", 42, directory_at)
    return head + data + directory + values


def _alpha(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(pixels.any(2), 255, 0).astype(np.uint8)))
    return image


RGB = quadrants()
RGB16 = RGB.astype(np.uint16) * 257
RGBA = np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, np.uint8)])
CMYK = np.asarray(Image.fromarray(RGB).convert("CMYK"))

ZOO: dict[str, tuple[Callable[[], bytes], str]] = {
    "TIFF in tiles": (lambda: tiff(RGB, tile=32), "RGBK"),
    "TIFF in planes": (lambda: tiff(RGB, planar=True), "RGBK"),
    "TIFF in tiles of planes": (lambda: tiff(RGB, planar=True, tile=16), "RGBK"),
    "BigTIFF": (lambda: tiff(RGB, big=True), "RGBK"),
    "TIFF of 16 bits a sample": (lambda: tiff(RGB16), "RGBK"),
    "TIFF of 16 bits, by another program": (lambda: by_opencv(".tiff", RGB16), "RGBK"),
    "TIFF with alpha": (lambda: tiff(RGBA, extra=2), "RGBK"),
    "TIFF with a fourth sample that is no alpha": (lambda: tiff(RGBA // 2 * 2, extra=0), "RGBK"),
    "TIFF of CMYK": (lambda: tiff(CMYK, photometric=5), "RGBK"),
    "TIFF, LZW": (lambda: saved(RGB, "TIFF", compression="tiff_lzw"), "RGBK"),
    "TIFF, deflate": (lambda: saved(RGB, "TIFF", compression="tiff_deflate"), "RGBK"),
    "TIFF, PackBits": (lambda: saved(RGB, "TIFF", compression="packbits"), "RGBK"),
    "TIFF, JPEG": (lambda: saved(RGB, "TIFF", compression="jpeg"), "RGBK"),
    "TIFF, fax": (
        lambda: saved(Image.fromarray(RGB[..., 1] > 0), "TIFF", compression="group4"),
        "KWKK",
    ),
    "PNG, interlaced": (lambda: INTERLACED, "RGBK"),
    "PNG of 16 bits": (lambda: by_opencv(".png", RGB16), "RGBK"),
    "JPEG, progressive": (lambda: saved(RGB, "JPEG", progressive=True), "RGBK"),
    "JPEG of CMYK, Adobe's inverted way": (
        lambda: saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "RGBK"),
    "JPEG, full colour resolution": (lambda: saved(RGB, "JPEG", subsampling=0), "RGBK"),
    "WebP with alpha": (lambda: saved(_alpha(RGB), "WEBP", lossless=True), "RGBW"),
    "WebP, animated": (
        lambda: saved(RGB, "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
        "RGBK",
    ),
    "AVIF with alpha": (lambda: saved(_alpha(RGB), "AVIF"), "RGBW"),
    "AVIF, animated": (
        lambda: saved(RGB, "AVIF", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
        "RGBK",
    ),
    "JPEG 2000, 16 bits": (lambda: by_opencv(".jp2", RGB16 // 257 * 250), "RGBK"),
    "JPEG 2000 with alpha": (lambda: saved(_alpha(RGB), "JPEG2000"), "RGBW"),
    "JPEG 2000 without a box": (lambda: saved(RGB, "JPEG2000", no_jp2=True), "RGBK"),
    "BMP of 256 colours": (lambda: saved(Image.fromarray(RGB).quantize(), "BMP"), "RGBK"),
    "BMP with alpha": (lambda: saved(Image.fromarray(RGBA), "BMP"), "RGBK"),
    "GIF with a transparent colour": (
        lambda: saved(Image.fromarray(RGB).quantize(), "GIF",
                      transparency=Image.fromarray(RGB).quantize().getpixel((63, 47))), "RGBW"),
    "PPM of 16 bits": (lambda: by_opencv(".ppm", RGB16), "RGBK"),
}  # fmt: skip


def _interlaced() -> bytes:
    """Adam7 (PNG specification, section 8), which Pillow does not write."""
    import zlib

    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)]  # fmt: skip
    rows = b""
    for x, y, dx, dy in passes:
        part = RGB[y::dy, x::dx]
        rows += b"".join(b"\0" + row.tobytes() for row in part)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


INTERLACED = _interlaced()


@pytest.mark.parametrize("name", ZOO)
def test_shown_as_a_viewer_shows_it(decoder: ImageDecoder, name: str) -> None:
    make, shown = ZOO[name]
    image = decoder.load(io.BytesIO(make()))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert corners(image) == shown


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        (b"\x76\x2f\x31\x01" + bytes(100), "known format"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM"),
        (b"II\x2a\0\x10\0\0\0CR\x02\0" + bytes(100), "TIFF image of a kind that is not read"),
        (by_opencv(".tiff", RGB.astype(np.float32)), "TIFF image of a kind that is not read"),
    ],
    ids=["JPEG XL", "JPEG XL in a box", "HEIC", "OpenEXR", "DICOM", "raw", "TIFF of three floats"],
)
def test_formats_that_are_not_read(decoder: ImageDecoder, body: bytes, told: str) -> None:
    with pytest.raises(MediaError, match=told) as caught:
        decoder.load(io.BytesIO(body))
    assert caught.value.reason is Reason.NOT_AN_IMAGE
    assert caught.value.hint
