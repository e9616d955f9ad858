"""What is remembered between two requests of one annotator, bounded in number and time.

Label Studio never sends a box and points in one request (they are grouped by region type), and
its draft is 5 seconds behind; both matter for the next click.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from backend.engine.packed_masks import PackedMask
from backend.labelstudio.commands import kept
from backend.labelstudio.geometry import Box, point_in_box
from backend.labelstudio.json_values import Results, item_value, mappings, texts
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt, clicked_pixels
from backend.recent_values import Recent

BOX_SECONDS = 60.0
MAX_CLICKS = 30  # of one region
NOTE_SECONDS = 24 * 3600.0
CLICK_SECONDS = 600.0
DRAFT_SECONDS = 10.0  # the editor saves its draft after 5


@dataclass(frozen=True)
class _Box:
    """A box that was answered; ``ids`` are those of its prompts."""

    box: Box
    region_id: str
    ids: tuple[str, ...]
    place: tuple[Hashable, ...]


class LastBox(NamedTuple):
    """A box that was answered just before.

    Attributes:
        ids: of its region and its prompts.
        accepted: its mask is among the task's drafts and annotations.
    """

    box: Box
    ids: frozenset[str]
    accepted: bool


class RecentPrompts:
    """Boxes that wait for points, what was sent and not yet saved, and where notes are: of each
    annotator, as far as a draft names them. Those who have no draft yet cannot be told apart."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._boxes = Recent[_Box](entries=1000, seconds=BOX_SECONDS, clock=clock)
        self._clicks = Recent[tuple[PointPrompt, ...]](
            entries=1000, seconds=CLICK_SECONDS, clock=clock
        )
        self._sent = Recent[dict[str, Any]](entries=500, seconds=DRAFT_SECONDS, clock=clock)
        self._notes = Recent[bool](entries=10_000, seconds=NOTE_SECONDS, clock=clock)

    def remember_box(self, task: ProjectTask, prompt: ObjectPrompt, region_id: str) -> None:
        """The box of ``prompt``, if it has one, was answered with region ``region_id``."""
        if prompt.box is not None:
            known = _Box(prompt.box, region_id, tuple(prompt.source_ids), _place(prompt))
            self._boxes.put((*_person(task), *known.place), known)

    def box_for(self, task: ProjectTask, prompt: ObjectPrompt) -> tuple[Box, str] | None:
        """The box that the points of ``prompt`` correct, and the region id of its answer.

        It is the last box of the same label and page, answered less than a minute ago, with the
        first positive point (of only negative ones: the first) inside it. A box whose answer is
        among the task's drafts and annotations was accepted: a click in it means another object,
        and must not replace the annotator's work. A click outside the box ends its time.
        """
        self._settle(task)
        place = (*_person(task), *_place(prompt))
        known = self._boxes.get(place)
        if known is None or not prompt.points:
            return None
        box, region_id = known.box, known.region_id
        first = next((point for point in prompt.points if point.positive), prompt.points[0])
        size = (prompt.original_width or 100, prompt.original_height or 100)
        accepted = region_id in {str(result.get("id")) for result in _saved(task)}
        if not accepted and point_in_box(first.x, first.y, box, *size):
            return box, region_id
        self._boxes.forget(lambda key: key == place)
        return None

    def last_box(self, task: ProjectTask, image: str, page: int | None) -> LastBox | None:
        """The last box on a page that was answered less than a minute ago; None without one."""
        self._settle(task)
        place = (*_person(task), image, page)
        known = self._boxes.values(lambda key: key[: len(place)] == place)
        if not known:
            return None
        last = known[-1]
        accepted = last.region_id in {str(result.get("id")) for result in _saved(task)}
        return LastBox(last.box, frozenset((last.region_id, *last.ids)), accepted)

    def corrections(
        self, task: ProjectTask, prompt: ObjectPrompt, region_id: str, shown: PackedMask
    ) -> tuple[PointPrompt, ...]:
        """All clicks that correct region ``region_id``: those of the last minutes, and those of
        ``prompt``, which are remembered.

        With Auto-Accept on, every click comes alone. Earlier ones that the mask that is ``shown``
        does not agree with were undone in the editor, and are forgotten.
        """
        key = (*_person(task), prompt.image, prompt.item_index, region_id)
        earlier = self._clicks.get(key) or ()
        if earlier:
            mask = shown.unpack()
            pixels = clicked_pixels(earlier, *mask.shape)
            earlier = tuple(
                click
                for click, (x, y) in zip(earlier, pixels, strict=True)
                if mask[y, x] == click.positive and click not in prompt.points
            )
        clicks = (*earlier, *prompt.points)[-MAX_CLICKS:]
        self._clicks.put(key, clicks)
        return clicks

    def remember_sent(self, task: ProjectTask, results: Results) -> None:
        """Regions were sent to the editor, whose draft will hold them in about 5 seconds."""
        for result in results:
            self._sent.put((*_person(task), result["id"], result["type"]), result)

    def fresh(self, task: ProjectTask) -> Results:
        """The regions sent in the last seconds to who asks; with an empty draft those that no
        draft of a named one has held since."""
        self._settle(task)
        person = _person(task)
        return self._sent.values(lambda key: key[:3] == person)

    def _settle(self, task: ProjectTask) -> None:
        """What was answered before there was a draft is theirs whose draft holds it."""
        if not task.owner:
            return
        nobody, held = (*task.key, ""), task.held
        self._sent.forget(lambda key: key[:3] == nobody and key[3] in held)
        for known in self._boxes.values(lambda key: key[:3] == nobody):
            if not held.isdisjoint((known.region_id, *known.ids)):
                place = (*nobody, *known.place)
                self._boxes.forget(place.__eq__)
                self._boxes.put((*_person(task), *known.place), known)

    def remember_note(self, task: ProjectTask, area: str) -> None:
        """The annotator wrote a text of their own into text area ``area``."""
        self._notes.put((*_person(task), area), True)

    def has_note(self, task: ProjectTask, area: str) -> bool:
        """Whether ``area`` holds a text of the annotator, which must not be replaced: one that was
        seen, or one in the task's drafts and annotations."""
        return self._notes.get((*_person(task), area)) is not None or any(
            kept(texts(item_value(result).get("text")), shared=True)
            for result in _saved(task)
            if result.get("from_name") == area
        )

    def forget_boxes(self, task: ProjectTask) -> None:
        """Drop the boxes and corrections of who asks on a task."""
        person = _person(task)
        for remembered in (self._boxes, self._clicks):
            remembered.forget(lambda key: key[:3] == person)


def _person(task: ProjectTask) -> tuple[str, str, str]:
    return (*task.key, task.owner or "")


def _place(prompt: ObjectPrompt) -> tuple[Hashable, ...]:
    """Where a prompt was made, and of what label."""
    return prompt.image, prompt.item_index, prompt.labels


def _saved(task: ProjectTask) -> Iterator[Mapping[str, Any]]:
    """The result items of the drafts and annotations that came with a task."""
    for kind in ("drafts", "annotations"):
        for entry in mappings(task.task.get(kind)):
            yield from mappings(entry.get("result"))
