"""Label Studio's result items, read one by one and merged by id, and the masks that they draw."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from backend.expected import counted, cut
from backend.labelstudio.brush_rle import MAX_MASK_PIXELS, check_size
from backend.labelstudio.commands import TypedText, read_text
from backend.labelstudio.geometry import (
    Box,
    Ellipse,
    Mask,
    box_corners,
    box_to_pixels,
    check_outline,
    ellipse_to_polygon,
    fill_polygon,
    points_to_pixels,
    resize_mask,
)
from backend.labelstudio.json_values import (
    Results,
    flag,
    item_value,
    mappings,
    number,
    percent,
    text,
    texts,
    whole_number,
)
from backend.labelstudio.model_names import model_of
from backend.labelstudio.tags import LabelConfig

T = TypeVar("T")
Item = Mapping[str, object]
"""One item of a ``result`` list."""

_REGIONLESS_TYPES = ("choices", "rating", "number", "taxonomy", "relation", "pairwise", "datetime")
LONGEST_NAME = 100  # in a sentence
MAX_REGIONS = 50_000  # of one list: 5,000 pages with ten each
SURELY_READ = 500  # regions, however late it is: as many as an annotator may have drawn
MAX_CORNERS = 20_000  # of one outline: each costs a pass over the rows that it crosses
_LONGEST_OWNER = 100
_USER_NUMBER = re.compile(r", (\d{1,18})$")
_EDGE = 0.5  # percent: a click on the picture's rim may come out a little outside


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


EncodedMask = BrushStrokes | Bitmask
"""A mask that has to be decoded."""

DecodeMask = Callable[[EncodedMask], Mask]
"""Decodes a mask, in its own size, outside of the process that serves: whoever sent it chose every
byte. Raises UnreadableMask."""


class UnreadableMask(ValueError):
    """Why a mask cannot be decoded."""


def no_masks(encoded: EncodedMask) -> Mask:
    """``DecodeMask`` for where nothing has to be decoded."""
    raise UnreadableMask("its mask is not decoded here")


Area = Polygon | Ellipse | BrushStrokes | Bitmask
"""What covers an area, other than a box."""

Geometry = Point | Box | Area


@dataclass(frozen=True)
class OnPicture:
    """What was drawn on a picture, and with which control.

    Attributes:
        image: name of the Image tag.
        item_index: the page, from 0; None for a single picture.
        original_width, original_height: of the picture in pixels; None where they are not known.
    """

    image: str
    item_index: int | None = None
    labels: tuple[str, ...] = ()
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float = 0.0
    from_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Region(OnPicture):
    """One region of a picture: all result items with its id.

    ``positive`` is the sign of a click, None where it has none: only what was made with a smart
    key point tool carries one.
    """

    id: str
    geometry: Geometry
    positive: bool | None


def joined_labels(labels: Iterable[str]) -> str:
    """The labels of a region as one name."""
    return "+".join(labels)


@dataclass
class ReadResults:
    """What a list of result items holds, and what was passed over and why.

    ``texts`` are those of global text areas, with the name of the tag that the area is on. In
    ``ignored``, what there was no room or time for comes first.
    """

    regions: list[Region] = field(default_factory=list)
    texts: list[TypedText] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def newest_results(
    task: Mapping[str, object], *kinds: str, even_empty: bool = False, not_by: str | None = None
) -> Results:
    """The results of the newest entry that a task has of the first kind of which it has one.

    Args:
        task: as Label Studio sends it.
        kinds: ``"drafts"``, ``"annotations"``, ``"predictions"``, the preferred one first. Those
            that were cancelled never count.
        even_empty: whether an entry without results counts: all that it held was deleted.
        not_by: the model (of whichever release) whose predictions do not count.

    Returns:
        Copies of the result items; an empty list where no entry counts.
    """
    for kind in kinds:
        for entry in newest_first(task.get(kind)):
            foreign = not_by is None or model_of(entry.get("model_version")) != not_by
            if foreign and not entry.get("was_cancelled") and (even_empty or entry.get("result")):
                return [dict(item) for item in mappings(entry.get("result"))]
    return []


def owner_of(entry: Mapping[str, object]) -> str:
    """Who made a draft or an annotation, by the number of the user where it is there: drafts have
    it at the end of their user's name, after the address."""
    made_by = entry.get("completed_by", entry.get("user"))
    if isinstance(made_by, Mapping):
        made_by = made_by.get("id")
    named = _USER_NUMBER.search(text(entry.get("created_username")) or "")
    found = named[1] if named and "completed_by" not in entry else made_by
    return str(found)[:_LONGEST_OWNER] if isinstance(found, str | int) else ""


def newest_first(entries: object) -> list[Mapping[str, object]]:
    """Drafts, annotations or predictions of a task, the newest first."""

    def age(entry: Mapping[str, object]) -> tuple[str, float]:
        # ISO 8601 in one zone (Label Studio writes UTC) sorts as text
        date = text(entry.get("updated_at")) or text(entry.get("created_at")) or ""
        return date, number(entry.get("id")) or 0.0

    return sorted(mappings(entries), key=age)[::-1]


