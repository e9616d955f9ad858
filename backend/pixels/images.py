"""Decoding images into what the annotator sees in the browser; done in a decoding process.

As Chromium shows them (compared pixel by pixel): EXIF orientation of JPEG, PNG and AVIF
applied, that of WebP and any in XMP ignored, transparency over white, the first frame of an
animation, 16-bit samples scaled to 8. Where no browser shows a format (TIFF, floating point),
the range of the samples is stretched to 0..255. Colour profiles are ignored: they shift
shades, not outlines.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from backend.media.errors import MediaError, Reason, shown

# Formats with a decoder in the library itself; nothing that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # more than 8 bits a sample
_STRIP_ROWS = 256
# Whatever the decoders raise for damaged files, short of a crash.
_DECODER_ERRORS = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def opened_image(
    file: BinaryIO, max_pixels: int, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """An image whose header is read and within the limit, and nothing decoded yet.

    Args:
        file: binary, seekable.
        max_pixels: width times height that is allowed.
        formats: as Pillow calls them.

    Raises:
        MediaError: it is no image, of an unknown format, damaged, truncated or too large; raised
            here or in the block, whatever decoders raise there.
    """
    try:
        _check_webp_size(file, max_pixels)
        with Image.open(file, formats=formats) as image:
            _check_pixels(*image.size, max_pixels)
            yield image
    except UnidentifiedImageError:
        file.seek(0)
        found, hint = _describe(file.read(512))
        raise MediaError(f"The media is {found}.", hint, reason=Reason.NOT_AN_IMAGE) from None
    except MemoryError:
        raise _too_large("more pixels than fit into memory", max_pixels) from None
    except _DECODER_ERRORS as error:
        raise MediaError(
            f"The image file is damaged or incomplete ({shown(str(error))}).",
            "Check that it opens in other programs, and upload it again.",
            reason=Reason.DAMAGED,
        ) from error


def decode(image: Image.Image, max_pixels: int) -> Image.Image:
    """Decode an opened image, and turn it upright; to be called in its block."""
    image.load()
    _check_pixels(*image.size, max_pixels)  # the first frame of a GIF may enlarge it
    return _upright(image)


def strips(image: Image.Image, kind: str | None) -> Iterator[np.ndarray]:
    """A decoded image in strips of full width from top to bottom, uint8 RGB [rows, W, 3]. In one
    piece, each conversion of 100 megapixels would cost another 400 MB.

    Args:
        kind: the format of the file, as Pillow calls it.
    """
    convert = _rgb
    if image.mode in _WIDE_MODES:
        low, high = (0.0, 65535.0) if kind == "PNG" else _range(image)
        convert = partial(_eight_bit, low=low, high=high)
    for strip in _cut(image):
        yield np.asarray(convert(strip))


def mask_strips(image: Image.Image) -> Iterator[np.ndarray]:
    """What a bitmask covers, in strips as above, bool [rows, W]: what is not transparent; of
    an opaque picture what is not black. (The editor would colour all of it.)"""
    for strip in _cut(image):
        if strip.mode in _WIDE_MODES:
            yield np.asarray(strip).astype(bool)
        elif strip.has_transparency_data:
            yield np.asarray(strip.convert("RGBA").getchannel("A")).astype(bool)
        else:
            yield np.asarray(strip.convert("RGB")).max(axis=2).astype(bool)


def _cut(image: Image.Image) -> Iterator[Image.Image]:
    for top in range(0, image.height, _STRIP_ROWS):
        yield image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))


def _range(image: Image.Image) -> tuple[float, float]:
    """The samples that become 0 and 255."""
    low, high = math.inf, -math.inf
    for strip in _cut(image):
        samples = np.asarray(strip)
        finite = samples[np.isfinite(samples)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 1.0)


def _check_webp_size(file: BinaryIO, max_pixels: int) -> None:
    """Look at the size in a WebP header (RFC 9649): Pillow takes eight bytes per pixel already
    for opening such a file."""
    file.seek(0)
    head = file.read(30)
    file.seek(0)
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return
    if head[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_pixels(width, height, max_pixels)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_large(f"{width} x {height} pixels", max_pixels)


def _upright(image: Image.Image) -> Image.Image:
    """Turn and mirror as the EXIF block says. Pillow has done so for TIFF when loading; its own
    ``exif_transpose`` would also heed WebP and XMP, which browsers do not."""
    block = image.info.get("exif")
    if image.format in ("WEBP", "TIFF") or not isinstance(block, bytes):
        return image
    exif = Image.Exif()
    try:
        exif.load(block)
    except _DECODER_ERRORS:
        return image  # a damaged block does not keep a browser from showing the picture
    method = _TRANSPOSITIONS.get(exif.get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image, *, low: float, high: float) -> Image.Image:
    samples = np.nan_to_num(np.asarray(image).astype(np.float32), nan=low, posinf=high, neginf=low)
    scaled = (samples - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)).convert("RGB")


def _too_large(size: str, max_pixels: int) -> MediaError:
    return MediaError(
        f"The image has {size}; the limit is {max_pixels / 1e6:g} megapixels.",
        "Scale it down, or raise MAX_IMAGE_PIXELS of the backend.",
        reason=Reason.TOO_LARGE,
    )


def _describe(head: bytes) -> tuple[str, str]:
    """What the first bytes of a file that is no readable image look like, and what to do."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file", "Upload it again."
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, probably a login or error page, not an image", (
            "Open its address in a private browser window to see what the server sends, and "
            "check the backend's LABEL_STUDIO_API_KEY."
        )
    if b"<svg" in text:
        return "an SVG drawing, which has no pixels to segment", "Convert it to PNG."
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document, probably an error of the storage, not an image", (
            "Check that the backend may read the storage."
        )
    if text.startswith((b"{", b"[")):
        return "a JSON document, probably an error of a server, not an image", (
            "Check the address in the task's data."
        )
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "a HEIC image, which browsers and this backend cannot read", "Convert it to JPEG."
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "a damaged AVIF image", "Save it anew, or as JPEG."
    if head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF")):
        return "a video, not an image", "Use a <Video> tag for it."
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL image, which most browsers and this backend cannot read", (
            "Convert it to JPEG."
        )
    if head[128:132] == b"DICM":
        return "a DICOM file, which neither browsers nor this backend can read", (
            "Convert its pictures to PNG."
        )
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "a TIFF image of a kind that is not read, or damaged", (
            "Save it with 8 or 16 bits per sample."
        )
    if head.startswith(b"%PDF"):
        return "a PDF document, not an image", "Convert its pages to images."
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself", "Run git lfs pull where the files are."
    return "not an image of a known format", (
        "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF and JPEG 2000 are read."
    )
