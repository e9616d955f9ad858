"""Clicks, boxes and text-box commands: one request of the editor, one answer.

No HTTP error of an interactive request reaches the annotator (Label Studio answers its page
200 and the page ignores the rest), so every failure becomes a text in the image's text area
where the label config has one, and an empty result where it has none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.engine.engine import Engine
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.labelstudio.commands import (
    HELP,
    ParsedCommand,
    TextKind,
    TypedText,
    Word,
    holds_note,
    parse_command,
    unknown_command,
)
from backend.labelstudio.json_values import mappings, task_name, texts
from backend.labelstudio.prompts import ContextPrompts, ObjectPrompt, PointPrompt
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.video_regions import video_status
from backend.labelstudio.write_results import region_id, status_results
from backend.predict.recent import Place, RecentPrompts
from backend.predict.segment import Segmenter
from backend.threads.caller import log_place
from backend.threads.fair_queue import Busy
from backend.tracking.sequence import FrameSequence
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)


class OnlyBackground(ExpectedError):
    """Every click of a prompt says where the object is not."""


@dataclass(frozen=True)
class Reply:
    """Results for the editor, and the outcome for the metrics."""

    results: list[dict[str, Any]]
    outcome: str


@dataclass(frozen=True)
class Request:
    """An interactive request; ``project`` is Label Studio's ``<id>.<creation time>``."""

    project: str
    task: Mapping[str, Any]
    label_config: str
    config: LabelConfig

    @property
    def task_id(self) -> str:
        """See ``task_name``."""
        return task_name(self.task)


