"""The commands of the text box on frame sequences, and the jobs behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backend.engine.pixel_prompts import PixelPrompt, pixel_prompt
from backend.labelstudio.commands import ParsedCommand, Word
from backend.labelstudio.json_values import Results
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import prompts_from_context
from backend.labelstudio.tags import LabelConfig
from backend.pixels.pixel_resolver import PixelResolver
from backend.pixels.recipes import Pages, Picture
from backend.tracking.review import report
from backend.tracking.runner import Work, plan_goal
from backend.tracking.sequence import FrameSequence, SequenceObject, by_id
from backend.tracking.store import Job, TrackedMask
from backend.tracking.track_commands import (
    TRACK,
    JobRequest,
    TrackCommands,
    frames_asked_for,
    job_request,
)

MANY_MASKS = 100  # brush masks cost the browser 60-85 ms each at 720p
MANY_PIXELS = 640 * 480

Reply = tuple[Results, str | None]
"""Regions for the editor, and the text for the text box; None empties it."""


@dataclass(frozen=True)
class _Marked:
    """A sequence with what the editor holds of it."""

    sequence: FrameSequence
    results: Results

    @cached_property
    def objects(self) -> list[SequenceObject]:
        return self.sequence.objects(self.results)

    def plan(self, parsed: ParsedCommand) -> JobRequest | str:
        """The request of the job that a command asks for, or why there is none."""
        if not self.objects:
            return "nothing is marked yet: click on an object first, then track"
        frames = frames_asked_for(parsed, 0, self.sequence.pages - 1)
        if isinstance(frames, str):
            return frames
        self.sequence.remember(self.objects)
        return {
            **job_request(self.sequence.task, parsed, *frames),
            "kind": SequenceCommands.kind,
            "image": self.sequence.tag.name,
            "objects": [self._as_json(each) for each in self.objects],
        }

    def _as_json(self, marked: SequenceObject) -> dict[str, Any]:
        """An object with the result items that its prompts were read from."""
        prompts = {
            str(page): [item for item in self.results if item.get("id") in prompt.source_ids]
            for page, prompt in marked.prompts.items()
        }
        return {"id": marked.id, "prompts": prompts}


class SequenceCommands:
    """Answers ``track``, ``status``, ``stop``, ``redo`` and ``clear`` on frame sequences."""

    kind = "sequence"

    def __init__(self, commands: TrackCommands, pixels: PixelResolver) -> None:
        self._commands = commands
        self._store = commands.store
        self._pixels = pixels

    def sequence(self, task: ProjectTask, image: str) -> FrameSequence:
        """The sequence that the Image tag called ``image`` shows for ``task``.

        Raises:
            MissingMedia: the label config has no such tag.
        """
        tag = task.config.image(image)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={image}>")
        return FrameSequence(task, tag, self._commands.engine.family, self._store)

    def command(self, sequence: FrameSequence, parsed: ParsedCommand, fresh: Results) -> Reply:
        """Carry a command out.

        Args:
            fresh: results sent to the editor in the last seconds, which its draft may not
                hold yet.

        Raises:
            MissingMedia: the task has no such sequence.
        """
        saved = sequence.saved_results()
        if parsed.word is not Word.STATUS:
            saved = _with_fresh(saved, fresh)
        marked = _Marked(sequence, saved)
        done = self._commands.carry_out(parsed, sequence.track, lambda: marked.plan(parsed))
        return self._show(marked, done) if isinstance(done, Job) else ([], done)

    def plan(
        self, sequence: FrameSequence, parsed: ParsedCommand, results: Results
    ) -> tuple[str, JobRequest] | str:
        """The track and the request of the job that carries the marks in ``results`` on, for
        ``JobRunner.submit``; or why there is none."""
        request = _Marked(sequence, results).plan(parsed)
        return request if isinstance(request, str) else (sequence.track, request)

    def carry_on(self, sequence: FrameSequence, answer: Results, fresh: Results) -> Reply:
        """Track on, in the background, from prompts that have just been answered.

        A job that they change is stopped after the frame that it is at; what it found and the
        prompts leave as it is stays. For ``fresh`` see ``command``.

        Raises:
            MissingMedia: the task has no such sequence.
        """
        changed = {str(result.get("id")) for result in answer}
        saved = [each for each in sequence.saved_results() if str(each.get("id")) not in changed]
        shown = [result for result in answer if not result.get("dynamic")]
        marked = _Marked(sequence, _with_fresh([*saved, *shown], fresh))
        request = marked.plan(TRACK)
        if isinstance(request, str):
            return [], None
        return self._show(marked, self._commands.run_instead(sequence.track, request))

    def _show(self, marked: _Marked, job: Job) -> Reply:
        """The masks of pages that no human marked and the editor does not show yet, and how far
        the job is."""
        sequence = marked.sequence
        human = {(each.id, page) for each in marked.objects for page in each.prompts}
        shown = by_id(marked.results)
        regions: Results = []
        found = self._store.masks(sequence.track)
        for mask in found:
            by_human = mask.prompted or (mask.object_id, mask.frame) in human
            if not by_human and mask.object_id in sequence.known:
                regions += sequence.update(mask, shown)
        left = self._commands.jobs.seconds_left(job)
        text = report(job, found, sequence.pages, left)
        return regions, text + _warn_of_brushes(found, regions)

    def open(self, task: ProjectTask, request: JobRequest) -> Work:
        """See ``JobKind``."""
        sequence = self.sequence(task, request["image"])
        tag, count = sequence.tag, sequence.pages
        pages = Pages(tuple(Picture.of(task, tag, page) for page in range(count)))
        with closing(self._pixels.frames(pages)) as frames:
            # Pages are tracked at the size of the first one; percentages hold for any size.
            size = frames.frame_size(0)
        goals = [
            plan_goal(each["id"], _prompts(each, task.config, *size), request)
            for each in request["objects"]
        ]
        return Work(pages, goals, request.get("stride"))

    def outcome(self, task: ProjectTask, job: Job) -> tuple[Results, list[float]]:
        """What was tracked of the job's objects, and the marks it follows from, with the masks'
        scores. A box or clicks are shown by their mask, what a human drew as it is."""
        sequence = self.sequence(task, job.request["image"])
        marks = {
            (described["id"], int(page)): items
            for described in job.request["objects"]
            for page, items in described["prompts"].items()
        }
        objects = {described["id"] for described in job.request["objects"]}
        results: Results = []
        scores: list[float] = []
        for mask in self._store.masks(job.track):
            place = mask.object_id, mask.frame
            if mask.object_id not in objects:
                continue  # of an earlier job
            if place in marks and not (mask.prompted and _asks(marks[place], task.config)):
                continue
            made = sequence.results(mask)
            if made:
                results += made
                scores.append(mask.iou)
                marks.pop(place, None)
        for items in marks.values():
            results += items
        return results, scores


def _with_fresh(saved: Results, fresh: Results) -> Results:
    """The draft, and what was answered since: it reaches the draft about 5 seconds later."""
    ids = {str(result.get("id")) for result in saved}
    return [*saved, *(result for result in fresh if str(result.get("id")) not in ids)]


def _prompts(
    described: Mapping[str, Any], config: LabelConfig, width: int, height: int
) -> dict[int, PixelPrompt]:
    """By page, the prompts of an object in a job's request."""
    prompts = {}
    for page, results in described["prompts"].items():
        [prompt, *_] = prompts_from_context({"result": results}, config).objects
        prompts[int(page)] = pixel_prompt(prompt, width, height)
    return prompts


def _asks(items: Results, config: LabelConfig) -> bool:
    """Whether a mark is a box or clicks, and not a shape that a human drew."""
    return all(p.shape is None for p in prompts_from_context({"result": items}, config).objects)


def _warn_of_brushes(found: Sequence[TrackedMask], regions: Results) -> str:
    brushes = sum(
        region.get("type") == "brushlabels" and not region.get("dynamic") for region in regions
    )
    if brushes <= MANY_MASKS or found[0].mask.height * found[0].mask.width <= MANY_PIXELS:
        return ""
    return f"; {brushes} brush masks make the editor slow: use BitmaskLabels, or track fewer frames"
