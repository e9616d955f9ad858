"""The boxes of ``<Video>`` as they stand in the items of a ``result`` list.

A region arrives as one item of type ``videorectangle``, its labels inside its ``value``, and one
more item with the same id for each tag with ``perRegion``, every one with the whole sequence
(``serialize`` in ``regions/Result.js`` of Label Studio 1.23.2, where the Video tag has
``mergeLabelsAndResults``). Other programs write the labels as an item of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.labelstudio.commands import Kind, parse_command
from backend.labelstudio.json_values import mappings, number, text, texts, whole_number
from backend.labelstudio.keyframes import Keyframe, read_sequence
from backend.labelstudio.tags import LabelConfig, VideoConfig

_BOX_TYPES = ("videorectangle", "labels")  # those whose sequence is the region's, the first best
_OWN_KEYS = ("id", "from_name", "to_name", "type", "value", "origin", "score")
_SEQUENCE_KEYS = ("framesCount", "duration", "sequence", "labels")


@dataclass(frozen=True)
class Typed:
    """What a text area holds.

    Attributes:
        area: name of the ``<TextArea>``.
        id: of the region it belongs to; for a text of the whole video its own id.
        entries: oldest first, at least one.
        to_name: name of the ``<Video>``, as written.
    """

    area: str
    id: str
    entries: tuple[str, ...]
    to_name: str = ""

    @property
    def newest(self) -> str:
        """The entry that was typed last."""
        return self.entries[-1]

    @property
    def is_command(self) -> bool:
        """Whether the newest entry is meant for the service."""
        return parse_command(self.newest).kind in (Kind.COMMAND, Kind.UNKNOWN)


@dataclass(frozen=True)
class VideoRegion:
    """One box over the frames of a video: all result items with its id.

    Attributes:
        id: as the editor gave it; empty for imported results without one.
        labels: as results carry them.
        from_name: name of the ``<VideoRectangle>``.
        to_name: name of the ``<Video>``.
        keyframes: ascending, at least one.
        frames_count: number of the editor's last frame; None where the result does not say.
        duration: of the video in seconds, as the browser states it; None likewise.
        echoes: the other items, without their sequence, to be sent back.
        extras: what else the box's own item has: ``meta``, ``parentID``, ``readonly``.
        typed: what the text areas of this region hold.
    """

    id: str
    labels: tuple[str, ...]
    from_name: str
    to_name: str
    keyframes: tuple[Keyframe, ...]
    frames_count: int | None = None
    duration: float | None = None
    echoes: tuple[Mapping[str, object], ...] = ()
    extras: Mapping[str, object] = field(default_factory=dict)
    typed: tuple[Typed, ...] = ()

    @property
    def command_area(self) -> Typed | None:
        """The text area whose newest entry is a command, else the first with an entry."""
        first = self.typed[0] if self.typed else None
        return next((each for each in self.typed if each.is_command), first)

    @property
    def command(self) -> str | None:
        """The newest entry of ``command_area``, which may be a note or a status of ours."""
        area = self.command_area
        return area.newest if area is not None else None


def read_video_regions(
    results: object, config: LabelConfig, ignored: list[str] | None = None
) -> list[VideoRegion]:
    """The boxes in the items of a ``result`` list: of a context, draft, annotation or prediction.

    Never raises: what cannot be used is passed over, and why is added to ``ignored``. Items with
    one id are one region.
    """
    reasons: list[str] = [] if ignored is None else ignored
    groups: dict[str, list[Mapping[str, object]]] = {}
    for position, item in enumerate(mappings(results)):
        groups.setdefault(text(item.get("id")) or f"\0{position}", []).append(item)
    regions = []
    for key, items in groups.items():
        identifier = "" if key.startswith("\0") else key
        region = _read_region(identifier, items, config, reasons)
        if region is not None:
            regions.append(region)
    return regions


def _read_region(
    identifier: str,
    items: list[Mapping[str, object]],
    config: LabelConfig,
    reasons: list[str],
) -> VideoRegion | None:
    boxes = [item for item in items if item.get("type") in _BOX_TYPES and item_value(item)]
    boxes.sort(key=lambda item: _BOX_TYPES.index(str(item.get("type"))))
    base = next((item for item in boxes if "sequence" in item_value(item)), None)
    if base is None:
        return None  # a text, a span of time: no box
    name = f"region {identifier}" if identifier else "a region without id"
    tags = _video_of(base, config)
    if tags is None:
        reasons.append(f"{name}: {text(base.get('to_name')) or 'its tag'} is no <Video>")
        return None
    if not tags.rectangles:
        reasons.append(f"{name}: <Video name={tags.video.name}> has no <VideoRectangle>")
        return None
    entries: list[str] = []
    keyframes = read_sequence(item_value(base), entries)
    reasons += [f"{name}: {entry}" for entry in entries]
    if not keyframes:
        reasons.append(f"{name}: no key frame")
        return None
    controls = [rectangle.name for rectangle in tags.rectangles]
    control = text(base.get("from_name"))
    others = [item for item in items if item.get("type") not in _BOX_TYPES]
    found = (read_typed(item) for item in others)
    return VideoRegion(
        id=identifier,
        labels=_labels(boxes),
        from_name=control if control in controls else controls[0],
        to_name=tags.video.name,
        keyframes=keyframes,
        frames_count=whole_number(item_value(base).get("framesCount")) or None,
        duration=_duration(item_value(base)),
        echoes=tuple(_without_sequence(item) for item in others if item_value(item)),
        extras={key: value for key, value in base.items() if key not in _OWN_KEYS},
        typed=tuple(each for each in found if each is not None),
    )


def _video_of(item: Mapping[str, object], config: LabelConfig) -> VideoConfig | None:
    """The Video tag an item is on; without ``to_name`` the only one."""
    name = text(item.get("to_name"))
    if name is None and len(config.videos) == 1:
        name = config.videos[0].name
    return config.video_config(name) if name is not None else None


def _labels(boxes: list[Mapping[str, object]]) -> tuple[str, ...]:
    """The labels of the first item that has any."""
    named = (texts(item_value(item).get("labels")) for item in boxes)
    return next((found for found in named if found), ())


def _duration(value: Mapping[str, object]) -> float | None:
    found = number(value.get("duration"))
    return found if found is not None and found > 0 else None


def read_typed(item: Mapping[str, object]) -> Typed | None:
    """What an item of a text area holds; None for other items and without an entry."""
    entries = texts(item_value(item).get("text")) if item.get("type") == "textarea" else ()
    if not entries:
        return None
    names = (text(item.get(key)) or "" for key in ("from_name", "id", "to_name"))
    area, identifier, to_name = names
    return Typed(area, identifier, entries, to_name)


def item_value(item: Mapping[str, object]) -> Mapping[str, object]:
    """The ``value`` of an item; empty where it has none."""
    value = item.get("value")
    return value if isinstance(value, Mapping) else {}


def _without_sequence(item: Mapping[str, object]) -> Mapping[str, object]:
    value = {key: each for key, each in item_value(item).items() if key not in _SEQUENCE_KEYS}
    return {key: each for key, each in item.items() if key != "origin"} | {"value": value}
