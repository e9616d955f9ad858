"""The messages of the protocol: requests, read from a context that may hold anything, and the items
of replies, as its editors read them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np

from backend.expected import ExpectedError
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import number, text, whole_number
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import Point, labels_of, read_geometry, sign_of
from backend.labelstudio.tags import LabelConfig, tags_on
from backend.labelstudio.write_results import png_url
from backend.tracking.spans import Direction

K = TypeVar("K")

DEFAULT_WINDOW = 20  # frames that a prewarm asks for where it does not say, as in the example
MAX_WINDOW = 32  # an embedding takes up to 16 MiB, and others want the cache too
MAX_SECONDS = 1e6  # eleven days: later than any video, and harmless to multiply
MAX_OBJECTS = 64  # they are tracked in one batch
MAX_ITEMS = 2000

TARGETS: tuple[Mapping[str, Any], ...] = (
    {"tag": "BitmaskLabels", "output": "mask"},
    {"tag": "RectangleLabels", "output": "bbox"},
    {"tag": "PolygonLabels", "output": "polygon"},
    {"tag": "VectorLabels", "output": "polygon"},
    {"tag": "VideoRectangle", "output": "bbox", "features": ["track"]},
    {"tag": "VideoVectorLabels", "output": "polygon", "features": ["track"]},
)
"""The control tags that the editor binds; it makes boxes and outlines from masks by itself."""


class Event(StrEnum):
    """``params.context.event``."""

    CAPABILITIES = "capabilities"
    PREWARM = "prewarm"
    PREDICT = "predict"
    TRACK = "track"
    TRACK_PROGRESS = "track_progress"
    TRACK_CANCEL = "track_cancel"
    RELEASE = "release"


class TooManyPrompts(ExpectedError):
    """A request asks for more than the service takes."""


@dataclass(frozen=True)
class Moment:
    """A place in a video as the editor writes it; one of the two is there.

    Attributes:
        seconds: on the browser's clock; it goes before the number.
        frame: the editor's, from 1.
    """

    seconds: float | None = None
    frame: int | None = None


@dataclass(frozen=True)
class EventContext:
    """The context of a request but for its prompts.

    Attributes:
        moment: what is on screen; None where the editor does not say.
        window: frames to encode ahead, 0 to ``MAX_WINDOW``.
        max_frames, max_seconds: how far a track goes from the frame on screen; None: to the end.
        session: of ``track_progress`` and ``track_cancel``; "" where it is missing.
        cursor: where reading goes on; None: where the last reading stopped.
    """

    moment: Moment | None
    window: int
    direction: Direction
    max_frames: int | None
    max_seconds: float | None
    session: str
    cursor: int | None


@dataclass(frozen=True)
class FramePrompt:
    """What says where one object is on one frame.

    Attributes:
        object_id: the editor's, or one made of the label or the position in the request.
        moment: the frame, where it is not the one on screen.
    """

    object_id: str
    moment: Moment | None
    prompt: ObjectPrompt


@dataclass(frozen=True)
class EventPrompts:
    """All objects of a request.

    Attributes:
        usable: in the order in which the objects first appear.
        ignored: what was passed over, and why.
    """

    usable: tuple[FramePrompt, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The tags a reply names: the control that is answered, and the Video or Image it is on."""

    from_name: str = ""
    to_name: str = ""
    is_video: bool = True


@dataclass(frozen=True)
class _Item:
    """One usable item of a ``result`` list."""

    object_id: str | None
    moment: Moment | None
    labels: tuple[str, ...]
    geometry: Point | Box
    positive: bool


# Reading.


def event_of(context: object) -> Event | None:
    """The event a context names, or None for one of the ordinary requests.

    A context with a place in the video and no event is a ``predict`` (README of the example).
    """
    if not isinstance(context, Mapping):
        return None
    written = context.get("event")
    if written is None:
        return Event.PREDICT if _read_moment(context) is not None else None
    return Event(written) if isinstance(written, str) and written in list(Event) else None


def read_context(context: object) -> EventContext:
    """Read a context; what cannot be used counts as not given."""
    context = context if isinstance(context, Mapping) else {}
    directions = {"backward": Direction.BACK, "both": Direction.BOTH}
    window = whole_number(context.get("window"))
    return EventContext(
        moment=_read_moment(context),
        window=DEFAULT_WINDOW if window is None else min(window, MAX_WINDOW),
        direction=directions.get(text(context.get("direction")) or "", Direction.FORWARD),
        max_frames=whole_number(context.get("max_frames")),
        max_seconds=_read_seconds(context.get("max_duration_ms")),
        session=text(context.get("session_id")) or "",
        cursor=whole_number(context.get("cursor")),
    )


def _read_moment(item: Mapping[str, object]) -> Moment | None:
    """The place that a context, or a prompt in it, is about."""
    seconds, frame = _read_seconds(item.get("time_ms")), whole_number(item.get("frame"))
    return None if seconds is None and frame is None else Moment(seconds, frame)


def _read_seconds(milliseconds: object) -> float | None:
    found = number(milliseconds)
    return None if found is None else min(max(found / 1000, 0.0), MAX_SECONDS)


