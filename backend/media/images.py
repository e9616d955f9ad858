"""Decoding images into what the annotator sees in the browser.

As Chromium shows them in Label Studio: EXIF orientation applied, transparency over white, the
first frame of an animation, 16-bit samples scaled to 8. Where no browser shows a format
(TIFF, floating point), the full range of the samples is stretched to 0..255. Colour profiles
are ignored: they shift shades, not outlines.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from backend.media.errors import MediaError, Reason

# Formats with a decoder in the library itself; nothing that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
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
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(f"{width} x {height} pixels", max_pixels)
            image.load()
            return np.array(_rgb(_upright(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("more pixels than can be decoded", max_pixels) from None
    except UnidentifiedImageError:
        raise _not_an_image(path) from None
    except MemoryError:
        raise _too_large("more pixels than fit into memory", max_pixels) from None
    except _DECODER_ERRORS as error:
        raise MediaError(
            f"The image file is damaged or incomplete ({error}).",
            "Check that it opens in other programs, and upload it again.",
            reason=Reason.DAMAGED,
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    samples = np.asarray(image).astype(np.float32)
    low, high = 0.0, 65535.0
    if image.format != "PNG":
        low, high = float(samples.min()), float(samples.max())
    scaled = (samples - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _too_large(size: str, max_pixels: int) -> MediaError:
    return MediaError(
        f"The image has {size}; the limit is {max_pixels / 1e6:g} megapixels.",
        "Scale it down, or raise MAX_IMAGE_PIXELS of the backend.",
        reason=Reason.TOO_LARGE,
    )


def _not_an_image(path: Path) -> MediaError:
    with path.open("rb") as file:
        head = file.read(512)
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
    return "not an image of a known format", (
        "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF and JPEG 2000 are read."
    )
