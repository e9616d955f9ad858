"""Clicks on a tracked page: which object they are meant for, and what its track knows of it.

The rule: a click corrects the object of its label whose region on the page holds it, else the one
whose region lies nearest, if it is near (``NEAR``). Farther off it is an object of its own. A page
whose region was deleted in the editor shows nothing to correct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from backend.engine.engine import SeenMask, TrackedPage
from backend.engine.packed_masks import PackedMask
from backend.labelstudio.json_values import Results
from backend.labelstudio.prompts import ObjectPrompt, clicked_pixels, prompts_from_context
from backend.labelstudio.read_results import UnreadableMask, rasterise
from backend.pixels.recipes import Picture
from backend.tracking.sequence import FrameSequence, by_id
from backend.tracking.store import Sighting

# How far from an object's region a click may lie that corrects it, in sides of a square as large
# as the object.
NEAR = 0.5
# Tracked pages just passed that a correction remembers, beside the marked ones.
NEIGHBOURS = 2
MARKS = 2  # marked pages that it remembers: the nearest ones
_JOBS = 8  # the last ones, among which an object is looked for
_AROUND = 3  # pages that tell how large an object is


@dataclass(frozen=True)
class Correction:
    """An object that a click on a page is meant for.

    Attributes:
        region: id of the region that shows it there.
        replaced: what takes its earlier regions away.
        seen: its mask there and on other pages.
    """

    object_id: str
    region: str
    replaced: Results
    seen: TrackedPage


class Corrections:
    """The tracked objects of a sequence on one page, as the editor shows them.

    Args:
        fresh: results sent to the editor in the last seconds, which its draft may not hold yet.
    """

    def __init__(self, sequence: FrameSequence, page: int, fresh: Results) -> None:
        self._sequence = sequence
        self._page = page
        self._shown = {**by_id(sequence.saved_results()), **by_id(fresh)}

    def meant_by(self, prompt: ObjectPrompt) -> Correction | None:
        """The correction that the clicks of ``prompt`` are; None where they mark an object of
        their own."""
        best: tuple[float, str, np.ndarray] | None = None
        for name, known in self._sequence.known.items():
            if known.labels != prompt.labels or not self._may_be_near(name, prompt):
                continue
            mask = self._mask(name)
            distance = None if mask is None else self._distance(name, mask, prompt)
            if mask is not None and distance is not None and (best is None or distance < best[0]):
                best = distance, name, mask
        return None if best is None else self._correction(best[1], best[2])

    def _correction(self, name: str, mask: np.ndarray) -> Correction:
        marked = self._marks(name).get(self._page)
        region, replaced = self._sequence.correction(name, self._page)
        if marked:  # a human's own region
            region, replaced = str(marked[0]["id"]), []
        others = tuple(self._others(name))
        behind = not any(each.page < self._page for each in others if each.prompted)
        seen = TrackedPage(
            self._page, self._sequence.pages, PackedMask.pack(mask), others, reverse=behind
        )
        return Correction(name, region, replaced, seen)

    # What the page shows.

    @cached_property
    def _sightings(self) -> dict[str, dict[int, Sighting]]:
        found: dict[str, dict[int, Sighting]] = {}
        for each in self._sequence.store.sightings(self._sequence.track):
            found.setdefault(each.object_id, {})[each.frame] = each
        return found

    def _side(self, name: str) -> float:
        """Of a square as large as the object is hereabouts, pixels; 0 where it is not."""
        near = range(self._page - _AROUND, self._page + _AROUND + 1)
        seen = self._sightings.get(name, {})
        return float(np.sqrt(max((seen[page].area for page in near if page in seen), default=0)))

    def _may_be_near(self, name: str, prompt: ObjectPrompt) -> bool:
        """Whether the clicks lie around the box of what was tracked; True where that is unknown."""
        seen = self._sightings.get(name, {}).get(self._page)
        if seen is None:
            return self._page in self._marks(name)
        if seen.box is None:
            return False
        left, top, right, bottom = seen.box
        # The region may have been corrected since: twice as far.
        room = 2 * NEAR * self._side(name)
        x, y = clicked_pixels(prompt.points, seen.height, seen.width).T
        outside_x = np.maximum(np.maximum(left - x, x - right), 0)
        outside_y = np.maximum(np.maximum(top - y, y - bottom), 0)
        return bool((np.maximum(outside_x, outside_y) <= room).any())

    def _mask(self, name: str) -> np.ndarray | None:
        """What the editor shows of an object on the page: bool ``[H, W]``; None for nothing."""
        place = name, self._page
        last = self._sequence.generations.get(place, 0)
        ids = [str(item["id"]) for item in self._marks(name).get(self._page, [])]
        for generation in range(last, -1, -1):
            ids += self._sequence.saved_parts(place, generation, self._shown)
        drawn = self._drawn(
            [item for each in dict.fromkeys(ids) for item in self._shown.get(each, [])]
        )
        if drawn is not None:
            return drawn
        found = self._sequence.store.mask(self._sequence.track, name, self._page)
        if found is None or found.mask.area == 0 or self._was_deleted(name):
            return None
        return found.mask.unpack()

    def _drawn(self, items: Results) -> np.ndarray | None:
        """The shapes of result items as one mask; None where there are none."""
        mask = None
        for prompt in prompts_from_context({"result": items}, self._sequence.task.config).objects:
            width, height = prompt.original_width, prompt.original_height
            if prompt.shape is not None and width is not None and height is not None:
                try:
                    shape = rasterise(prompt.shape, width, height, self._sequence.decode)
                except UnreadableMask:
                    continue
                mask = shape if mask is None else mask | shape
        return mask

    def _was_deleted(self, name: str) -> bool:
        """Whether the editor holds the object's regions of other tracked pages, though none of
        this one."""
        return any(
            self._sequence.saved_parts((name, page), generation, self._shown)
            for page in self._sightings.get(name, {})
            for generation in range(self._sequence.generations.get((name, page), 0) + 1)
        )

    def _distance(self, name: str, mask: np.ndarray, prompt: ObjectPrompt) -> float | None:
        """How far the nearest click is from a mask, in sides of the object: 0 inside; None where
        that is too far."""
        outside = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 3)
        height, width = mask.shape
        side = max(self._side(name), float(np.sqrt(mask.sum())))
        x, y = clicked_pixels(prompt.points, height, width).T
        nearest = float(outside[y, x].min()) / max(side, 1.0)
        return nearest if nearest <= NEAR else None

    # What is known of other pages.

    def _marks(self, name: str) -> Mapping[int, Results]:
        """By page: the results from which the last job of an object has its prompts."""
        return self._marked.get(name, {})

    @cached_property
    def _marked(self) -> dict[str, dict[int, Results]]:
        found: dict[str, dict[int, Results]] = {}
        jobs = self._sequence.store.jobs(track=self._sequence.track, limit=_JOBS)
        for job in jobs:  # the newest first
            for described in job.request.get("objects", []):
                prompts = described["prompts"].items()
                found.setdefault(described["id"], {int(page): items for page, items in prompts})
        return found

    def _others(self, name: str) -> Iterator[SeenMask]:
        """The object on the nearest marked pages, then on those just passed."""
        marks = {page: items for page, items in self._marks(name).items() if page != self._page}
        nearest = sorted(marks, key=lambda page: (abs(page - self._page), page))[:MARKS]
        for page in nearest:
            mask = self._drawn(marks[page])
            if mask is not None:
                yield self._seen(page, PackedMask.pack(mask), prompted=True)
            elif (found := self._sequence.store.mask(self._sequence.track, name, page)) is not None:
                yield self._seen(page, found.mask, prompted=True)
        sign = 1 if any(page < self._page for page in nearest) else -1
        for ago in range(1, NEIGHBOURS + 1):
            page = self._page - sign * ago
            found = self._sequence.store.mask(self._sequence.track, name, page)
            if page not in marks and found is not None:
                yield self._seen(page, found.mask, prompted=False)

    def _seen(self, page: int, mask: PackedMask, *, prompted: bool) -> SeenMask:
        picture = Picture.of(self._sequence.task, self._sequence.tag, page)
        return SeenMask(picture, page, mask, prompted)
