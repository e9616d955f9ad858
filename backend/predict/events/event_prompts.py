"""Points and boxes in a context, gathered into objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backend.expected import ExpectedError
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import flag, text, texts
from backend.labelstudio.prompts import BoxPrompt, ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import Point, read_geometry
from backend.predict.events.ask import Where, read_where

MAX_OBJECTS = 64  # they are tracked in one batch
MAX_ITEMS = 2000


class TooMany(ExpectedError):
    """A request asks for more than the service takes; the message is one line."""


@dataclass(frozen=True)
class Prompted:
    """What says where one object is on one frame.

    Attributes:
        object_id: the editor's, or one made of the label or the position in the request.
        where: the frame, where it is not the one on screen.
    """

    object_id: str
    where: Where
    prompt: ObjectPrompt


@dataclass(frozen=True)
class _Item:
    """One usable item of a ``result`` list."""

    object_id: str | None
    where: Where
    labels: tuple[str, ...]
    geometry: Point | Box
    positive: bool


@dataclass(frozen=True)
class PromptList:
    """All objects of a request, in the order in which they first appear.

    Attributes:
        ignored: what was passed over, and why.
    """

    prompts: tuple[Prompted, ...]
    ignored: tuple[str, ...]


def read_prompts(written: Sequence[Mapping[str, object]], target: str) -> PromptList:
    """Read the items of a context's ``result``.

    Items with the same ``object_id`` are one object. Of those without one, each label is an
    object, or all together where at most one label occurs, for the protocol's own editor sends
    the prompts of one object at a time. Points and one box of an object on a frame work together;
    where several boxes come without an ``object_id``, each is an object, with the points in it or
    nearest to it.

    Args:
        target: name of the Video or Image tag.

    Raises:
        TooMany: more than ``MAX_OBJECTS`` objects, or ``MAX_ITEMS`` items.
    """
    ignored: list[str] = []
    items = []
    if len(written) > MAX_ITEMS:
        raise TooMany(f"{len(written)} prompts in one request; {MAX_ITEMS} are taken")
    for position, item in enumerate(written):
        found = _read_item(item)
        if isinstance(found, str):
            ignored.append(f"prompt {position + 1}: {found}")
        else:
            items.append(found)
    prompts = [
        Prompted(object_id, where, _prompt(members, target))
        for object_id, group in _objects(items).items()
        for where, members in _by_frame(group).items()
    ]
    if len({each.object_id for each in prompts}) > MAX_OBJECTS:
        raise TooMany(f"more than {MAX_OBJECTS} objects in one request")
    return PromptList(tuple(prompts), tuple(ignored))


def _read_item(item: Mapping[str, object]) -> _Item | str:
    value = item.get("value")
    if not isinstance(value, Mapping):
        return "it has no value"
    try:
        geometry = read_geometry(value)
    except ValueError as error:
        return str(error)
    if not isinstance(geometry, Point | Box):
        return "it is neither a point nor a box"
    kind = item.get("type")
    key = kind if isinstance(kind, str) and kind.endswith("labels") else "labels"
    where = read_where(value)
    return _Item(
        object_id=_storable(text(item.get("object_id")) or text(value.get("object_id"))),
        where=where if where.is_given else read_where(item),
        labels=texts(value.get(key)) or texts(value.get("labels")),
        geometry=geometry,
        positive=_is_positive(item, value),
    )


def _storable(name: str | None) -> str | None:
    """An id as it can be stored: not too long, and without halves of characters."""
    return None if name is None else name[:200].encode("utf-8", "replace").decode("utf-8")


def _is_positive(item: Mapping[str, object], value: Mapping[str, object]) -> bool:
    """``value.positive`` in these editors, ``is_positive`` beside it in the open-source one."""
    for written in (value.get("positive"), item.get("is_positive"), value.get("is_positive")):
        found = flag(written)
        if found is not None:
            return found
    return True


def _objects(items: Sequence[_Item]) -> dict[str, list[_Item]]:
    """Items by object."""
    named: dict[str, list[_Item]] = {}
    for item in items:
        if item.object_id is not None:
            named.setdefault(item.object_id, []).append(item)
    loose = [item for item in items if item.object_id is None]
    for name, group in _by_label(loose).items():
        for position, members in enumerate(_by_box(group)):
            free = name if position == 0 else f"{name}-{position + 1}"
            while free in named:
                free += "+"
            named[free] = members
    return named


def _by_label(items: Sequence[_Item]) -> dict[str, list[_Item]]:
    labels = list(dict.fromkeys(", ".join(item.labels) for item in items if item.labels))
    groups: dict[str, list[_Item]] = {}
    for item in items:
        only = labels[0] if len(labels) == 1 else "object"
        groups.setdefault(", ".join(item.labels) or only, []).append(item)
    return groups


def _by_box(group: list[_Item]) -> list[list[_Item]]:
    """The items of one label apart, where several of them are boxes on one frame."""
    boxes = [item for item in group if isinstance(item.geometry, Box)]
    if len(boxes) == len({item.where for item in boxes}):
        return [group]
    found = [[box] for box in boxes]
    for item in group:
        if isinstance(item.geometry, Point):
            distances = [_distance(item, box) for box in boxes]
            found[distances.index(min(distances))].append(item)
    return found


def _distance(point: _Item, box: _Item) -> tuple[bool, float, float]:
    """How far a point is from a box, in percent; boxes of its own frame and small ones first."""
    at, around = point.geometry, box.geometry
    if not isinstance(around, Box):
        raise TypeError("not a box")
    across = max(around.x - at.x, 0.0, at.x - around.x - around.width)
    down = max(around.y - at.y, 0.0, at.y - around.y - around.height)
    return box.where != point.where, across**2 + down**2, around.width * around.height


def _by_frame(items: Sequence[_Item]) -> dict[Where, list[_Item]]:
    frames: dict[Where, list[_Item]] = {}
    for item in items:
        frames.setdefault(item.where, []).append(item)
    return frames


def _prompt(items: Sequence[_Item], target: str) -> ObjectPrompt:
    """One object on one frame; the last of several boxes counts."""
    labels = next((item.labels for item in items if item.labels), ())
    prompt = ObjectPrompt(image=target, labels=labels)
    points: list[PointPrompt] = []
    for item in items:
        match item.geometry:
            case Box(x, y, width, height, rotation):
                prompt = replace(prompt, box=BoxPrompt(x, y, width, height, rotation))
            case Point(x, y):
                points.append(PointPrompt(x, y, item.positive))
    return replace(prompt, points=tuple(points))
