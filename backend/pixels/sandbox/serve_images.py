"""In the decoding process: one image per request."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image

from backend.media.errors import MediaError
from backend.pixels.images import decode, opened_image, strips
from backend.pixels.sandbox.worker_session import Serve, Session

# What decoding takes up at most: small images and the libraries' tables, and per pixel the
# samples of OpenJPEG (int32, four components, twice), the coefficients of a progressive JPEG, or
# floats of a TIFF, with the picture and its upright copy (four bytes each).
_MEMORY_BYTES = 256 << 20
_MEMORY_BYTES_PER_PIXEL = 48
_MEMORY_BYTES_PER_PIXEL_TO_OPEN = 8  # WebP: two pictures, before its size is known here

# Pillow imports these when they are first needed, which is too late here.
_IMPORTED_LATE = ("copy", "PIL.ImageCms", "PIL.ImageColor", "PIL.ImageFilter", "PIL.ImagePalette",
                  "PIL.MpoImagePlugin", "PIL.TiffImagePlugin")  # fmt: skip


def serve_images() -> Serve:
    """Import all that Pillow may need; returns what answers requests."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # ours is looked at before decoding, and says the size
    for module in _IMPORTED_LATE:
        importlib.import_module(module)
    warnings.simplefilter("ignore")  # of what hostile files say there is no end
    return _serve


def _serve(session: Session, request: Mapping[str, Any]) -> None:
    max_pixels = request["max_pixels"]
    session.memory.limit(_MEMORY_BYTES + max_pixels * _MEMORY_BYTES_PER_PIXEL_TO_OPEN)
    try:
        with opened_image(session.open_file(request), max_pixels) as image:
            pixels = image.width * image.height
            session.memory.limit(_MEMORY_BYTES + pixels * _MEMORY_BYTES_PER_PIXEL)
            session.send({"image": image.size})
            upright = decode(image, max_pixels)
            session.send({"decoded": upright.size})
            for strip in strips(upright, image.format):
                session.send({"rows": len(strip)}, strip.data)
    except MediaError as error:
        described = {"sentence": error.sentence, "hint": error.hint, "reason": error.reason.value}
        session.send({"error": "media", **described})
