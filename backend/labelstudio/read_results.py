"""Label Studio's result items, read one by one and merged by id, before they mean anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.labelstudio.brush_rle import MAX_MASK_PIXELS
from backend.labelstudio.geometry import Box, box_to_pixels
from backend.labelstudio.json_values import flag, mappings, number, text, texts, whole_number
from backend.labelstudio.regions import Geometry, read_geometry
from backend.labelstudio.tags import LabelConfig

T = TypeVar("T")

_TEXT_TYPES = ("textarea",)
_REGIONLESS_TYPES = ("choices", "rating", "number", "taxonomy", "relation", "pairwise", "datetime")


@dataclass(frozen=True)
class Region:
    """One region of a picture: all result items with its id."""

    id: str
    image: str
    item_index: int | None
    geometry: Geometry
    labels: tuple[str, ...]
    from_name: str
    positive: bool
    is_click: bool  # made with a smart key point tool: only those carry a sign
    original_width: int | None
    original_height: int | None
    image_rotation: float


def joined_labels(labels: Iterable[str]) -> str:
    """The labels of a region as one name."""
    return "+".join(labels)


@dataclass(frozen=True)
class TextResult:
    """The entries of a global text area, the newest last."""

    from_name: str
    to_name: str
    item_index: int | None
    entries: tuple[str, ...]


@dataclass
class ReadResults:
    """What a list of result items holds, and what was passed over and why."""

    regions: list[Region] = field(default_factory=list)
    texts: list[TextResult] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_results(results: object, config: LabelConfig) -> ReadResults:
    """Read the items of a ``result`` list. Never raises: what cannot be used is in ``ignored``.

    Items with one id are one region: with a separate ``<Labels>`` the editor sends each prompt as
    two items, both with coordinates, and the label counts from the one of type ``labels``.
    """
    read = ReadResults()
    if not isinstance(results, list | tuple):
        if results is not None:
            read.ignored.append("result is not a list")
        return read
    groups: dict[str, list[Mapping[str, object]]] = {}
    for position, item in enumerate(results):
        if not isinstance(item, Mapping):
            read.ignored.append(f"result {position} is not an object")
        elif item.get("type") in _TEXT_TYPES:
            _read_text(item, config, read)
        elif item.get("type") not in _REGIONLESS_TYPES:
            identifier = text(item.get("id"))
            groups.setdefault(identifier or f"\0{position}", []).append(item)
    for key, items in groups.items():
        _read_region("" if key.startswith("\0") else key, items, config, read)
    return read


def _read_text(item: Mapping[str, object], config: LabelConfig, read: ReadResults) -> None:
    name = text(item.get("from_name")) or ""
    area = next((area for area in config.text_areas if area.name == name), None)
    value = item.get("value")
    entries = texts(value.get("text")) if isinstance(value, Mapping) else ()
    if area is None:
        read.ignored.append(f"text for {name or 'no tag'}, which is no global <TextArea>")
    elif not entries:
        read.ignored.append(f"text for {name} without text")
    else:
        page = whole_number(item.get("item_index"))
        read.texts.append(TextResult(name, area.to_name, page, entries))


def _read_region(
    identifier: str, items: list[Mapping[str, object]], config: LabelConfig, read: ReadResults
) -> None:
    name = f"region {identifier}" if identifier else "a region without id"
    image = _image_name(items, config)
    if image is None:
        read.ignored.append(f"{name}: {_first_text(items, 'to_name') or 'its tag'} is no <Image>")
        return
    width, height = _picture_size(items)
    found = _geometry(items, width, height)
    if isinstance(found, str):
        read.ignored.append(f"{name}: {found}")
        return
    item, geometry = found
    # without a size the box is looked at in a square picture
    if isinstance(geometry, Box) and not _has_area(geometry, width or 100, height or 100):
        read.ignored.append(f"{name}: the box lies outside the picture")
        return
    sign = _sign(items)
    read.regions.append(
        Region(
            id=identifier,
            image=image,
            item_index=_first(whole_number(each.get("item_index")) for each in items),
            geometry=geometry,
            labels=_labels(items),
            from_name=text(item.get("from_name")) or "",
            positive=sign is not False,
            is_click=sign is not None,
            original_width=width,
            original_height=height,
            image_rotation=_first(number(each.get("image_rotation")) for each in items) or 0.0,
        )
    )


def _image_name(items: list[Mapping[str, object]], config: LabelConfig) -> str | None:
    """The Image tag the items are on; without ``to_name`` the one of their control."""
    to_name = _first_text(items, "to_name")
    if to_name is None:
        controls = (config.control(text(item.get("from_name")) or "") for item in items)
        to_name = _first(control.to_name for control in controls if control is not None)
        if to_name is None and len(config.images) == 1:
            to_name = config.images[0].name
    return to_name if to_name is not None and config.image(to_name) is not None else None


def _geometry(
    items: list[Mapping[str, object]], width: int | None, height: int | None
) -> tuple[Mapping[str, object], Geometry] | str:
    """The first item with a usable geometry, those of a shape's own control first."""
    reason = "no value"
    for item in sorted(items, key=lambda each: each.get("type") == "labels"):
        value = item.get("value")
        if not isinstance(value, Mapping):
            continue
        try:
            return item, read_geometry(value, width, height)
        except ValueError as error:
            reason = str(error)
    return reason


