"""From Label Studio's requests to prompts: what gives one mask, and what was typed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.expected import counted
from backend.labelstudio.commands import TypedText
from backend.labelstudio.geometry import Box, points_in_boxes, points_to_pixels
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

MAX_POINTS = 500  # of one object: the network looks at all of them together
MAX_PAIRS = 1 << 23  # of points and boxes that are looked at: 2,896 of each on a page
_PAIRS_AT_ONCE = 1 << 18


class PointPrompt(NamedTuple):
    """A click, in percent of the picture."""

    x: float
    y: float
    positive: bool = True


def clicked_pixels(points: Sequence[PointPrompt], height: int, width: int) -> NDArray[np.int64]:
    """The pixels of a picture that were clicked, ``[N, 2]``: column and row."""
    pixels = points_to_pixels([(point.x, point.y) for point in points], width, height)
    return np.clip(pixels.astype(int), 0, np.array([width, height]) - 1)


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

    ``commands`` is what global text areas hold, ``ignored`` what was passed over, and why; first
    comes what there was no room or time for.
    """

    objects: tuple[ObjectPrompt, ...] = ()
    commands: tuple[TypedText, ...] = ()
    ignored: tuple[str, ...] = ()


def prompts_from_context(
    context: object, config: LabelConfig, late: Callable[[], bool] = lambda: False
) -> ContextPrompts:
    """Read ``params.context`` of an interactive request.

    Never raises, whatever ``context`` is. All points of one label on one page are one object,
    every box and every other shape is its own, and points in a box of the same list belong to it.

    Args:
        late: see ``read_results``.
    """
    if context is None:
        return ContextPrompts()
    if not isinstance(context, Mapping):
        return ContextPrompts(ignored=("context is not an object",))
    read = read_results(context.get("result"), config, late)
    found = _objects(read.regions)
    ignored = (*found.ignored, *read.ignored)
    return ContextPrompts(found.objects, tuple(read.texts), ignored)


def prompts_from_task(task: Mapping[str, object], config: LabelConfig) -> list[ObjectPrompt]:
    """The objects of ``task_prompts``."""
    return list(task_prompts(task, config).objects)


def task_prompts(
    task: Mapping[str, object], config: LabelConfig, late: Callable[[], bool] = lambda: False
) -> ContextPrompts:
    """What a task already holds that can be turned into masks, for requests without a context.

    From the latest annotation that was not cancelled and is not empty; without one, from the newest
    prediction that has something to turn. Regions that are masks already are left alone, and so
    are shapes of the kind that would be the answer (a polygon where polygons are the answer).
    Never raises.

    Args:
        late: see ``read_results``.
    """
    if not isinstance(task, Mapping):
        return ContextPrompts()
    annotated = newest_results(task, "annotations")
    if annotated:
        return _convertible(annotated, config, late)
    for prediction in newest_first(task.get("predictions")):
        found = _convertible(prediction.get("result"), config, late)
        if found.objects:
            return found
    return ContextPrompts()


def prompts_found(
    results: object, config: LabelConfig, late: Callable[[], bool] = lambda: False
) -> ContextPrompts:
    """What a detector found, each thing an object of its own, masks too. Never raises.

    Args:
        late: see ``read_results``.
    """
    read = read_results(results, config, late)
    found = _objects(read.regions, marks_apart=True)
    return replace(found, ignored=(*found.ignored, *read.ignored))


def _convertible(results: object, config: LabelConfig, late: Callable[[], bool]) -> ContextPrompts:
    read = read_results(results, config, late)
    # A key point without a sign was not made by a smart tool: it marks an object of its own.
    found = _objects(
        [region for region in read.regions if not _is_answer(region, config)], marks_apart=True
    )
    return replace(found, ignored=(*found.ignored, *read.ignored))


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