class Clicks:
    """Answers the editor while somebody works in it."""

    def __init__(
        self,
        segmenter: Segmenter,
        engine: Engine,
        memory: RecentPrompts,
        tracking: Tracking,
        *,
        budget_seconds: float,
    ) -> None:
        self._segmenter = segmenter
        self._engine = engine
        self._memory = memory
        self._tracking = tracking
        self._budget = budget_seconds

    def reply(self, request: Request, context: ContextPrompts) -> Reply:
        """Masks for the prompts of ``context``, or the answer to its command."""
        if context.objects:
            return self._masks(request, context.objects)
        if context.commands:
            return self._command(request, context.commands[-1])
        if context.ignored and request.config.images:
            text = f"nothing to answer with: {'; '.join(context.ignored)}"
            image = request.config.images[0].name
            return Reply(self._status(request, image, None, text), "ignored")
        return Reply([], "empty")

    def told(self, request: Request, context: object, text: str, outcome: str) -> Reply:
        """Nothing but ``text``, where the annotator can see it."""
        if request.config.images:
            image = request.config.images[0].name
            return Reply(self._status(request, image, None, text), outcome)
        return Reply(self._video_status(request, context, text), outcome)

    def reply_on_video(self, request: Request, context: object) -> Reply:
        """Tracked boxes, or the answer to a command, for a request on a ``<Video>``."""
        try:
            results = self._tracking.videos.reply(
                request.project, request.task, request.label_config, context
            )
        except ExpectedError as error:
            logger.warning("task %s: not tracked: %s", request.task_id, error)
            return Reply(self._video_status(request, context, str(error)), _outcome(error))
        return Reply(results, "ok" if results else "empty")

    def _video_status(self, request: Request, context: object, text: str) -> list[dict[str, Any]]:
        if not request.config.videos:
            return []
        video = request.config.videos[0].name
        known = context.get("result") if isinstance(context, Mapping) else None
        return [dict(item) for item in video_status(text, request.config, video, known)]

    def _masks(self, request: Request, prompts: Sequence[ObjectPrompt]) -> Reply:
        deadline = time.monotonic() + self._budget
        regions: list[dict[str, Any]] = []
        reasons: list[str] = []
        failed = "error"
        for prompt in prompts:
            try:
                made = self._mask(request, prompt, deadline)
                regions += made
                if not made:
                    reasons.append("no object there; try another spot or a box")
            except ExpectedError as error:
                logger.warning("task %s: no mask: %s", request.task_id, error)
                reasons.append(str(error))
                failed = _outcome(error)
            except Exception:  # request boundary: the editor would hide a 500
                logger.exception("task %s: a prompt could not be answered", request.task_id)
                reasons.append(f"the backend failed on this prompt; its log says why{log_place()}")
                failed = "defect"
        outcome = failed if not regions else "partial" if reasons else "ok"
        text = "; ".join(dict.fromkeys(reasons)) or None
        if regions and self._tracking.on_prompt:
            tracked, progress = self._carried_on(request, prompts[0].image, regions)
            regions, text = regions + tracked, text or progress
        status = self._status(request, prompts[0].image, prompts[0].item_index, text)
        return Reply(regions + status, outcome)

    def _carried_on(
        self, request: Request, image: str, answer: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], str | None]:
        """What tracking on from an answer has found so far, and how far it is."""
        try:
            sequence = self._sequence(request, image)
            if sequence is None:
                return [], None
            fresh = self._memory.fresh(request.project, request.task_id)
            return self._tracking.sequences.carry_on(sequence, answer, fresh)
        except ExpectedError as error:
            logger.warning("task %s: not tracked on: %s", request.task_id, error)
            return [], str(error)
        except Exception:  # request boundary: the prompt itself is answered
            logger.exception("task %s: could not be tracked on", request.task_id)
            return [], f"the backend failed to track on; its log says why{log_place()}"

    def _mask(
        self, request: Request, prompt: ObjectPrompt, deadline: float
    ) -> list[dict[str, Any]]:
        place = Place(
            request.project, request.task_id, prompt.image, prompt.item_index, prompt.labels
        )
        region = region_id(prompt)
        known = self._memory.box_for(place, prompt, _saved_ids(request.task))
        if known is not None:
            prompt, region = replace(prompt, box=known.box), known.region_id
        if not prompt.has_positive:
            raise OnlyBackground("Alt+click says what does not belong; click on the object first")
        page = self._segmenter.page(request.task, request.config, prompt, Priority.CLICK, deadline)
        page = self._segmenter.closer(page, prompt, Priority.CLICK, deadline)
        earlier = None
        if prompt.points:  # the last one corrects the answer to those before it
            earlier = self._memory.logits(_answer_key(page.image.key, prompt, prompt.points[:-1]))
        [segment] = self._segmenter.segment(page, [prompt], Priority.CLICK, deadline, [earlier])
        self._memory.remember_logits(
            _answer_key(page.image.key, prompt, prompt.points), segment.logits
        )
        region, replaced = self._corrected(request, prompt, segment.mask) or (region, [])
        if prompt.box is not None:
            self._memory.remember_box(place, prompt.box, region)
        made = self._segmenter.regions(prompt, segment, request.config, region)
        self._memory.remember_sent(request.project, request.task_id, made)
        return made + replaced if made else []

    def _corrected(
        self, request: Request, prompt: ObjectPrompt, mask: np.ndarray
    ) -> tuple[str, list[dict[str, Any]]] | None:
        """The region of a tracked object that a fresh mask on its page corrects, and what takes
        earlier ones away."""
        sequence = self._sequence(request, prompt.image)
        owner = sequence.owner_at(prompt, mask) if sequence is not None else None
        if sequence is None or owner is None:
            return None
        return sequence.correction(owner, prompt.item_index or 0)

    def _sequence(self, request: Request, image: str) -> FrameSequence | None:
        tag = request.config.image(image)
        if tag is None or not tag.is_sequence:
            return None
        return self._tracking.sequences.sequence(
            request.project, request.task, request.label_config, image
        )

    def _command(self, request: Request, command: TypedText) -> Reply:
        if holds_note(command.entries):  # what we write would replace it
            self._memory.remember_note(request.project, request.task_id, command.area)
        parsed = parse_command(command.newest)
        if parsed.kind is TextKind.COMMAND:
            try:
                sequence = self._sequence(request, command.to_name)
                if sequence is not None:
                    return self._sequence_command(request, command, sequence, parsed)
            except ExpectedError as error:
                text: str | None = str(error)
                status = self._status(request, command.to_name, command.item_index, text)
                return Reply(status, _outcome(error))
        match parsed.kind, parsed.word:
            case TextKind.COMMAND, Word.HELP:
                text = HELP
            case TextKind.COMMAND, Word.STATUS:
                text = self._engine.status().detail
            case TextKind.COMMAND, Word.TRACK | Word.REDO | Word.STOP:
                text = "there is nothing to track on a single picture"
            case TextKind.COMMAND, _:
                self._memory.forget_task(request.project, request.task_id)
                text = None
            case TextKind.UNKNOWN, _:
                text = unknown_command(parsed.text)
            case _:
                return Reply([], "note")
        status = self._status(request, command.to_name, command.item_index, text)
        return Reply(status, "command")

    def _sequence_command(
        self, request: Request, command: TypedText, sequence: FrameSequence, parsed: ParsedCommand
    ) -> Reply:
        fresh = self._memory.fresh(request.project, request.task_id)
        regions, text = self._tracking.sequences.command(sequence, parsed, fresh)
        if parsed.word is Word.CLEAR:
            self._memory.forget_task(request.project, request.task_id)
        status = self._status(request, command.to_name, command.item_index, text)
        return Reply(regions + status, "command")

    def _status(
        self, request: Request, image: str, page: int | None, text: str | None
    ) -> list[dict[str, Any]]:
        """``text`` for the text area of ``image`` (None empties it), unless a note of the
        annotator is there."""
        area = request.config.status_area(image)
        if area is None:
            return []
        noted = self._memory.has_note(request.project, request.task_id, area.name)
        if noted or holds_note(_saved_texts(request.task, area.name)):
            return []
        return status_results(text, request.config, image, page)


def _outcome(error: Exception) -> str:
    return "busy" if isinstance(error, Busy) else "error"


def _saved_ids(task: Mapping[str, Any]) -> set[str]:
    """Region ids in the drafts and annotations that came with the task."""
    found: set[str] = set()
    for kind in ("drafts", "annotations"):
        for entry in mappings(task.get(kind)):
            found.update(str(result.get("id")) for result in mappings(entry.get("result")))
    return found


def _saved_texts(task: Mapping[str, Any], area: str) -> Iterator[str]:
    """What a text area holds in the drafts and annotations that came with the task."""
    for kind in ("drafts", "annotations"):
        for entry in mappings(task.get(kind)):
            for result in mappings(entry.get("result")):
                value = result.get("value")
                if result.get("from_name") == area and isinstance(value, Mapping):
                    yield from texts(value.get("text"))


def _answer_key(page: str, prompt: ObjectPrompt, points: Sequence[PointPrompt]) -> Hashable | None:
    """Names the answer to ``points`` and the box of ``prompt`` on the image of content ``page``;
    None where these are no prompt at all, or more than points and a box."""
    if prompt.shape is not None or (not points and prompt.box is None):
        return None
    return (page, prompt.box, tuple((point.x, point.y, point.positive) for point in points))
