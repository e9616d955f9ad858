"""A frame sequence (``<Image valueList>``) of a task: its objects, prompts and results.

The editor knows no objects across pages: every page has regions of its own, and ids must differ
between pages. The object of a region is found by the id the service gave it, else by label and
place.

The editor updates a region in place where an answer has its id. But a region that it was opened
with keeps the result it was made from (``_rawResult``), and as long as the region's page has not
been shown, it is this result that is saved, whatever the region has become
(``deserializeSingleResult`` and ``createSerializedResult`` of Label Studio 1.23.2; the map of areas
reuses the object of an id). So a region that the editor may have been opened with is not updated:
the new mask gets a region of its own, with the id of the next generation, and the old region is
taken away. An answer takes a region away by calling it ``dynamic``, which prompts are: accepting an
answer deletes all of those (``acceptAllSuggestions``).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from backend.expected import counted
from backend.labelstudio.geometry import (
    box_iou,
    box_to_pixels,
    mask_bounds,
    mask_iou,
    points_to_pixels,
)
from backend.labelstudio.json_values import Results
from backend.labelstudio.media_refs import media_uri, page_count
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, prompts_from_context
from backend.labelstudio.read_results import (
    DecodeMask,
    EncodedMask,
    UnreadableMask,
    newest_results,
    rasterise,
)
from backend.labelstudio.tags import ImageTag, Shape
from backend.labelstudio.timing import page_number
from backend.labelstudio.write_results import part_id, region_id, region_results
from backend.tracking.owners import find_track, own_track
from backend.tracking.store import TrackedMask, TrackStore, track_name

# A region that covers a tracked mask by this much (IoU) is the same object.
SAME_OBJECT = 0.3
# A fresh mask that covers a tracked one by this much (IoU) corrects it.
SAME_PLACE = 0.5
# An untouched mask comes back from the editor with at most this share of its pixels changed.
UNTOUCHED = 0.001
MAX_PARTS = 12  # regions that one mask may become where answers are polygons
MANY_REASONS = 3  # of regions that are left out


class _TooLate(UnreadableMask):
    """There is no time left to look at a region."""


@dataclass
class SequenceObject:
    """An object with what a human said of it, by page."""

    id: str
    labels: tuple[str, ...]
    from_name: str
    prompts: dict[int, ObjectPrompt] = field(default_factory=dict)

    def add(self, prompt: ObjectPrompt) -> None:
        """Keep the prompt that says most of its page: a drawn mask, then a box, then clicks."""
        page = _page(prompt)
        present = self.prompts.get(page)
        if present is None or _weight(prompt) >= _weight(present):
            self.prompts[page] = prompt


class SentRegion(NamedTuple):
    """What the service gave a region id to."""

    object_id: str
    page: int
    generation: int


@dataclass(frozen=True)
class FrameSequence:
    """The pages that an Image tag shows for a task, and what is known of them.

    Attributes:
        model_version: part of the track's name, as other weights find other masks.
        decode: the masks of regions.
        given: the track, where it need not be found out whose it is.
        shown: ids of regions that the request holds beside those of the task.
        alone: ids of marks that are objects of their own, whatever is known of their label.
        look_by: when to look at no more regions, on ``time.monotonic``: each may be drawn on
            a large picture.
        unreadable: why regions were left out.
        late: the pages of those for which there was no time.
        left_out: objects and pages of which the editor holds a region that was left out.
        ids: of regions, by object, page and generation, as far as they were asked for; they are the
            same on all tracks.
    """

    task: ProjectTask
    tag: ImageTag
    model_version: str
    store: TrackStore
    decode: DecodeMask
    given: str | None = None
    shown: frozenset[str] = frozenset()
    alone: frozenset[str] = frozenset()
    look_by: float = math.inf
    unreadable: list[str] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    left_out: set[tuple[str, int]] = field(default_factory=set)
    ids: dict[SentRegion, str] = field(default_factory=dict)

    @cached_property
    def pages(self) -> int:
        """Number of pages.

        Raises:
            MissingMedia: the task has no such list.
        """
        return page_count(self.task.data, self.tag)

    @property
    def track(self) -> str:
        """Names what is tracked for who asks; nothing is, and nothing is stored, under the name of
        what cannot be told."""
        return self.found or own_track(self.base, "nobody")

    @cached_property
    def found(self) -> str | None:
        """See ``find_track``."""
        return self.given or find_track(self.store, self.base, self.task, self._ids_of, self.shown)

    def _ids_of(self, track: str) -> set[str]:
        """The ids of the regions that a track has to do with."""
        sequence = replace(self, given=track)
        return sequence.sent_ids().keys() | sequence.known.keys()

    @cached_property
    def base(self) -> str:
        """See ``track_name``."""
        task, tag = self.task, self.tag
        addresses = [media_uri(task.data, tag, page) for page in range(self.pages)]
        number = task.task.get("id")
        return track_name(task.project, number, tag.name, self.model_version, *addresses)

    # Objects.

    @cached_property
    def known(self) -> dict[str, SequenceObject]:
        """Objects of earlier commands, without prompts."""
        return {
            name: SequenceObject(name, tuple(found["labels"]), found["from_name"])
            for name, found in self.store.objects(self.track).items()
        }

    def remember(self, objects: Iterable[SequenceObject]) -> None:
        """Keep what the objects are, for the commands that follow."""
        if self.track != self.base:
            self.store.claim(self.track, self.base, self.task.owner or "")
        for each in objects:
            self.store.describe(
                self.track, each.id, {"labels": list(each.labels), "from_name": each.from_name}
            )
            self.known[each.id] = SequenceObject(each.id, each.labels, each.from_name)

    def objects(self, results: Iterable[Mapping[str, Any]]) -> list[SequenceObject]:
        """The objects that a human marked on any page of ``results``, in the order of their first
        marked pages.

        A region whose id the service gave is a mark where a human changed it since; to find that
        out takes half of the time at most. One whose mask cannot be decoded, or for which there is
        no time, is left out; ``reasons_left_out`` says why.
        """
        objects = {name: replace(known, prompts={}) for name, known in self.known.items()}
        others: list[ObjectPrompt] = []
        alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)  # objects by label
        for name, known in objects.items():
            alike[known.labels].append(name)
        shown: set[tuple[str, int]] = set()  # objects and pages whose answer the editor has
        prompts = prompts_from_context({"result": list(results)}, self.task.config).objects
        sent_ids = self.sent_ids() if prompts else {}
        half = (time.monotonic() + self.look_by) / 2
        for prompt in prompts:
            if prompt.image != self.tag.name or _page(prompt) >= self.pages:
                continue
            sent = sent_ids.get(prompt.source_ids[0]) if prompt.source_ids else None
            if sent is None or sent.page != _page(prompt):
                others.append(prompt)
                continue
            shown.add((sent.object_id, sent.page))
            if sent.object_id in objects:
                with self._leaving_out(prompt, sent):
                    self._check_time(half)
                    if self._touched(sent, prompt):
                        self._add(objects[sent.object_id], prompt)
        for prompt in sorted(others, key=_page):
            with self._leaving_out(prompt):
                self._check_time(self.look_by)
                is_new = not self.alone.isdisjoint(prompt.source_ids)
                alikes = alike[prompt.labels]
                owner = None if is_new else self._owner(prompt, objects, alikes, shown)
                if owner is None:
                    name = prompt.source_ids[0] if prompt.source_ids else region_id(prompt)
                    owner = SequenceObject(name, prompt.labels, prompt.from_name)
                self._add(owner, prompt)
                if owner.id not in objects:
                    alike[owner.labels].append(owner.id)
                objects[owner.id] = owner
        marked = [each for each in objects.values() if each.prompts]
        return sorted(marked, key=lambda each: min(each.prompts))

    def _add(self, owner: SequenceObject, prompt: ObjectPrompt) -> None:
        """Keep a prompt, if it can be read: the job that follows would stop at it."""
        if isinstance(prompt.shape, EncodedMask):
            self.decode(prompt.shape)
        owner.add(prompt)

    @contextmanager
    def _leaving_out(self, prompt: ObjectPrompt, sent: SentRegion | None = None) -> Iterator[None]:
        """Leave a region out whose mask cannot be decoded in the block, or for which there is no
        time; what is ``sent`` is left as it is in the editor, too."""
        page = _page(prompt)
        try:
            yield
        except _TooLate:
            self.late.append(page)
        except UnreadableMask as error:
            self.unreadable.append(f"a region on page {page_number(page)} is left out: {error}")
        else:
            return
        if sent is not None:
            self.left_out.add((sent.object_id, sent.page))

    def _check_time(self, look_by: float) -> None:
        if time.monotonic() > look_by:
            raise _TooLate

    def reasons_left_out(self) -> list[str]:
        """What is to be said of regions that were left out: a few sentences."""
        said = self.unreadable[:MANY_REASONS]
        if self.late:
            regions = counted(len(self.late), "region is", "regions are")
            said.append(
                f"{regions} left out, from page {page_number(min(self.late))} on, as there was no "
                "time left to look at them: mark fewer at once, or draw with fewer corners"
            )
        return said

    def _owner(
        self,
        prompt: ObjectPrompt,
        objects: Mapping[str, SequenceObject],
        alike: Sequence[str],
        shown: Collection[tuple[str, int]],
    ) -> SequenceObject | None:
        """The object that ``prompt`` belongs to; None for a new one. ``alike`` have its label.

        By overlap with what was tracked on its page; else the only object of its label, provided
        that the page shows nothing of it: no prompt, and no answer, which would be another object
        (an answer that the annotator deleted was wrong).
        """
        page = _page(prompt)
        shape = prompt.shape
        draw = None if shape is None else cache(partial(rasterise, shape, decode=self.decode))
        overlaps = {}
        for name in self._known_by_label.get(prompt.labels, ()):  # what is new has no masks yet
            self._check_time(self.look_by)
            overlaps[name] = _overlap(prompt, self._mask(name, page), draw)
        best = max(overlaps, key=lambda name: overlaps[name], default=None)
        if best is not None and overlaps[best] >= SAME_OBJECT:
            return objects[best]
        only = objects[alike[0]] if len(alike) == 1 else None
        if only is not None and page not in only.prompts and (only.id, page) not in shown:
            return only
        return None

    @cached_property
    def _known_by_label(self) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = {}
        for name, known in self.known.items():
            found.setdefault(known.labels, []).append(name)
        return found

    def corrected_object(self, prompt: ObjectPrompt, mask: np.ndarray) -> str | None:
        """The tracked object that a fresh mask on a page corrects: same label, same place."""
        for name, known in self.known.items():
            if known.labels == prompt.labels:
                before = self._mask(name, _page(prompt))
                if before is not None and mask_iou(before, mask) >= SAME_PLACE:
                    return name
        return None

    def _mask(self, object_id: str, page: int) -> np.ndarray | None:
        found = self._found(object_id, page)
        return found.mask.unpack() if found is not None else None

    def _found(self, object_id: str, page: int) -> TrackedMask | None:
        return self.store.mask(self.track, object_id, page)

    # Regions.

    def saved_results(self) -> Results:
        """What the annotation at hand holds: the newest draft. Only where the request says nothing
        of drafts, the newest annotation: in an editor it may be somebody else's."""
        kind = "drafts" if "drafts" in self.task.task else "annotations"
        return newest_results(self.task.task, kind, even_empty=True)

    def results(self, found: TrackedMask, generation: int | None = None) -> Results:
        """The regions that show a tracked mask on its page; none where the object is absent.

        Args:
            generation: of the region's id; the last one where None.

        Raises:
            LabelMismatch: no answer tag has the object's label.
        """
        known = self.known[found.object_id]
        prompt = ObjectPrompt(
            self.tag.name, found.frame, labels=known.labels, from_name=known.from_name
        )
        return region_results(
            prompt,
            found.mask.unpack(),
            score=found.iou,
            config=self.task.config,
            region_id=self._region_id(found.object_id, found.frame, generation),
        )

    def update(self, found: TrackedMask, saved: Mapping[str, Results]) -> Results:
        """What makes the editor show a tracked mask; nothing where it does already.

        Args:
            saved: by region id, what the editor holds; a region that it may have been opened with
                is replaced by another one, as above.
        """
        place = found.object_id, found.frame
        last = self.generations.get(place, 0)
        by_generation = {n: self.saved_parts(place, n, saved) for n in range(last + 1)}
        shown = [n for n, old in by_generation.items() if old]
        if not shown:
            return self.results(found)
        made = self.results(found, shown[-1])
        names = {str(region["id"]) for region in made}
        complete = len(shown) == 1 and names == set(by_generation[shown[0]])
        if complete and all(self._shows(saved[str(r["id"])][0], r) for r in made):
            return []
        old = [item for n in shown for name in by_generation[n] for item in saved[name]]
        if by_generation[last]:
            self.generations[place] = last + 1
            self.store.put_generation(self.track, *place, last + 1)
        made = self.results(found)
        return [*made, *_added_by_hand(old, made), *_taken_away(old)]

    def correction(self, object_id: str, page: int) -> tuple[str, Results]:
        """The region id for a fresh mask of an object on the page that the editor shows, where
        a region may be updated in place; and what takes its earlier regions away."""
        saved = by_id(self.saved_results())
        old = [
            item
            for n in range(self.generations.get((object_id, page), 0))
            for name in self.saved_parts((object_id, page), n, saved)
            for item in saved[name]
        ]
        return self._region_id(object_id, page), _taken_away(old)

    def sent_ids(self) -> dict[str, SentRegion]:
        """By region id: what the service gave it to."""
        sent = {}
        outlines = {Shape.POLYGON, Shape.VECTOR}
        answers = self.task.config.answers_for(self.tag.name)
        parts = MAX_PARTS if any(each.shape in outlines for each in answers) else 1
        for name, page in self.store.anchors(self.track):
            for generation in range(self.generations.get((name, page), 0) + 1):
                whole = self._region_id(name, page, generation)
                for part in range(parts):
                    sent[part_id(whole, part)] = SentRegion(name, page, generation)
        return sent

    def places(self, results: Iterable[Mapping[str, Any]]) -> set[tuple[str, int]]:
        """Objects and pages of which ``results`` hold a region that the service sent."""
        ids = {str(result.get("id")) for result in results}
        sent_ids = self.sent_ids() if ids else {}
        return {sent_ids[name][:2] for name in ids & sent_ids.keys()}

    @cached_property
    def generations(self) -> dict[tuple[str, int], int]:
        """By object and page: how often the region there was replaced by another."""
        return self.store.generations(self.track)

    def _region_id(self, object_id: str, page: int, generation: int | None = None) -> str:
        if generation is None:
            generation = self.generations.get((object_id, page), 0)
        sent = SentRegion(object_id, page, generation)
        name = self.ids.get(sent)
        if name is None:
            name = self.ids[sent] = shown_region(self.tag.name, *sent)
        return name

    def saved_parts(
        self, place: tuple[str, int], generation: int, saved: Mapping[str, Results]
    ) -> list[str]:
        """The ids in ``saved`` of the regions of one generation."""
        whole = self._region_id(*place, generation)
        return [name for part in range(MAX_PARTS) if (name := part_id(whole, part)) in saved]

    # What a human changed.

    def _shows(self, saved: Mapping[str, Any], region: Mapping[str, Any]) -> bool:
        """Whether ``saved``, the editor's region of the same id, looks like ``region`` already.

        Submitting encodes every mask anew, so the same mask may come back in other bytes.
        """
        if saved.get("value") == region["value"]:
            return True
        [drawn] = self._drawn([region])
        back = self._drawn([saved])
        size = region["original_height"], region["original_width"]
        try:
            self._check_time(self.look_by)
            return bool(back) and not _differs(drawn, back[0], *size, self.decode)
        except UnreadableMask:
            return False

    def _touched(self, sent: SentRegion, prompt: ObjectPrompt) -> bool:
        """Whether a human changed the shape or the label of a region that the service sent, or
        it answers a human's prompt on its own page."""
        found = self._found(sent.object_id, sent.page)
        if found is None or found.prompted:
            return True
        if self._is_as_sent(found, sent, prompt):
            return False
        earlier = self.store.earlier_mask(self.track, sent.object_id, sent.page)
        return earlier is None or not self._is_as_sent(replace(found, mask=earlier), sent, prompt)

    def _is_as_sent(self, found: TrackedMask, sent: SentRegion, prompt: ObjectPrompt) -> bool:
        """Whether a region shows ``found``, as it was sent."""
        size = found.mask.height, found.mask.width
        return any(
            drawn.labels == prompt.labels and not _differs(drawn, prompt, *size, self.decode)
            for drawn in self._drawn(self.results(found, sent.generation))
            if drawn.source_ids == prompt.source_ids
        )

    def _drawn(self, results: Sequence[Mapping[str, Any]]) -> Sequence[ObjectPrompt]:
        return prompts_from_context({"result": results}, self.task.config).objects