def _labels(items: list[Mapping[str, object]]) -> tuple[str, ...]:
    """The labels of a region: of its ``labels`` item, else of the control's own key, else of the
    ``labels`` that the editor adds to smart key points."""
    for wanted in ("labels", "own", "added"):
        for item in items:
            kind, value = item.get("type"), item.get("value")
            if not isinstance(value, Mapping) or (wanted == "labels") != (kind == "labels"):
                continue
            key = str(kind) if wanted == "own" else "labels"
            found = texts(value.get(key)) if key.endswith("labels") else ()
            if found:
                return found
    return ()


def _sign(items: list[Mapping[str, object]]) -> bool | None:
    """Whether a click is positive; None where nothing says so.

    Open-source Label Studio writes ``is_positive`` on the item; ``value.positive`` is the spelling
    of the Enterprise editor (label-studio-ml-backend, segment_anything_video_interactive).
    """
    for item in items:
        value = item.get("value")
        inner = value if isinstance(value, Mapping) else {}
        for spelling in (
            item.get("is_positive"),
            inner.get("positive"),
            inner.get("is_positive"),
            item.get("positive"),
        ):
            found = flag(spelling)
            if found is not None:
                return found
    return None


def _picture_size(items: list[Mapping[str, object]]) -> tuple[int | None, int | None]:
    """The picture's width and height; none where they are missing or cannot be true."""
    for item in items:
        width = whole_number(item.get("original_width"))
        height = whole_number(item.get("original_height"))
        if width and height and width * height <= MAX_MASK_PIXELS:
            return width, height
    return None, None


def _has_area(box: Box, width: int, height: int) -> bool:
    left, top, right, bottom = box_to_pixels(box, width, height)
    return bool(left < right and top < bottom)


def _first_text(items: list[Mapping[str, object]], key: str) -> str | None:
    return _first(text(item.get(key)) for item in items)


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def newest_results(
    task: Mapping[str, object], *kinds: str, even_empty: bool = False, not_by: str | None = None
) -> list[dict[str, Any]]:
    """The results of the newest entry that a task has of the first kind of which it has one.

    Args:
        task: as Label Studio sends it.
        kinds: ``"drafts"``, ``"annotations"``, ``"predictions"``, the preferred one first. Those
            that were cancelled never count.
        even_empty: whether an entry without results counts: all that it held was deleted.
        not_by: a model version whose predictions do not count.

    Returns:
        Copies of the result items; an empty list where no entry counts.
    """
    for kind in kinds:
        for entry in newest_first(task.get(kind)):
            foreign = not_by is None or entry.get("model_version") != not_by
            if foreign and not entry.get("was_cancelled") and (even_empty or entry.get("result")):
                return [dict(item) for item in mappings(entry.get("result"))]
    return []


def newest_first(entries: object) -> list[Mapping[str, object]]:
    """Drafts, annotations or predictions of a task, the newest first."""
    found = list(enumerate(mappings(entries)))
    found.sort(key=lambda pair: (_date(pair[1]), number(pair[1].get("id")) or 0.0, pair[0]))
    return [record for _, record in reversed(found)]


def _date(record: Mapping[str, object]) -> str:
    # ISO 8601 in one zone (Label Studio writes UTC) sorts as text
    return text(record.get("updated_at")) or text(record.get("created_at")) or ""