# --- from items to regions and texts -------------------------------------------------------


def read_results(
    results: object, config: LabelConfig, late: Callable[[], bool] = lambda: False
) -> ReadResults:
    """Read the items of a ``result`` list. Never raises: what cannot be used is in ``ignored``.

    Items with one id are one region: with a separate ``<Labels>`` the editor sends each prompt as
    two items, both with coordinates, and the label counts from the one of type ``labels``.

    Args:
        late: whether the time for reading is over; what is not read by then is left out.
    """
    read = ReadResults()
    if not isinstance(results, list | tuple):
        if results is not None:
            read.ignored.append("result is not a list")
        return read
    drawn: list[Item] = []
    for position, item in enumerate(results):
        if not isinstance(item, Mapping):
            read.ignored.append(f"result {position} is not an object")
        elif item.get("type") == "textarea":
            found = _global_text(item, config)
            if isinstance(found, str):
                read.ignored.append(found)
            else:
                read.texts.append(found)
        elif item.get("type") not in _REGIONLESS_TYPES:
            drawn.append(item)
    groups = list(by_region(drawn))
    if len(groups) > MAX_REGIONS:
        read.ignored.insert(0, f"of {len(groups)} regions only the first {MAX_REGIONS} are read")
    for position, (identifier, items) in enumerate(groups[:MAX_REGIONS]):
        if position >= SURELY_READ and late():
            left = len(groups) - position
            read.ignored.insert(
                0, f"{left} of {counted(len(groups), 'region')} had no time to be read"
            )
            break
        try:
            read.regions.append(_region(identifier, items, config))
        except ValueError as error:
            name = (
                f"region {cut(identifier, LONGEST_NAME)}" if identifier else "a region without id"
            )
            read.ignored.append(f"{name}: {error}")
    return read


def by_region(items: Iterable[Item]) -> Iterator[tuple[str, list[Item]]]:
    """Each region's id and items, in the order in which they first appear. Items with one id are
    one region; an item without id is one by itself, and its id is ""."""
    groups: dict[str | int, list[Item]] = {}
    for position, item in enumerate(items):
        groups.setdefault(text(item.get("id")) or position, []).append(item)
    for key, group in groups.items():
        yield key if isinstance(key, str) else "", group


def _global_text(item: Item, config: LabelConfig) -> TypedText | str:
    """What an item of a global text area holds, or why it cannot be used."""
    name = text(item.get("from_name")) or ""
    shown = cut(name, LONGEST_NAME)
    area = next((area for area in config.text_areas if area.name == name), None)
    if area is None:
        return f"text for {shown or 'no tag'}, which is no global <TextArea>"
    typed = read_text(item)
    return replace(typed, to_name=area.to_name) if typed else f"text for {shown} without text"


def _region(identifier: str, items: list[Item], config: LabelConfig) -> Region:
    """One region from all its items. Raises ValueError where it is not on a picture, or has no
    geometry that can be used."""
    image = _image_name(items, config)
    if image is None:
        name = cut(_first_text(items, "to_name") or "its tag", LONGEST_NAME)
        raise ValueError(f"{name} is no <Image>")
    width, height = _picture_size(items)
    item, geometry = _geometry(items, width, height)
    if isinstance(geometry, Box):
        # without a size the box is looked at in a square picture
        left, top, right, bottom = box_to_pixels(geometry, width or 100, height or 100)
        if left >= right or top >= bottom:
            raise ValueError("the box lies outside the picture")
    return Region(
        id=identifier,
        image=image,
        item_index=_first(whole_number(each.get("item_index")) for each in items),
        geometry=geometry,
        labels=labels_of(items),
        from_name=text(item.get("from_name")) or "",
        positive=_first(sign_of(each) for each in items),
        original_width=width,
        original_height=height,
        image_rotation=_first(number(each.get("image_rotation")) for each in items) or 0.0,
    )


def _image_name(items: list[Item], config: LabelConfig) -> str | None:
    """The Image tag the items are on; without ``to_name`` the one of their control."""
    to_name = _first_text(items, "to_name")
    if to_name is None:
        controls = (config.control(text(item.get("from_name")) or "") for item in items)
        to_name = _first(control.to_name for control in controls if control is not None)
        if to_name is None and len(config.images) == 1:
            to_name = config.images[0].name
    return to_name if to_name is not None and config.image(to_name) is not None else None


def _geometry(items: list[Item], width: int | None, height: int | None) -> tuple[Item, Geometry]:
    """The first item with a usable geometry, those of a shape's own control first. Raises
    ValueError where there is none, which says why the last one is not usable."""
    reason = ValueError("no value")
    for item in sorted(items, key=lambda each: each.get("type") == "labels"):
        value = item.get("value")
        if not isinstance(value, Mapping):
            continue
        try:
            return item, read_geometry(value, width, height)
        except ValueError as error:
            reason = error
    raise reason