def read_prompts(written: Sequence[Mapping[str, object]], target: str) -> EventPrompts:
    """Read the items of a context's ``result``, for the Video or Image tag called ``target``.

    Items with the same ``object_id`` are one object. Of those without one, each label is an
    object, or all together where at most one label occurs, for the protocol's own editor sends
    the prompts of one object at a time. Points and one box of an object on a frame work together;
    where several boxes come without an ``object_id``, each is an object, with the points in it or
    nearest to it.

    Raises:
        TooManyPrompts: more than ``MAX_OBJECTS`` objects, or ``MAX_ITEMS`` items.
    """
    if len(written) > MAX_ITEMS:
        raise TooManyPrompts(f"{len(written)} prompts in one request; {MAX_ITEMS} are taken")
    ignored: list[str] = []
    items = []
    for position, item in enumerate(written):
        try:
            items.append(_read_item(item))
        except ValueError as error:
            ignored.append(f"prompt {position + 1}: {error}")
    objects = _objects(items)
    _check_number(len(objects))
    usable = [
        FramePrompt(object_id, moment, _prompt(members, target))
        for object_id, group in objects.items()
        for moment, members in _grouped(group, lambda item: item.moment).items()
    ]
    return EventPrompts(tuple(usable), tuple(ignored))


def _read_item(item: Mapping[str, object]) -> _Item:
    """Raises ``ValueError`` where the item cannot be used."""
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise ValueError("it has no value")
    geometry = read_geometry(value)
    if not isinstance(geometry, Point | Box):
        raise ValueError("it is neither a point nor a box")
    return _Item(
        object_id=_storable(text(item.get("object_id")) or text(value.get("object_id"))),
        moment=_read_moment(value) or _read_moment(item),
        labels=labels_of([item]),
        geometry=geometry,
        positive=sign_of(item) is not False,
    )


def _storable(name: str | None) -> str | None:
    """An id as it can be stored: not too long, and without halves of characters."""
    return None if name is None else name[:200].encode("utf-8", "replace").decode("utf-8")


def _objects(items: Sequence[_Item]) -> dict[str, list[_Item]]:
    """Items by object."""
    by_id = _grouped(items, lambda item: item.object_id)
    loose = by_id.pop(None, [])
    named = {name: group for name, group in by_id.items() if name is not None}
    labels = list(dict.fromkeys(", ".join(item.labels) for item in loose if item.labels))
    only = labels[0] if len(labels) == 1 else "object"
    for name, group in _grouped(loose, lambda item: ", ".join(item.labels) or only).items():
        for position, members in enumerate(_by_box(group)):
            free = name if position == 0 else f"{name}-{position + 1}"
            while free in named:
                free += "+"
            named[free] = members
    return named


def _by_box(group: list[_Item]) -> list[list[_Item]]:
    """The items of one label apart, where several of them are boxes on one frame; each point goes
    with the nearest box, if it can with one of its own frame."""
    boxes = [(item, item.geometry) for item in group if isinstance(item.geometry, Box)]
    if len(boxes) == len({item.moment for item, _ in boxes}):
        return [group]
    _check_number(len(boxes))  # before each point is compared with each of them
    found = [[item] for item, _ in boxes]
    for item in group:
        if isinstance(item.geometry, Point):
            distances = [
                (other.moment != item.moment, *_distance(item.geometry, box))
                for other, box in boxes
            ]
            found[distances.index(min(distances))].append(item)
    return found


def _check_number(objects: int) -> None:
    if objects > MAX_OBJECTS:
        raise TooManyPrompts(f"more than {MAX_OBJECTS} objects in one request")


def _distance(point: Point, box: Box) -> tuple[float, float]:
    """How far a point is from a box, in percent, squared; and the box's area."""
    across = max(box.x - point.x, 0.0, point.x - box.x - box.width)
    down = max(box.y - point.y, 0.0, point.y - box.y - box.height)
    return across**2 + down**2, box.width * box.height


def _grouped(items: Iterable[_Item], key: Callable[[_Item], K]) -> dict[K, list[_Item]]:
    """Items by ``key``, in the order in which the keys first appear."""
    groups: dict[K, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _prompt(items: Sequence[_Item], target: str) -> ObjectPrompt:
    """One object on one frame; the last of several boxes counts."""
    box: Box | None = None
    points: list[PointPrompt] = []
    for item in items:
        if isinstance(item.geometry, Box):
            box = item.geometry
        else:
            points.append(PointPrompt(item.geometry.x, item.geometry.y, item.positive))
    labels = next((item.labels for item in items if item.labels), ())
    return ObjectPrompt(image=target, labels=labels, points=tuple(points), box=box)


# Writing.


def find_target(config: LabelConfig) -> Target:
    """What requests on a project are about: its first video with a control, else its first
    picture with one; without names where there is neither."""
    for video in config.videos:
        for tag in tags_on(config.video_controls, video.name):
            return Target(tag.name, video.name)
    for image in config.images:
        for control in config.answers_for(image.name):
            return Target(control.name, image.name, is_video=False)
    return Target()


def item(kind: str, target: Target | None, value: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One result item of type ``kind``; without a ``target`` it belongs to no tag."""
    tags = {"from_name": target.from_name, "to_name": target.to_name} if target else {}
    item = {"id": uuid.uuid4().hex[:8], "type": kind, "origin": "manual", "value": dict(value)}
    return {**item, **tags, **more}


def capabilities(model_version: str) -> dict[str, Any]:
    """What this backend can do."""
    value = {
        "prompts": ["point", "box"],
        "targets": TARGETS,
        "model_info": {"name": "SAM2", "version": model_version},
    }
    return item("capabilities", None, value)


def mask_value(mask: np.ndarray) -> dict[str, Any]:
    """A mask, bool ``[H, W]``, as the protocol has it: a grey 8-bit PNG, 255 in the object and 0
    around it. (The bitmasks of saved regions are another thing: transparent around the object.)"""
    height, width = mask.shape
    url = png_url(mask.astype(np.uint8) * np.uint8(255))
    return {"imageDataURL": url, "width": width, "height": height}


def frame_value(index: int, times: Sequence[float]) -> dict[str, Any]:
    """A frame as replies name it: its number in the file, from 0, and when it is first shown, from
    which the editor finds its own number."""
    return {"frame": index, "time_ms": max(0.0, times[index] * 1000)}