def _objects(regions: Sequence[Region], *, marks_apart: bool = False) -> ContextPrompts:
    """Regions as objects, in the order in which they first appear, and what was left out. With
    ``marks_apart``, points that are no clicks of a smart tool are objects of their own, not
    gathered by label."""
    boxes, unseen = _boxes_around(regions)
    points: defaultdict[int, list[Region]] = defaultdict(list)  # by who began the object
    groups: dict[tuple[str, int | None, tuple[str, ...]], int] = {}
    for position, region in enumerate(regions):
        if not isinstance(region.geometry, Point) or position in unseen:
            continue
        home = boxes.get(position)
        if home is None and marks_apart and region.positive is None:
            home = position
        elif home is None:
            key = (region.image, region.item_index, region.labels)
            home = groups.setdefault(key, position)
        points[home].append(region)
    objects = [
        _object(region, points[position])
        for position, region in enumerate(regions)
        if position in points or not isinstance(region.geometry, Point)
    ]
    ignored = []
    if unseen:
        ignored.append(
            f"{counted(len(unseen), 'point is', 'points are')} left out: too many beside too many "
            "boxes"
        )
    if any(len(gathered) > MAX_POINTS for gathered in points.values()):
        ignored.append(f"of an object only the first {MAX_POINTS} points count")
    return ContextPrompts(objects=tuple(objects), ignored=tuple(ignored))


def _boxes_around(regions: Sequence[Region]) -> tuple[dict[int, int], set[int]]:
    """By position of each point in a box: the position of the smallest box around it that is on its
    page and has its label (or one of them has none). And the points that are too many to be looked
    up."""
    pages: defaultdict[tuple[str, int | None], tuple[list[int], list[int]]]
    pages = defaultdict(lambda: ([], []))
    for position, region in enumerate(regions):
        if isinstance(region.geometry, Box | Point):
            on_page = pages[region.image, region.item_index]
            on_page[isinstance(region.geometry, Point)].append(position)
    found: dict[int, int] = {}
    unseen: set[int] = set()
    pairs = MAX_PAIRS
    for boxes, points in pages.values():
        if boxes:
            count = min(len(points), pairs // len(boxes))
            pairs -= count * len(boxes)
            unseen.update(points[count:])
            found |= _smallest_around(regions, points[:count], boxes)
    return found, unseen


def _smallest_around(
    regions: Sequence[Region], points: Sequence[int], boxes: Sequence[int]
) -> dict[int, int]:
    """``_boxes_around`` for the points and boxes of one page, given by their positions."""
    shapes = ((position, regions[position].geometry) for position in boxes)
    drawn = [(position, shape) for position, shape in shapes if isinstance(shape, Box)]
    drawn.sort(key=lambda each: each[1].width * each[1].height)
    owners = [regions[position] for position, _ in drawn]
    # Without a size a square picture: the angle of a turned box is then approximate.
    sizes = np.array([(o.original_width or 100, o.original_height or 100) for o in owners])
    numbers: dict[tuple[str, ...], int] = {(): 0}
    label_of_box = np.array([numbers.setdefault(each.labels, len(numbers)) for each in owners])
    outlines = np.array([box for _, box in drawn])
    found: dict[int, int] = {}
    step = max(1, _PAIRS_AT_ONCE // len(boxes))
    for start in range(0, len(points), step):
        part = points[start : start + step]
        places = [(g.x, g.y) for p in part if isinstance(g := regions[p].geometry, Point)]
        labels = [numbers.setdefault(regions[p].labels, len(numbers)) for p in part]
        label = np.array(labels)[:, None]
        alike = (label == label_of_box) | (label == 0) | (label_of_box == 0)
        inside = points_in_boxes(places, outlines, sizes) & alike
        smallest = inside.argmax(axis=1)
        for row in np.flatnonzero(inside.any(axis=1)).tolist():
            found[part[row]] = drawn[smallest[row]][0]
    return found


def _object(first: Region, points: Sequence[Region]) -> ObjectPrompt:
    """The object that ``first`` began, with the points that belong to it; ``first`` is among them
    where it is one."""
    drawn = {each.name: getattr(first, each.name) for each in fields(OnPicture)}
    points = points[:MAX_POINTS]
    shape = first.geometry
    sources = points if isinstance(shape, Point) else (first, *points)
    prompt = ObjectPrompt(
        **{**drawn, "labels": next((each.labels for each in sources if each.labels), ())},
        points=tuple(
            PointPrompt(place.x, place.y, each.positive is not False)
            for each in points
            if isinstance(place := each.geometry, Point)
        ),
        source_ids=tuple(each.id for each in sources if each.id),
    )
    match shape:
        case Point():
            return prompt
        case Box():
            return replace(prompt, box=shape)
        case _:
            return replace(prompt, shape=shape)