def labels_of(items: list[Item]) -> tuple[str, ...]:
    """The labels of a region: of its ``labels`` item, else of the control's own key, else of the
    ``labels`` that the editor adds to smart key points."""
    named = [item for item in items if item.get("type") == "labels"]
    drawn = [item for item in items if item.get("type") != "labels"]
    keys = [(item, "labels") for item in named]
    keys += [(item, kind) for item in drawn if (kind := str(item.get("type"))).endswith("labels")]
    keys += [(item, "labels") for item in drawn]
    found = (texts(item_value(item).get(key)) for item, key in keys)
    return next((labels for labels in found if labels), ())


def sign_of(item: Item) -> bool | None:
    """Whether a click is positive; None where nothing says so.

    Open-source Label Studio writes ``is_positive`` on the item; ``value.positive`` is the spelling
    of the Enterprise editor (label-studio-ml-backend, segment_anything_video_interactive).
    """
    value = item_value(item)
    spellings = (
        item.get("is_positive"),
        value.get("positive"),
        value.get("is_positive"),
        item.get("positive"),
    )
    return _first(flag(spelling) for spelling in spellings)


def _picture_size(items: list[Item]) -> tuple[int | None, int | None]:
    """The picture's width and height; none where they are missing or cannot be true."""
    for item in items:
        width = whole_number(item.get("original_width"))
        height = whole_number(item.get("original_height"))
        if width and height and width * height <= MAX_MASK_PIXELS:
            return width, height
    return None, None


def _first_text(items: list[Item], key: str) -> str | None:
    return _first(text(item.get(key)) for item in items)


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


# --- the geometry of one item --------------------------------------------------------------


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
    for key in ("points", "vertices"):
        if key in value:
            return _polygon(value, key, height)
    if "radiusX" in value:
        return Ellipse(*_sides(value, "radiusX", "radiusY", "ellipse"))
    if "width" in value and "height" in value:
        return Box(*_sides(value, "width", "height", "box"))
    if "x" in value or "y" in value:
        return _point(percent(value, "x"), percent(value, "y"))
    raise ValueError("no geometry in its value")


def _sides(
    value: Mapping[str, object], across: str, down: str, name: str
) -> tuple[float, float, float, float, float]:
    """Place, size and angle of what is ``name``; its size is under ``across`` and ``down``."""
    x, y, width, height = (percent(value, key) for key in ("x", "y", across, down))
    if width <= 0 or height <= 0:
        raise ValueError(f"the {name} is empty")
    return x, y, width, height, (number(value.get("rotation")) or 0.0) % 360.0


def _point(x: float, y: float) -> Point:
    if not all(-_EDGE <= position <= 100.0 + _EDGE for position in (x, y)):
        raise ValueError("the point lies outside the picture")
    return Point(min(max(x, 0.0), 100.0), min(max(y, 0.0), 100.0))


def _polygon(value: Mapping[str, object], key: str, height: int | None) -> Polygon:
    points = value[key]
    if not isinstance(points, list):
        raise ValueError(f"{key} are not a list")
    ring = []
    for point in points:
        if key == "points" or not isinstance(point, dict):
            if not isinstance(point, list | tuple) or len(point) != 2:
                raise ValueError("a point is not a pair of numbers")
            point = dict(zip("xy", point, strict=True))
        ring.append((percent(point, "x"), percent(point, "y")))
    if len(ring) > MAX_CORNERS:
        raise ValueError(f"it has {len(ring)} corners, more than {MAX_CORNERS}")
    if len(ring) < 3:
        raise ValueError("fewer than three points enclose nothing")
    if height:
        check_outline(points_to_pixels(ring, 1, height), height)
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
    except ValueError as error:
        raise ValueError("imageDataURL is not base64") from error


# --- from geometry to a mask -----------------------------------------------------------------


def rasterise(geometry: Geometry, width: int, height: int, decode: DecodeMask) -> Mask:
    """The pixels a geometry covers, bool [height, width]; a point covers none.

    A mask drawn on a picture of another size is resized (nearest neighbour).

    Raises:
        UnreadableMask: an RLE or PNG that cannot be decoded, or whose size is refused; an outline
            that would take long to fill.
        ValueError: the size of the picture is refused.
    """
    check_size(width, height)
    try:
        match geometry:
            case Point():
                return np.zeros((height, width), dtype=bool)
            case Box():
                return fill_polygon(box_corners(geometry, width, height), width, height)
            case Polygon():
                return fill_polygon(points_to_pixels(geometry.points, width, height), width, height)
            case Ellipse():
                return fill_polygon(ellipse_to_polygon(geometry, width, height), width, height)
        check_size(*mask_size(geometry))
    except ValueError as error:
        raise UnreadableMask(str(error)) from error
    return resize_mask(decode(geometry), width, height)


def mask_size(encoded: EncodedMask) -> tuple[int, int]:
    """Width and height that a mask declares. Raises ValueError where it is none."""
    if isinstance(encoded, BrushStrokes):
        return encoded.width, encoded.height
    png = encoded.png
    # IHDR comes first: signature 8, length 4, "IHDR", then width and height
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 24:
        raise ValueError("the bitmask is not a PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
