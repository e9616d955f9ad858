"""Clicks, boxes and text-box commands: one request of the editor, one answer.

``Clicks._answer`` is the life of a click: decode, predict, encode.

No HTTP error of an interactive request reaches the annotator (Label Studio answers its page
200 and the page ignores the rest), so every failure becomes a text in the image's text area
where the label config has one, and an empty result where it has none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from backend.engine.engine import Engine
from backend.engine.packed_masks import PackedMask
from backend.expected import ExpectedError, counted
from backend.labelstudio.commands import (
    HELP,
    NOTED,
    ParsedCommand,
    TextKind,
    TypedText,
    Word,
    kept,
    parse_command,
    unknown_command,
)
from backend.labelstudio.json_values import Results, mappings
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ContextPrompts, ObjectPrompt, prompts_from_context
from backend.labelstudio.video_regions import video_status
from backend.labelstudio.write_results import region_id, status_results
from backend.predict.everything_command import EverythingCommand
from backend.predict.find_command import FindCommand
from backend.predict.recent import RecentPrompts
from backend.predict.segment import Segmenter
from backend.threads.caller import log_place, reply_by
from backend.threads.fair_queue import Busy
from backend.tracking.corrections import Correction, Corrections
from backend.tracking.sequence import FrameSequence
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

MANY_REASONS = 5  # in one text
SHORTEST_LOOK_S = 2.0  # at the marks of a sequence, where answering the prompts took the budget
# Shares of the budget: by when prompts are read, and by when the last of many is begun. The rest
# is for those that are under way, and for writing a long reply.
READ_BY = 0.5
BEGIN_BY = 0.9


class OnlyBackground(ExpectedError):
    """Every click of a prompt says where the object is not."""


@dataclass(frozen=True)
class Request(ProjectTask):
    """An interactive request.

    Attributes:
        context: what the annotator did, ``params.context``; it may be anything.
    """

    context: object

    @property
    def items(self) -> list[Mapping[str, Any]]:
        """The result items of the context."""
        context = self.context
        return list(mappings(context.get("result") if isinstance(context, Mapping) else None))

    @property
    def is_on_video(self) -> bool:
        """Whether it is about a ``<Video>`` and not about a picture."""
        videos = {video.name for video in self.config.videos}
        tied = {area.name for area in self.config.text_areas if area.to_name in videos}
        return any(
            str(item.get("to_name")) in videos or str(item.get("from_name")) in tied
            for item in self.items
        )


@dataclass(frozen=True)
class Reply:
    """Results for the editor, and the outcome for the metrics.

    Attributes:
        error: why there is less than was asked for; only newer editors read it.
    """

    results: Results
    outcome: str
    error: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: a sentence for the annotator, and the outcome for the metrics."""

    text: str
    outcome: str


