"""Decoding images into what the annotator sees in the browser.

As Chromium shows them (compared pixel by pixel): EXIF orientation of JPEG, PNG and AVIF
applied, that of WebP and any in XMP ignored, transparency over white, the first frame of an
animation, 16-bit samples scaled to 8. Where no browser shows a format (TIFF, floating point),
the range of the samples is stretched to 0..255. Colour profiles are ignored: they shift
shades, not outlines.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
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
_STRIP_ROWS = 256
# Whatever the decoders raise for damaged files, short of a crash.
_DECODER_ERRORS = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


def load_image(path: Path, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decode an image file.

    Args:
        path: the file.
        max_pixels: larger images are refused before they are decoded; Pillow's own limit of
            178 million applies above that.

    Returns:
        uint8 RGB [H, W, 3], upright, contiguous and writable.

    Raises:
        MediaError: it is no image, of an unknown format, damaged, truncated or too large.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise MediaError(
            f"The downloaded image cannot be read back: {error.strerror}.",
            "Try again.",
            reason=Reason.STORAGE,
        ) from error
    with file:
        try:
            return _decode(file, max_pixels)
        except UnidentifiedImageError:
            file.seek(0)
            raise _not_an_image(file.read(512)) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _too_large("more pixels than can be decoded", max_pixels) from None
        except MemoryError:
            raise _too_large("more pixels than fit into memory", max_pixels) from None
        except _DECODER_ERRORS as error:
            raise MediaError(
                f"The image file is damaged or incomplete ({shown(str(error))}).",
                "Check that it opens in other programs, and upload it again.",
                reason=Reason.DAMAGED,
            ) from error


def _decode(file: BinaryIO, max_pixels: int) -> np.ndarray:
    with Image.open(file, formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(f"{width} x {height} pixels", max_pixels)
        image.load()
        return _pixels(_rgb(_upright(image)))


def _pixels(image: Image.Image) -> np.ndarray:
    """The samples, copied in strips: at 100 megapixels a copy in one piece costs 600 MB more."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


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
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    samples = np.asarray(image).astype(np.float32)
    low, high = 0.0, 65535.0
    if image.format != "PNG":
        finite = samples[np.isfinite(samples)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        samples = np.nan_to_num(samples, nan=low, posinf=high, neginf=low)
    scaled = (samples - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _too_large(size: str, max_pixels: int) -> MediaError:
    return MediaError(
        f"The image has {size}; the limit is {max_pixels / 1e6:g} megapixels.",
        "Scale it down, or raise MAX_IMAGE_PIXELS of the backend.",
        reason=Reason.TOO_LARGE,
    )


def _not_an_image(head: bytes) -> MediaError:
    found, hint = _describe(head)
    return MediaError(f"The media is {found}.", hint, reason=Reason.NOT_AN_IMAGE)


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
    if head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF")):
        return "a video, not an image", "Use a <Video> tag for it."
    if head.startswith(b"%PDF"):
        return "a PDF document, not an image", "Convert its pages to images."
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself", "Run git lfs pull where the files are."
    return "not an image of a known format", (
        "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF and JPEG 2000 are read."
    )
