"""What a result draws: its geometry read from JSON, and rasterised to a mask."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from backend.labelstudio.brush_rle import check_size, decode_brush
from backend.labelstudio.geometry import (
    Box,
    Ellipse,
    Mask,
    box_corners,
    ellipse_to_polygon,
    fill_polygon,
    points_to_pixels,
    resize_mask,
)
from backend.labelstudio.json_values import number, whole_number


@dataclass(frozen=True)
class Point:
    """A position in percent."""

    x: float
    y: float


@dataclass(frozen=True)
class Polygon:
    """A closed ring in percent; also the vertices of a vector (curves taken as straight)."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class BrushStrokes:
    """A brush region as its RLE, not yet decoded, and the size of the picture it was drawn on."""

    rle: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Bitmask:
    """A bitmask region as its PNG file, not yet decoded."""

    png: bytes


Shape = Polygon | Ellipse | BrushStrokes | Bitmask
"""What encloses an area other than a box."""

Geometry = Point | Box | Shape

_MAX_PERCENT = 1000.0  # ten pictures away: not a place on this one
_EDGE = 0.5  # a click on the picture's rim may come out a little outside


def read_geometry(
    value: Mapping[str, object], width: int | None = None, height: int | None = None
) -> Geometry:
    """The geometry in a result's ``value``; ``width`` and ``height`` of the picture if known.

    Which one it is follows from the keys, as in the editor (``Registry.addRegionType`` of Label
    Studio 1.23.2): the ``type`` names the control, and a mask accepted while a label of the
    rectangle tool is selected is saved as ``rectanglelabels`` with an RLE.

    Raises:
        ValueError: no known geometry, numbers that are missing, not finite or far outside, or a
            brush region without the picture's size.
    """
    if value.get("rle"):
        return _brush(value["rle"], width, height)
    if "imageDataURL" in value:
        return Bitmask(_png(value["imageDataURL"]))
    if "points" in value:
        return _polygon(value["points"])
    if "vertices" in value:
        vertices = value["vertices"]
        if not isinstance(vertices, list):
            raise ValueError("vertices are not a list")
        return _polygon(
            [
                [vertex.get("x"), vertex.get("y")] if isinstance(vertex, dict) else vertex
                for vertex in vertices
            ]
        )
    if "radiusX" in value:
        radius_x, radius_y = _percent(value, "radiusX"), _percent(value, "radiusY")
        if radius_x <= 0 or radius_y <= 0:
            raise ValueError("the ellipse is empty")
        return Ellipse(
            _percent(value, "x"), _percent(value, "y"), radius_x, radius_y, _rotation(value)
        )
    if "width" in value and "height" in value:
        return _box(value)
    if "x" in value or "y" in value:
        return _point(value)
    raise ValueError("no geometry in its value")


def rasterise(geometry: Geometry, width: int, height: int) -> Mask:
    """The pixels a geometry covers, bool [height, width]; a point covers none.

    A mask drawn on a picture of another size is resized (nearest neighbour).

    Raises:
        ValueError: an RLE or PNG that cannot be decoded, or a size that is refused.
    """
    check_size(width, height)
    match geometry:
        case Point():
            return np.zeros((height, width), dtype=bool)
        case Box():
            return fill_polygon(box_corners(geometry, width, height), width, height)
        case Polygon():
            return fill_polygon(points_to_pixels(geometry.points, width, height), width, height)
        case Ellipse():
            return fill_polygon(ellipse_to_polygon(geometry, width, height), width, height)
        case BrushStrokes():
            drawn = decode_brush(geometry.rle, geometry.width, geometry.height)
            return resize_mask(drawn, width, height)
        case Bitmask():
            return resize_mask(_decode_png(geometry.png), width, height)


