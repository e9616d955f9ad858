"""Decoding: what Chromium shows, and a sentence for everything that is no image."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from backend.media.errors import MediaError, Reason
from tests.pixels.in_process import decoded_image

WIDTH, HEIGHT = 48, 32
Save = Callable[..., Path]


def quadrants() -> Image.Image:
    """Red, green / blue, black: every turn and mirroring of it looks different."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:16, :24] = (255, 0, 0)
    pixels[:16, 24:] = (0, 255, 0)
    pixels[16:, :24] = (0, 0, 255)
    return Image.fromarray(pixels)


def corners(image: np.ndarray) -> str:
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (0, 0, 0): "K"}
    height, width, _ = image.shape
    spots = [(4, 4), (4, width - 5), (height - 5, 4), (height - 5, width - 5)]
    return "".join(names[tuple((image[spot] > 128).astype(int))] for spot in spots)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(image: Image.Image, kind: str, **options: Any) -> Path:
        path = tmp_path / "image"
        image.save(path, kind, **options)
        return path

    return save


def orientation_block(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = value
    return exif.tobytes()


# Top left, top right, bottom left, bottom right of what is shown, by EXIF orientation.
UPRIGHT = {1: "RGBK", 2: "GRKB", 3: "KBGR", 4: "BKRG", 5: "RBGK", 6: "BRKG", 7: "KGBR", 8: "GKRB"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF", "TIFF"])
@pytest.mark.parametrize("value", UPRIGHT)
def test_exif_orientation_is_applied(save: Save, kind: str, value: int) -> None:
    image = decoded_image(save(quadrants(), kind, exif=orientation_block(value)))
    assert image.shape == ((HEIGHT, WIDTH, 3) if value < 5 else (WIDTH, HEIGHT, 3))
    assert corners(image) == UPRIGHT[value]


@pytest.mark.parametrize("value", UPRIGHT)
def test_orientation_of_webp_is_ignored_as_browsers_do(save: Save, value: int) -> None:
    image = decoded_image(save(quadrants(), "WEBP", lossless=True, exif=orientation_block(value)))
    assert corners(image) == "RGBK"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_in_xmp_is_ignored_as_browsers_do(save: Save, kind: str) -> None:
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    options = {"pnginfo": text} if kind == "PNG" else {"xmp": xmp.encode(), "quality": 95}
    path = save(quadrants(), kind, **options)
    assert Image.open(path).getexif().get(0x112) == 6  # Pillow itself would turn it
    assert corners(decoded_image(path)) == "RGBK"


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_impossible_orientations_are_ignored(save: Save, value: int) -> None:
    assert (
        corners(decoded_image(save(quadrants(), "JPEG", exif=orientation_block(value)))) == "RGBK"
    )


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0garbage" * 9])
def test_damaged_exif_does_not_hide_the_picture(save: Save, block: bytes) -> None:
    assert corners(decoded_image(save(quadrants(), "JPEG", exif=block))) == "RGBK"


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "BMP"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("RGB", "JPEG2000"), ("RGB", "GIF"),
     ("RGB", "PPM"), ("RGBA", "PNG"), ("RGBA", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("P", "BMP"),
     ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("RGB", "AVIF")],
)  # fmt: skip
def test_colours_of_every_mode(save: Save, mode: str, kind: str) -> None:
    image = decoded_image(save(quadrants().convert(mode), kind))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert corners(image) == "RGBK"


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey(save: Save, mode: str) -> None:
    ramp = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    image = decoded_image(save(ramp.convert(mode), "PNG"))
    expected = np.asarray(ramp.convert(mode).convert("L"))
    assert np.array_equal(image, np.repeat(expected[..., None], 3, axis=2))


def test_transparency_is_shown_over_white(save: Save) -> None:
    picture = quadrants().convert("RGBA")
    picture.putalpha(Image.fromarray(np.full((HEIGHT, WIDTH), 51, np.uint8)))
    image = decoded_image(save(picture, "PNG"))
    assert image[4, 4].tolist() == [255, 204, 204]
    assert image[-4, -4].tolist() == [204, 204, 204]


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_a_transparent_colour_is_shown_white(save: Save, mode: str) -> None:
    picture = quadrants().convert(mode)
    colour = picture.getpixel((WIDTH - 1, HEIGHT - 1))
    image = decoded_image(save(picture, "PNG", transparency=colour))
    assert image[-1, -1].tolist() == [255, 255, 255]
    assert image[0, 0].tolist() != [255, 255, 255]


def test_transparent_pixels_hide_their_colour(save: Save) -> None:
    assert (decoded_image(save(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "PNG")) == 255).all()


def test_16_bit_grey_png_is_scaled(save: Save) -> None:
    samples = np.array([[0, 257, 32768, 65535]], np.uint16)
    image = decoded_image(save(Image.fromarray(samples), "PNG"))
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_colour_png_is_scaled(tmp_path: Path) -> None:
    samples = np.array([[[65535, 32768, 0], [0, 257, 65535]]], np.uint16)
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), samples[..., ::-1])
    assert decoded_image(path).tolist() == [[[255, 128, 0], [0, 1, 255]]]


