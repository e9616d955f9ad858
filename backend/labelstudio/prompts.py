"""From Label Studio's requests to prompts: what gives one mask, and what was typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from backend.labelstudio.commands import TypedText
from backend.labelstudio.geometry import Box, point_in_box
from backend.labelstudio.read_results import (
    Area,
    Bitmask,
    BrushStrokes,
    OnPicture,
    Point,
    Polygon,
    Region,
    newest_first,
    newest_results,
    read_results,
)
from backend.labelstudio.tags import LabelConfig, Shape


class PointPrompt(NamedTuple):
    """A click, in percent of the picture."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True)
class ObjectPrompt(OnPicture):
    """What gives one mask on one page of one picture.

    At least one of ``points``, ``box`` and ``shape`` is there. ``points`` may all be negative:
    they then correct an earlier answer, and say nothing alone (``has_positive``).
    """

    points: tuple[PointPrompt, ...] = ()
    box: Box | None = None
    shape: Area | None = None
    source_ids: tuple[str, ...] = ()

    @property
    def has_positive(self) -> bool:
        """Whether the prompt says where the object is, not only where it is not."""
        return bool(self.box or self.shape) or any(point.positive for point in self.points)


@dataclass(frozen=True)
class ContextPrompts:
    """Everything usable in the context of an interactive request.

    ``commands`` is what global text areas hold, ``ignored`` what was passed over, and why.
    """

    objects: tuple[ObjectPrompt, ...] = ()
    commands: tuple[TypedText, ...] = ()
    ignored: tuple[str, ...] = ()


def prompts_from_context(context: object, config: LabelConfig) -> ContextPrompts:
    """Read ``params.context`` of an interactive request.

    Never raises, whatever ``context`` is. All points of one label on one page are one object,
    every box and every other shape is its own, and points in a box of the same list belong to it.
    """
    if context is None:
        return ContextPrompts()
    if not isinstance(context, Mapping):
        return ContextPrompts(ignored=("context is not an object",))
    read = read_results(context.get("result"), config)
    return ContextPrompts(tuple(_objects(read.regions)), tuple(read.texts), tuple(read.ignored))


def prompts_from_task(task: Mapping[str, object], config: LabelConfig) -> list[ObjectPrompt]:
    """What a task already holds that can be turned into masks, for requests without a context.

    From the latest annotation that was not cancelled and is not empty; without one, from the newest
    prediction that has something to turn. Regions that are masks already are left alone, and so
    are shapes of the kind that would be the answer (a polygon where polygons are the answer).
    Never raises.
    """
    if not isinstance(task, Mapping):
        return []
    annotated = newest_results(task, "annotations")
    if annotated:
        return _convertible(annotated, config)
    for prediction in newest_first(task.get("predictions")):
        found = _convertible(prediction.get("result"), config)
        if found:
            return found
    return []


def _convertible(results: object, config: LabelConfig) -> list[ObjectPrompt]:
    regions = read_results(results, config).regions
    # A key point without a sign was not made by a smart tool: it marks an object of its own.
    return _objects(
        [region for region in regions if not _is_answer(region, config)], marks_apart=True
    )


def _is_answer(region: Region, config: LabelConfig) -> bool:
    """Whether a region is already what we would answer with."""
    answer = config.find_answer(region.image, region.labels, region.from_name)
    if answer is None:  # no place for it: leave masks alone
        return isinstance(region.geometry, BrushStrokes | Bitmask)
    match region.geometry:
        case BrushStrokes() | Bitmask():
            return answer.control.shape in (Shape.BRUSH, Shape.BITMASK)
        case Polygon():
            return answer.control.shape in (Shape.POLYGON, Shape.VECTOR)
        case Box():
            return answer.control.shape is Shape.RECTANGLE
    return False


def _objects(regions: list[Region], *, marks_apart: bool = False) -> list[ObjectPrompt]:
    """Regions as objects, in the order in which they first appear. With ``marks_apart``, points
    that are no clicks of a smart tool are objects of their own, not gathered by label."""
    objects: dict[int, ObjectPrompt] = {}  # by position of the region that began the object
    for position, region in enumerate(regions):
        if not isinstance(region.geometry, Point):
            objects[position] = _single(region)
    groups: dict[tuple[str, int | None, tuple[str, ...]], int] = {}
    for position, region in enumerate(regions):
        if not isinstance(region.geometry, Point):
            continue
        home = _enclosing_box(region, region.geometry, regions)
        if home is None and marks_apart and region.positive is None:
            home = position
        elif home is None:
            key = (region.image, region.item_index, region.labels)
            home = groups.setdefault(key, position)
        known = objects.get(home)
        objects[home] = _single(region) if known is None else _with_point(known, region)
    return [objects[position] for position in sorted(objects)]


def _enclosing_box(region: Region, point: Point, regions: list[Region]) -> int | None:
    """The smallest box around a point, on its page and with its label (or one has no label)."""
    areas: dict[int, float] = {}
    for position, other in enumerate(regions):
        box = other.geometry
        if not isinstance(box, Box) or not _same_place(region, other):
            continue
        # without a size a square picture: the angle of a turned box is then approximate
        width, height = other.original_width or 100, other.original_height or 100
        if point_in_box(point.x, point.y, box, width, height):
            areas[position] = box.width * box.height
    return min(areas, key=lambda position: areas[position], default=None)


def _same_place(one: Region, other: Region) -> bool:
    same_label = not one.labels or not other.labels or one.labels == other.labels
    return same_label and (one.image, one.item_index) == (other.image, other.item_index)


def _single(region: Region) -> ObjectPrompt:
    """One region as an object of its own."""
    drawn = {each.name: getattr(region, each.name) for each in fields(OnPicture)}
    prompt = ObjectPrompt(**drawn, source_ids=(region.id,) if region.id else ())
    match region.geometry:
        case Point(x, y):
            return replace(prompt, points=(PointPrompt(x, y, region.positive is not False),))
        case Box() as box:
            return replace(prompt, box=box)
        case shape:
            return replace(prompt, shape=shape)


def _with_point(prompt: ObjectPrompt, point: Region) -> ObjectPrompt:
    added = _single(point)
    return replace(
        prompt,
        labels=prompt.labels or point.labels,
        points=prompt.points + added.points,
        source_ids=prompt.source_ids + added.source_ids,
    )
