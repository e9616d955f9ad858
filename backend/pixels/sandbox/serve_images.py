"""In the decoding process: one image, or the mask of one region, per request."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from backend.labelstudio.brush_rle import decode_brush
from backend.media.errors import MediaError, Reason
from backend.pixels.images import decode, mask_strips, opened_image, strips
from backend.pixels.sandbox.worker_session import Serve, Session

# What decoding takes up at most: small images and the libraries' tables, and per pixel the
# samples of OpenJPEG (int32, four components, twice), the coefficients of a progressive JPEG, or
# floats of a TIFF, with the picture and its upright copy (four bytes each).
_MEMORY_BYTES = 256 << 20
_MEMORY_BYTES_PER_PIXEL = 48
_MEMORY_BYTES_PER_PIXEL_TO_OPEN = 8  # WebP: two pictures, before its size is known here
_ROWS = 256  # of a mask, sent at once

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
    serve = {"brush": _serve_brush, "bitmask": _serve_bitmask}.get(request["kind"], _serve_image)
    try:
        serve(session, request)
    except MediaError as error:
        described = {"sentence": error.sentence, "hint": error.hint, "reason": error.reason.value}
        session.send({"error": "media", **described})


def _serve_image(session: Session, request: Mapping[str, Any]) -> None:
    max_pixels = request["max_pixels"]
    session.memory.limit(_MEMORY_BYTES + max_pixels * _MEMORY_BYTES_PER_PIXEL_TO_OPEN)
    with opened_image(session.open_file(request), max_pixels) as image:
        _allow_memory(session, *image.size)
        session.send({"image": image.size})
        upright = decode(image, max_pixels)
        session.send({"decoded": upright.size})
        for strip in strips(upright, image.format):
            session.send({"rows": len(strip)}, strip.data)


def _serve_bitmask(session: Session, request: Mapping[str, Any]) -> None:
    session.memory.limit(_MEMORY_BYTES)
    with opened_image(session.open_file(request), request["max_pixels"], ("PNG",)) as image:
        _allow_memory(session, *image.size)
        session.send({"image": image.size})
        image.load()
        session.send({"decoded": image.size})
        for strip in mask_strips(image):
            _send_bits(session, strip)


def _serve_brush(session: Session, request: Mapping[str, Any]) -> None:
    width, height = request["picture"]
    _allow_memory(session, width, height)
    session.send({"image": [width, height]})
    try:
        mask = decode_brush(session.open_file(request).read(), width, height)
    except ValueError as error:
        raise MediaError(f"{error}", "Draw it anew.", reason=Reason.DAMAGED) from error
    session.send({"decoded": [width, height]})
    for top in range(0, height, _ROWS):
        _send_bits(session, mask[top : top + _ROWS])


def _allow_memory(session: Session, width: int, height: int) -> None:
    session.memory.limit(_MEMORY_BYTES + width * height * _MEMORY_BYTES_PER_PIXEL)


def _send_bits(session: Session, rows: np.ndarray) -> None:
    """Send rows of a mask, bool [rows, W], eight pixels a byte."""
    session.send({"rows": len(rows)}, np.packbits(rows, axis=1).data)