def region_mask(result: Mapping[str, object]) -> Mask:
    """The mask of one Label Studio result, bool [original_height, original_width].

    Raises:
        ValueError: the result has no size, no geometry, or content that cannot be decoded.
    """
    width = whole_number(result.get("original_width"))
    height = whole_number(result.get("original_height"))
    if width is None or height is None:
        raise ValueError("the result has no original_width and original_height")
    value = result.get("value")
    if not isinstance(value, Mapping):
        raise ValueError("the result has no value")
    check_size(width, height)
    return rasterise(read_geometry(value, width, height), width, height)


def encode_bitmask(mask: Mask) -> str:
    """A mask as the ``imageDataURL`` of a bitmask region: black where the mask is, transparent
    elsewhere, as the editor writes it (``regions/BitmaskRegion.jsx``)."""
    picture = np.zeros((*mask.shape, 4), dtype=np.uint8)
    picture[..., 3] = mask.astype(np.uint8) * np.uint8(255)
    done, png = cv2.imencode(".png", picture)
    if not done:
        raise ValueError(f"OpenCV cannot write a PNG of {mask.shape}")
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode("ascii")


def _percent(value: Mapping[str, object], key: str) -> float:
    found = number(value.get(key))
    if found is None:
        raise ValueError(f"{key} is not a number")
    if abs(found) > _MAX_PERCENT:
        raise ValueError(f"{key} is far outside the picture")
    return found


def _point(value: Mapping[str, object]) -> Point:
    x, y = _percent(value, "x"), _percent(value, "y")
    if not all(-_EDGE <= position <= 100.0 + _EDGE for position in (x, y)):
        raise ValueError("the point lies outside the picture")
    return Point(min(max(x, 0.0), 100.0), min(max(y, 0.0), 100.0))


def _rotation(value: Mapping[str, object]) -> float:
    found = number(value.get("rotation"))
    return 0.0 if found is None else found % 360.0


def _box(value: Mapping[str, object]) -> Box:
    x, y = _percent(value, "x"), _percent(value, "y")
    width, height = _percent(value, "width"), _percent(value, "height")
    if width <= 0 or height <= 0:
        raise ValueError("the box is empty")
    return Box(x, y, width, height, _rotation(value))


def _polygon(points: object) -> Polygon:
    if not isinstance(points, list):
        raise ValueError("points are not a list")
    ring = []
    for point in points:
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise ValueError("a point is not a pair of numbers")
        pair = {"x": point[0], "y": point[1]}
        ring.append((_percent(pair, "x"), _percent(pair, "y")))
    if len(ring) < 3:
        raise ValueError("fewer than three points enclose nothing")
    return Polygon(tuple(ring))


def _brush(rle: object, width: int | None, height: int | None) -> BrushStrokes:
    if not isinstance(rle, list | tuple):
        raise ValueError("the brush RLE is not a list of numbers")
    if not width or not height:
        raise ValueError("a brush region needs original_width and original_height")
    try:
        return BrushStrokes(bytes(rle), width, height)
    except (TypeError, ValueError) as error:
        raise ValueError("the brush RLE holds something that is not a byte") from error


def _png(url: object) -> bytes:
    prefix, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not prefix.startswith("data:image/png") or not prefix.endswith("base64"):
        raise ValueError("imageDataURL is not a base64 PNG")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("imageDataURL is not base64") from error


def _decode_png(png: bytes) -> Mask:
    # IHDR comes first: signature 8, length 4, "IHDR", then width and height
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 24:
        raise ValueError("the bitmask is not a PNG")
    check_size(int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"))
    try:
        picture = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError("the bitmask's PNG cannot be decoded") from error
    if picture is None:
        raise ValueError("the bitmask's PNG cannot be decoded")
    if picture.ndim == 3 and picture.shape[2] == 4:
        covered: Mask = picture[..., 3] > 0
        return covered
    # An opaque picture: what is not black. (The editor would colour all of it.)
    channels = picture.reshape(*picture.shape[:2], -1)
    opaque: Mask = np.any(channels > 0, axis=2)
    return opaque