@pytest.mark.parametrize(
    "samples",
    [
        np.array([[0, 1000, 4095]], np.uint16),
        np.array([[-100, 0, 309]], np.int32),
        np.array([[-1.0, 0.0, 3.09]], np.float32),
    ],
)
def test_samples_no_browser_shows_are_stretched(save: Save, samples: np.ndarray) -> None:
    image = decoded_image(save(Image.fromarray(samples), "TIFF"))
    assert image[0, :, 0].tolist() == [0, 62, 255]


def test_flat_samples_do_not_divide_by_zero(save: Save) -> None:
    flat = Image.fromarray(np.full((3, 3), 7, np.uint16))
    assert decoded_image(save(flat, "TIFF")).shape == (3, 3, 3)


def test_undefined_samples_are_black(save: Save) -> None:
    samples = np.array([[0.0, np.nan, np.inf, 2.0]], np.float32)
    image = decoded_image(save(Image.fromarray(samples), "TIFF"))
    assert image[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_several(save: Save, kind: str) -> None:
    other = [Image.new("RGB", (WIDTH, HEIGHT), "white")]
    assert corners(decoded_image(save(quadrants(), kind, save_all=True, append_images=other))) == (
        "RGBK"
    )


# --- limits --------------------------------------------------------------------------------


def test_limit_is_on_pixels(save: Save) -> None:
    path = save(quadrants(), "PNG")
    assert decoded_image(path, max_pixels=WIDTH * HEIGHT).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(MediaError, match="48 x 32 pixels") as caught:
        decoded_image(path, max_pixels=WIDTH * HEIGHT - 1)
    assert caught.value.reason is Reason.TOO_LARGE
    assert "MAX_IMAGE_PIXELS" in caught.value.hint


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    quadrants().save(stream, "JPEG")
    body = stream.getvalue()
    at = body.index(b"\xff\xc0") + 5
    return body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]


BOMBS = {
    "png header": png(2**31 - 1, 2**31 - 1, (b"IDAT", zlib.compress(b"0"))),
    "png of zeros": png(30_000, 30_000, (b"IDAT", zlib.compress(bytes(30_000 * 3751), 9))),
    "jpeg header": jpeg_of_claimed_size(65_500, 65_500),
    "gif header": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    "bmp header": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 90_000, 90_000,
                                      1, 24, 0, 0, 0, 0, 0, 0),
    "ppm header": b"P6 100000 100000 255\n",
    "png text": png(1, 1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9)),
                    (b"IDAT", zlib.compress(b"\0\0"))),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name])
    with pytest.raises(MediaError) as caught:
        decoded_image(path)
    assert caught.value.reason in (Reason.TOO_LARGE, Reason.DAMAGED)


# --- what is no image ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><title>Log in</title>", "a web page, probably a login"),
        (b"\xef\xbb\xbf\n  <HTML>", "a web page, probably a login"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<svg/>", "an SVG drawing"),
        (b'{"detail": "Authentication credentials were not provided."}', "a JSON document"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"\x1aE\xdf\xa3\x01\0\0", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "a Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (b"hello", "not an image of a known format"),
        (bytes(1000), "not an image of a known format"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, body: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(body)
    with pytest.raises(MediaError, match=words) as caught:
        decoded_image(path)
    assert caught.value.reason is Reason.NOT_AN_IMAGE
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_named(save: Save, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    path = save(Image.fromarray(noise), kind)
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError) as caught:
            decoded_image(path)
        assert caught.value.reason in (Reason.DAMAGED, Reason.NOT_AN_IMAGE)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about corrupt EXIF and TIFF tags
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000"])
def test_damaged_files_never_raise_anything_else(save: Save, kind: str) -> None:
    path = save(quadrants(), kind, **({"exif": orientation_block(6)} if kind == "JPEG" else {}))
    whole = path.read_bytes()
    chance = random.Random(kind)
    for _ in range(150):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        path.write_bytes(body[: chance.randint(len(body) // 2, len(body))])
        try:
            image = decoded_image(path, max_pixels=1_000_000)
        except MediaError:
            continue
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