def shown_region(image: str, object_id: str, page: int, generation: int) -> str:
    """The id of the region that shows an object on a page of an Image tag.

    Args:
        generation: how often another region took its place.
    """
    first = region_id(ObjectPrompt(image, page), anchor=object_id)
    return first if generation == 0 else f"{first}-{generation}"


def by_id(results: Iterable[Mapping[str, Any]]) -> dict[str, Results]:
    """The results of each region."""
    found: dict[str, Results] = {}
    for result in results:
        found.setdefault(str(result.get("id")), []).append(dict(result))
    return found


def _page(prompt: ObjectPrompt) -> int:
    return prompt.item_index or 0


def _weight(prompt: ObjectPrompt) -> int:
    return 2 if prompt.shape is not None else 1 if prompt.box is not None else 0


def _overlap(
    prompt: ObjectPrompt, mask: np.ndarray | None, draw: Callable[[int, int], np.ndarray] | None
) -> float:
    """IoU of the prompt's area with ``mask`` (of a box with the box around it); for clicks 1 if
    all positive ones are in it.

    Args:
        draw: the prompt's shape on a picture of a width and height; None without one.
    """
    around = None if mask is None else mask_bounds(mask)
    if mask is None or around is None:
        return 0.0
    height, width = mask.shape
    if draw is not None:
        return mask_iou(draw(width, height), mask)
    if prompt.box is not None:
        return box_iou(box_to_pixels(prompt.box, width, height), around)
    clicks = [(point.x, point.y) for point in prompt.points if point.positive]
    pixels = points_to_pixels(clicks, width, height).astype(int)
    inside = [mask[min(max(y, 0), height - 1), min(max(x, 0), width - 1)] for x, y in pixels]
    return float(bool(inside) and all(inside))


def _differs(
    sent: ObjectPrompt, back: ObjectPrompt, height: int, width: int, decode: DecodeMask
) -> bool:
    """Whether a human touched a region: a box that is not the same, or a mask of which more pixels
    differ than a round trip through the editor's canvas explains."""
    if sent.shape is None or back.shape is None:
        return sent.box != back.box
    before = rasterise(sent.shape, width, height, decode)
    after = rasterise(back.shape, width, height, decode)
    different = int(np.count_nonzero(before != after))
    return different > max(8, UNTOUCHED * int(before.sum()))


def _taken_away(items: Iterable[Mapping[str, Any]]) -> Results:
    """The items that take the regions of ``items`` away, where the editor has them."""
    return [{**item, "dynamic": True} for item in items]


def _added_by_hand(old: Results, answer: Results) -> Results:
    """What a human added to the old region (texts and choices of its own), for the new one."""
    if not answer:
        return []
    ours = {(item["from_name"], item["type"]) for item in answer}
    return [
        {**item, "id": answer[0]["id"]}
        for item in old
        if (item.get("from_name"), item.get("type")) not in ours
    ]
