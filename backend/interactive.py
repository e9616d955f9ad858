"""Clicks, boxes and text-box commands: one request of the editor, one answer.

No HTTP error of an interactive request reaches the annotator (Label Studio answers its page
200 and the page ignores the rest), so every failure becomes a text in the image's text area
where the label config has one, and an empty result where it has none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.answers import Answers
from backend.engine.engine import Engine, EngineError
from backend.engine.scheduler import Priority
from backend.labelstudio.commands import Command, help_text
from backend.labelstudio.label_config import LabelConfig
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.prompts import ContextPrompts, ObjectPrompt
from backend.labelstudio.results import LabelMismatch, region_id, status_results
from backend.media.errors import MediaError
from backend.memory import Place, PromptMemory

logger = logging.getLogger(__name__)

# What an annotator can be told in a sentence; anything else is a defect of the service.
EXPECTED = (MediaError, MissingMedia, LabelMismatch, EngineError)


@dataclass(frozen=True)
class Reply:
    """Regions for the editor, the text for its text area (None: clear it), and the outcome
    for the metrics."""

    results: list[dict[str, Any]]
    outcome: str


class Interactive:
    """Answers the editor while somebody works in it."""

    def __init__(
        self,
        answers: Answers,
        engine: Engine,
        memory: PromptMemory,
        *,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers = answers
        self._engine = engine
        self._memory = memory
        self._budget = budget_seconds
        self._clock = clock

    def reply(
        self, project: str, task: Mapping[str, Any], config: LabelConfig, context: ContextPrompts
    ) -> Reply:
        """Masks for the prompts of ``context``, or the answer to its command."""
        if context.objects:
            return self._masks(project, task, config, context)
        if context.commands:
            return self._command(project, task, config, context.commands[-1])
        if context.ignored:
            reason = "; ".join(context.ignored)
            return self._said(project, task, config, _first_image(config), reason, "ignored")
        return Reply([], "empty")

    def _masks(
        self, project: str, task: Mapping[str, Any], config: LabelConfig, context: ContextPrompts
    ) -> Reply:
        deadline = self._clock() + self._budget
        regions: list[dict[str, Any]] = []
        reasons: list[str] = []
        for prompt in context.objects:
            try:
                made = self._mask(project, task, config, prompt, deadline)
                regions += made
                if not made:
                    reasons.append("no object there; try another spot or a box")
            except EXPECTED as error:
                logger.warning("task %s: no mask: %s", task.get("id"), error)
                reasons.append(str(error))
            except Exception:  # request boundary: nothing may reach the editor as a 500
                logger.exception("task %s: a prompt could not be answered", task.get("id"))
                reasons.append("the backend failed on this prompt; its log says why")
        image = context.objects[0].image
        text = "; ".join(dict.fromkeys(reasons)) or None
        status = self._status(project, task, config, image, text)
        outcome = "error" if not regions else "partial" if reasons else "ok"
        return Reply(regions + status, outcome)

    def _mask(
        self,
        project: str,
        task: Mapping[str, Any],
        config: LabelConfig,
        prompt: ObjectPrompt,
        deadline: float,
    ) -> list[dict[str, Any]]:
        place = Place(project, str(task.get("id")), prompt.image, prompt.item_index, prompt.labels)
        known = self._memory.box_for(place, prompt, _saved_ids(task))
        if known is not None:
            prompt = replace(prompt, box=known.box)
        region = known.region_id if known is not None else region_id(prompt)
        page = self._answers.page(task, config, prompt, Priority.CLICK, deadline)
        earlier = self._memory.logits(_key(page.key, prompt, without_last=True))
        [segment] = self._answers.segment(page, [prompt], Priority.CLICK, deadline, [earlier])
        self._memory.remember_logits(_key(page.key, prompt), segment.logits)
        if prompt.box is not None:
            self._memory.remember_box(place, prompt.box, region)
        return self._answers.regions(prompt, segment, config, region)

    def _command(
        self, project: str, task: Mapping[str, Any], config: LabelConfig, command: Command
    ) -> Reply:
        if command.name is None:  # a note of the annotator, not for us
            self._memory.remember_note(project, str(task.get("id")), command.from_name)
            return Reply([], "note")
        if command.name == "clear":
            self._memory.forget_task(project, str(task.get("id")))
            text = None
        elif command.name == "status":
            text = self._engine.status().detail
        else:
            text = help_text()
        return self._said(project, task, config, command.to_name, text, command.name)

    def _said(
        self,
        project: str,
        task: Mapping[str, Any],
        config: LabelConfig,
        image: str | None,
        text: str | None,
        outcome: str,
    ) -> Reply:
        return Reply(self._status(project, task, config, image, text), outcome)

    def _status(
        self,
        project: str,
        task: Mapping[str, Any],
        config: LabelConfig,
        image: str | None,
        text: str | None,
    ) -> list[dict[str, Any]]:
        """``text`` for the text area of ``image``, unless the annotator's own note is there."""
        area = config.status_area(image) if image is not None else None
        if area is None or self._memory.has_note(project, str(task.get("id")), area.name):
            return []
        return status_results(f"SAM 2: {text}" if text else None, config, area.to_name)


def _first_image(config: LabelConfig) -> str | None:
    return config.images[0].name if config.images else None


def _saved_ids(task: Mapping[str, Any]) -> set[str]:
    """Region ids in the drafts and annotations that came with the task."""
    found = set()
    for kind in ("drafts", "annotations"):
        for entry in _dicts(task.get(kind)):
            found.update(str(result.get("id")) for result in _dicts(entry.get("result")))
    return found


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _key(page: str, prompt: ObjectPrompt, *, without_last: bool = False) -> Hashable:
    """Names an answer: the image's content and the exact prompts, in order.

    With ``without_last`` it names the answer that the last point corrects.
    """
    points = prompt.points[:-1] if without_last else prompt.points
    if without_last and not points and prompt.box is None:
        return None
    box, shape = prompt.box, prompt.shape
    return (page, box, shape, tuple((point.x, point.y, point.positive) for point in points))