class Clicks:
    """Answers the editor while somebody works in it.

    Args:
        budget_seconds: longest wait for the masks of a request.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        engine: Engine,
        recent: RecentPrompts,
        tracking: Tracking,
        find: FindCommand,
        everything: EverythingCommand,
        *,
        budget_seconds: float,
    ) -> None:
        self._find = find
        self._everything = everything
        self._segmenter = segmenter
        self._engine = engine
        self._recent = recent
        self._tracking = tracking
        self._budget = budget_seconds

    def reply(self, request: Request) -> Reply:
        """Masks for prompts, tracked boxes, or the answer to a command; never raises."""
        found = attempt(request, "this request", self._reply, request)
        if isinstance(found, Failure):
            return self.message(request, found.text, found.outcome)
        return found

    def message(self, request: Request, text: str, outcome: str) -> Reply:
        """Nothing but ``text``, where the annotator can see it."""
        if request.config.images and not request.is_on_video:
            image = request.config.images[0].name
            return Reply(self._status(request, image, None, text), outcome)
        if not request.config.videos:
            return Reply([], outcome)
        video = request.config.videos[0].name
        return Reply(list(video_status(text, request.config, video, request.items)), outcome)

    def _reply(self, request: Request) -> Reply:
        if request.is_on_video:
            find = partial(self._find.on_video, request)
            results = self._tracking.videos.reply(request, request.context, find)
            return Reply(results, "ok" if results else "empty")
        read_by = reply_by(READ_BY * self._budget)
        context = prompts_from_context(
            request.context, request.config, lambda: time.monotonic() > read_by
        )
        if context.objects:
            return self._on_prompts(request, context)
        if context.commands:
            return self._on_command(request, context.commands[-1])
        if context.ignored and request.config.images:
            text = f"no usable click or box: {'; '.join(context.ignored[:MANY_REASONS])}"
            return self.message(request, text, "ignored")
        return Reply([], "empty")

    def _on_prompts(self, request: Request, context: ContextPrompts) -> Reply:
        prompts = context.objects
        regions, reasons, failed = self._answer_in_time(request, prompts)
        reasons = [*context.ignored[: MANY_REASONS - 2], *reasons]
        outcome = failed if not regions else "partial" if reasons else "ok"
        text = "; ".join(list(dict.fromkeys(reasons))[:MANY_REASONS]) or None
        if regions and self._tracking.on_prompt:
            more = attempt(
                request, "the other frames", self._carry_on, request, prompts[0].image, regions
            )
            tracked, progress = ([], more.text) if isinstance(more, Failure) else more
            regions, text = regions + tracked, text or progress
        status = self._status(request, prompts[0].image, prompts[0].item_index, text)
        return Reply(regions + status, outcome)

    def _answer_in_time(
        self, request: Request, prompts: Sequence[ObjectPrompt]
    ) -> tuple[Results, list[str], str]:
        """The regions of those prompts that there is time for; why there are not more; and the
        outcome if there are none. The first prompt has all the time."""
        deadline, begin_by = reply_by(self._budget), reply_by(BEGIN_BY * self._budget)
        regions: Results = []
        reasons: list[str] = []
        failed, done = "error", 0
        for prompt in prompts:
            if done and time.monotonic() > begin_by:
                break
            answer = attempt(request, "this prompt", self._answer, request, prompt, deadline)
            if isinstance(answer, Failure):
                if done and answer.outcome == "busy" and time.monotonic() > deadline:
                    break  # it had no time either
                reasons.append(answer.text)
                failed = answer.outcome
            elif answer:
                regions += answer
            else:
                reasons.append("no object there; try another spot or a box")
            done += 1
        left = len(prompts) - done
        if left:
            reasons.insert(0, f"{left} of {counted(len(prompts), 'prompt')} had no time: left out")
        return regions, reasons, failed

    def _answer(self, request: Request, prompt: ObjectPrompt, deadline: float) -> Results:
        """The regions that answer one prompt; none where no object is there."""
        # Decode: the points of a prompt may correct the box before them.
        region = region_id(prompt, owner=request.owner or "")
        known = self._recent.box_for(request, prompt)
        if known is not None:
            box, region = known
            prompt = replace(prompt, box=box)
        correction = self._correction(request, prompt)
        if correction is not None:
            return self._corrected(request, prompt, correction, deadline)
        if not prompt.has_positive:
            raise OnlyBackground(
                "Alt+click marks what is not the object; click on the object first"
            )
        # Predict.
        answer = self._segmenter.answer_click(request, prompt, deadline)
        # Encode: on a page of a track, the mask corrects the object that it is of.
        region, replaced = self._tracked_region(request, prompt, answer.mask) or (region, [])
        self._recent.remember_box(request, prompt, region)
        regions = self._segmenter.regions(prompt, answer, request.config, region)
        self._recent.remember_sent(request, regions)
        return regions + replaced if regions else []

    def _correction(self, request: Request, prompt: ObjectPrompt) -> Correction | None:
        """The object of a tracked page that clicks are meant for."""
        sequence = None
        if prompt.points and prompt.box is None and prompt.shape is None:
            sequence = self._sequence(request, prompt.image)
        if sequence is None:
            return None
        shown = Corrections(sequence, prompt.item_index or 0, self._recent.fresh(request))
        return shown.meant_by(prompt)

    def _corrected(
        self, request: Request, prompt: ObjectPrompt, correction: Correction, deadline: float
    ) -> Results:
        """The region of a tracked object on its page, improved by clicks."""
        region, seen = correction.region, correction.seen
        clicks = self._recent.corrections(request, prompt, region, seen.mask)
        prompt = replace(prompt, points=clicks)
        answer = self._segmenter.correct(request, prompt, seen, deadline)
        regions = self._segmenter.regions(prompt, answer, request.config, region)
        self._recent.remember_sent(request, regions)
        return regions + correction.replaced if regions else []

    def _tracked_region(
        self, request: Request, prompt: ObjectPrompt, mask: PackedMask
    ) -> tuple[str, Results] | None:
        """The region of a tracked object that a fresh mask on its page corrects, and what takes
        earlier ones away."""
        sequence = self._sequence(request, prompt.image)
        owner = sequence.corrected_object(prompt, mask.unpack()) if sequence is not None else None
        if sequence is None or owner is None:
            return None
        return sequence.correction(owner, prompt.item_index or 0)

    def _carry_on(
        self, request: Request, image: str, answer: Results
    ) -> tuple[Results, str | None]:
        """What tracking from an answer has found on other pages so far, and how far it is."""
        sequence = self._sequence(request, image)
        if sequence is None:
            return [], None
        fresh = self._recent.fresh(request)
        return self._tracking.sequences.carry_on(sequence, answer, fresh)

    def _sequence(self, request: Request, image: str) -> FrameSequence | None:
        tag = request.config.image(image)
        if tag is None or not tag.is_sequence:
            return None
        shown = {str(result["id"]) for result in self._recent.fresh(request)}
        look_by = max(reply_by(self._budget), time.monotonic() + SHORTEST_LOOK_S)
        return self._tracking.sequences.sequence(request, image, look_by, shown=shown)

    def _on_command(self, request: Request, command: TypedText) -> Reply:
        area = request.config.status_area(command.to_name, command.area)
        shared = area is not None and area.name == command.area
        if kept(command.entries, shared=True):
            self._recent.remember_note(request, command.area)
        parsed = parse_command(command.newest)
        if parsed.kind is TextKind.OWN or (parsed.kind is TextKind.NOTE and shared):
            return Reply([], "note")
        regions: Results = []
        text: str | None = NOTED
        outcome = "note"
        if parsed.kind.answered:
            done = attempt(request, "this request", self._carry_out, request, command, parsed)
            if isinstance(done, Failure):
                text, outcome = done.text, done.outcome
            else:
                (regions, text), outcome = done, "command"
        page = command.item_index
        status = status_results(text, request.config, command.to_name, page, command)
        return Reply(regions + status, outcome)

    def _carry_out(
        self, request: Request, command: TypedText, parsed: ParsedCommand
    ) -> tuple[Results, str | None]:
        """Regions, and the text for the text box; None empties it."""
        if parsed.word is None:
            return [], unknown_command(parsed.text)
        done: tuple[Results, str | None]
        if parsed.word is Word.FIND:
            fresh = self._recent.fresh(request)
            regions, text = self._find.on_picture(request, parsed, command, fresh)
            self._recent.remember_sent(request, regions)
            return regions, text
        if parsed.word is Word.EVERYTHING:
            return self._everything.on_picture(request, parsed, command)
        sequence = self._sequence(request, command.to_name)
        if sequence is not None:
            fresh, page = self._recent.fresh(request), command.item_index
            done = self._tracking.sequences.command(sequence, parsed, fresh, page)
        elif parsed.word is Word.HELP:
            done = [], HELP
        elif parsed.word is Word.STATUS:
            done = [], self._engine.status().detail
        elif parsed.word is Word.CLEAR:
            done = [], None
        else:
            done = [], "there is nothing to track on a single picture"
        if parsed.word is Word.CLEAR:
            self._recent.forget_boxes(request)
        return done

    def _status(self, request: Request, image: str, page: int | None, text: str | None) -> Results:
        """``text`` for the text area of ``image`` (None empties it), unless a note of the
        annotator is there."""
        area = request.config.status_area(image)
        if area is None or (not area.read_only and self._recent.has_note(request, area.name)):
            return []
        return status_results(text, request.config, image, page)


def attempt(
    request: Request, what: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T | Failure:
    """What ``call`` returns, or why it failed, which is logged: the editor would hide a 500.

    Args:
        what: what cannot be answered if it fails ("this prompt").
    """
    try:
        return call(*args, **kwargs)
    except ExpectedError as error:
        logger.warning("task %s: %s is not answered: %s", request.task_id, what, error)
        return Failure(str(error), "busy" if isinstance(error, Busy) else "error")
    except Exception:  # request boundary
        logger.exception("task %s: %s could not be answered", request.task_id, what)
        text = f"the backend failed on {what}; its log says why{log_place()}"
        return Failure(text, "defect")
