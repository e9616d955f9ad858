"""Which regions of a sequence are one object, and which of them a human made.

The editor knows no objects across pages: every page has regions of its own, and ids must
differ between pages. The object of a region is found by the id the service gave it, else by
label and place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.labelstudio.geometry import box_to_pixels, points_to_pixels
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.regions import rasterise
from backend.labelstudio.write_results import region_id

# A region that covers a tracked mask by this much (IoU) is the same object.
SAME_OBJECT = 0.3
# An untouched mask comes back from the editor with at most this share of its pixels changed.
UNTOUCHED = 0.001


@dataclass
class SequenceObject:
    """An object with what a human said of it, by page."""

    id: str
    labels: tuple[str, ...]
    from_name: str
    prompts: dict[int, ObjectPrompt] = field(default_factory=dict)


MaskOf = Callable[[str, int], np.ndarray | None]
"""By object and page: the mask the service found there, or None."""


def gather_objects(
    prompts: Iterable[ObjectPrompt],
    known: Mapping[str, SequenceObject],
    mask_of: MaskOf,
    sent_to: Callable[[ObjectPrompt], tuple[str, bool] | None],
) -> list[SequenceObject]:
    """The objects of a sequence with their human prompts.

    Args:
        prompts: every region of the sequence as a prompt of its own page.
        known: objects of earlier commands, without prompts.
        mask_of: what was found of them.
        sent_to: for a region whose id the service gave: its object, and whether a human changed
            it since; None for other regions.

    Returns:
        Objects with at least one prompt, in the order of their first page.
    """
    objects = {name: SequenceObject(o.id, o.labels, o.from_name) for name, o in known.items()}
    strangers: list[ObjectPrompt] = []
    shown: set[tuple[str, int]] = set()  # objects and pages whose answer the editor has
    for prompt in prompts:
        sent = sent_to(prompt)
        if sent is None:
            strangers.append(prompt)
            continue
        shown.add((sent[0], prompt.item_index or 0))
        if sent[1] and sent[0] in objects:
            _add(objects[sent[0]], prompt)
    for prompt in sorted(strangers, key=lambda each: each.item_index or 0):
        home = _home(prompt, list(objects.values()), mask_of, shown)
        if home is None:
            name = prompt.source_ids[0] if prompt.source_ids else region_id(prompt)
            home = SequenceObject(name, prompt.labels, prompt.from_name)
            objects[home.id] = home
        _add(home, prompt)
    found = [each for each in objects.values() if each.prompts]
    return sorted(found, key=lambda each: min(each.prompts))


def changed(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a human touched a mask: more pixels differ than a round trip through the editor's
    canvas explains."""
    if before.shape != after.shape:
        return True
    different = int(np.count_nonzero(before != after))
    return different > max(8, UNTOUCHED * int(before.sum()))


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two bool masks ``[H, W]``; 0 where both are empty, and for masks
    of different sizes."""
    if first.shape != second.shape:
        return 0.0
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 0.0


def _home(
    prompt: ObjectPrompt,
    objects: Sequence[SequenceObject],
    mask_of: MaskOf,
    shown: set[tuple[str, int]],
) -> SequenceObject | None:
    """The object that ``prompt`` belongs to; None for a new one.

    By overlap with what was tracked on its page; else the only object of its label, provided
    that the page shows nothing of it: no prompt, and no answer, which would be another object
    (an answer that the annotator deleted was wrong).
    """
    page = prompt.item_index or 0
    alike = [each for each in objects if each.labels == prompt.labels]
    overlaps = {each.id: _overlap(prompt, mask_of(each.id, page)) for each in alike}
    best = max(alike, key=lambda each: overlaps[each.id], default=None)
    if best is not None and overlaps[best.id] >= SAME_OBJECT:
        return best
    if len(alike) == 1 and page not in alike[0].prompts and (alike[0].id, page) not in shown:
        return alike[0]
    return None


def _overlap(prompt: ObjectPrompt, mask: np.ndarray | None) -> float:
    """IoU of the prompt's area with ``mask``; for clicks 1 if all positive ones are in it."""
    if mask is None or not mask.any():
        return 0.0
    height, width = mask.shape
    if prompt.shape is not None:
        area = rasterise(prompt.shape, width, height)
    elif prompt.box is not None:
        x0, y0, x1, y1 = box_to_pixels(prompt.box, width, height).round().astype(int)
        area = np.zeros_like(mask)
        area[y0:y1, x0:x1] = True
        mask = _hull(mask)
    else:
        clicks = [(point.x, point.y) for point in prompt.points if point.positive]
        pixels = points_to_pixels(clicks, width, height).astype(int)
        inside = [mask[min(max(y, 0), height - 1), min(max(x, 0), width - 1)] for x, y in pixels]
        return float(bool(inside) and all(inside))
    return iou(area, mask)


def _hull(mask: np.ndarray) -> np.ndarray:
    """The upright box around ``mask``, filled: boxes are compared with boxes."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    hull = np.zeros_like(mask)
    hull[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return hull


def _add(home: SequenceObject, prompt: ObjectPrompt) -> None:
    """Keep the prompt that says most of a page: a drawn mask, then a box, then clicks."""
    page = prompt.item_index or 0
    present = home.prompts.get(page)
    if present is None or _weight(prompt) >= _weight(present):
        home.prompts[page] = prompt


def _weight(prompt: ObjectPrompt) -> int:
    return 2 if prompt.shape is not None else 1 if prompt.box is not None else 0
