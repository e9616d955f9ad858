"""The commands of the text box on frame sequences, and the jobs behind them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from backend.engine.pixel_prompts import PixelPrompt, UnusableShape, pixel_prompt
from backend.expected import counted
from backend.job_state import JobState
from backend.labelstudio.commands import ParsedCommand, Word
from backend.labelstudio.json_values import Result, Results
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import prompts_from_context
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.timing import page_index, page_number
from backend.pixels.pixel_resolver import PixelResolver
from backend.pixels.recipes import Pages, Picture
from backend.tracking.owners import NO_DRAFT
from backend.tracking.review import Found, report
from backend.tracking.runner import Work
from backend.tracking.sequence import FrameSequence, SequenceObject, by_id
from backend.tracking.spans import plan_goal
from backend.tracking.store import Job, Sighting
from backend.tracking.track_commands import (
    TRACK,
    JobRequest,
    TrackCommands,
    frames_asked_for,
    job_request,
)

MAX_REGIONS = 300  # in one reply: each costs the editor time, and the reply memory
MANY_MASKS = 100  # brush masks cost the browser 60-85 ms each at 720p
MANY_PIXELS = 640 * 480
MANY_OBJECTS = 500
JOB_SECONDS = 600.0  # for all masks and outlines that a job begins with

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
            nothing = "nothing is marked yet: click on an object first, then track"
            return "; ".join([nothing, *self.sequence.reasons_left_out()])
        if len(self.objects) > MANY_OBJECTS:
            return (
                f"{len(self.objects)} objects are marked, and {MANY_OBJECTS} can be tracked at "
                "once: take marks away"
            )
        asked = frames_asked_for(parsed, page_number(0), self.sequence.pages, "pages")
        if isinstance(asked, str):
            return asked
        frames = (page_index(number) for number in asked)
        self.sequence.remember(self.objects)
        results = by_id(self.results)
        return {
            **job_request(self.sequence.task, parsed, *frames),
            "kind": SequenceCommands.kind,
            "image": self.sequence.tag.name,
            "objects": [self._as_json(each, results) for each in self.objects],
        }

    def _as_json(self, marked: SequenceObject, results: Mapping[str, Results]) -> dict[str, Any]:
        """An object with the result items that its prompts were read from."""
        prompts = {
            str(page): [item for name in prompt.source_ids for item in results.get(name, ())]
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

    def sequence(
        self,
        task: ProjectTask,
        image: str,
        look_by: float | None = None,
        *,
        track: str | None = None,
        shown: Iterable[str] = (),
        alone: Iterable[str] = (),
    ) -> FrameSequence:
        """The sequence that the Image tag called ``image`` shows for ``task``.

        Args:
            look_by: when to look at no more regions, on ``time.monotonic``; where None, after the
                time that a job has.
            track, shown, alone: see ``FrameSequence``.

        Raises:
            MissingMedia: the label config has no such tag.
        """
        tag = task.config.image(image)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={image}>")
        family = self._commands.engine.family
        if look_by is None:
            look_by = time.monotonic() + JOB_SECONDS
        decode = self._pixels.masks(max(look_by - time.monotonic(), 0.0))
        ids = frozenset(shown), frozenset(alone)
        return FrameSequence(task, tag, family, self._store, decode, track, *ids, look_by)

    def command(
        self,
        sequence: FrameSequence,
        parsed: ParsedCommand,
        fresh: Results,
        page: int | None = None,
    ) -> Reply:
        """Carry a command out.

        Args:
            fresh: results sent to the editor in the last seconds, which its draft may not
                hold yet.
            page: at which the editor is, where the request says so.

        Raises:
            MissingMedia: the task has no such sequence.
        """
        if sequence.found is None and parsed.word is not Word.HELP:
            return [], NO_DRAFT
        saved = sequence.saved_results()
        if parsed.word is not Word.STATUS:
            saved = _with_fresh(saved, fresh)
        marked = _Marked(sequence, saved)
        done = self._commands.carry_out(parsed, sequence.track, lambda: marked.plan(parsed))
        if not isinstance(done, Job):
            return [], done
        return self._show(marked, done, _page_at_hand(marked, fresh) if page is None else page)

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
        if sequence.found is None:
            sequence = replace(sequence, shown=sequence.shown | changed)
        saved = [each for each in sequence.saved_results() if str(each.get("id")) not in changed]
        shown = [result for result in answer if not result.get("dynamic")]
        marked = _Marked(sequence, _with_fresh([*saved, *shown], fresh))
        request = marked.plan(TRACK)
        if isinstance(request, str):
            return [], None
        job = self._commands.run_instead(sequence.track, request)
        return self._show(marked, job, _page_at_hand(marked, answer))

    def _show(self, marked: _Marked, job: Job, page: int) -> Reply:
        """The masks of pages that no human marked and the editor does not show yet, those nearest
        to ``page`` first and at most ``MAX_REGIONS``, and how far the job is."""
        sequence = marked.sequence
        human = {(each.id, page) for each in marked.objects for page in each.prompts}
        human |= sequence.left_out  # it may be a mark, too
        found = self._store.sightings(sequence.track)
        shown = sequence.places(marked.results)
        wanted = [
            each
            for each in found
            if not each.prompted
            and (place := (each.object_id, each.frame)) not in human
            and each.object_id in sequence.known
            and (each.area or place in shown)
        ]
        wanted.sort(key=lambda each: (abs(each.frame - page), each.frame, each.object_id))
        regions, left = self._regions(marked, wanted, shown)
        text = report(
            job,
            found,
            sequence.pages,
            self._commands.jobs.seconds_left(job),
            shown_as=page_number,
            unit="page",
            marked=(page for each in marked.objects for page in each.prompts),
        )
        if job.state is JobState.DONE and not left:
            self._commands.retract(job)
        if left:
            rest = f"type status for those next nearest to page {page_number(page)}"
            text += f"; {counted(left, 'mask is', 'masks are')} not shown yet: {rest}"
        left_out = "".join(f"; {reason}" for reason in sequence.reasons_left_out())
        return regions, text + _warn_of_brushes(found, regions) + left_out

    def _regions(
        self, marked: _Marked, wanted: Sequence[Sighting], shown: Collection[tuple[str, int]]
    ) -> tuple[Results, int]:
        """The regions that show what is ``wanted``, and how many masks are left for later."""
        sequence, saved = marked.sequence, by_id(marked.results)
        regions: Results = []
        ids: set[str] = set()
        for number, each in enumerate(wanted):
            mask = self._store.mask(sequence.track, each.object_id, each.frame)
            if mask is None:
                continue  # replaced or cleared meanwhile
            is_shown = (each.object_id, each.frame) in shown
            made = sequence.update(mask, saved) if is_shown else sequence.results(mask)
            new = {str(item["id"]) for item in made}
            if len(ids | new) > MAX_REGIONS:
                left = wanted[number:]
                return regions, sum((o.object_id, o.frame) not in shown for o in left)
            ids |= new
            regions += made
        return regions, 0

    def open(self, task: ProjectTask, request: JobRequest) -> Work:
        """See ``JobKind``."""
        sequence = self.sequence(task, request["image"])
        tag, count = sequence.tag, sequence.pages
        pages = Pages(tuple(Picture.of(task, tag, page) for page in range(count)))
        with closing(self._pixels.frames(pages)) as frames:
            # Pages are tracked at the size of the first one; percentages hold for any size.
            size = frames.frame_size(0)
        goals = [
            plan_goal(each["id"], _prompts(each, sequence, *size), request)
            for each in request["objects"]
        ]
        return Work(pages, goals, request.get("stride"))

    def outcome(self, task: ProjectTask, job: Job) -> tuple[Iterator[Result], list[float]]:
        """What was tracked of the job's objects, and the marks it follows from, with the masks'
        scores. A box or clicks are shown by their mask, what a human drew as it is."""
        sequence = self.sequence(task, job.request["image"], track=job.track)
        marks = {
            (described["id"], int(page)): items
            for described in job.request["objects"]
            for page, items in described["prompts"].items()
        }
        objects = {described["id"] for described in job.request["objects"]}
        answered: list[Sighting] = []
        for found in self._store.sightings(job.track):
            place = found.object_id, found.frame
            if found.object_id not in objects or not found.area:
                continue  # of an earlier job, or absent
            if place in marks and not (found.prompted and _asks(marks[place], task.config)):
                continue
            answered.append(found)
            marks.pop(place, None)
        drawn = [item for items in marks.values() for item in items]
        return self._each(sequence, answered, drawn), [found.iou for found in answered]

    def _each(
        self, sequence: FrameSequence, answered: Sequence[Sighting], drawn: Results
    ) -> Iterator[Result]:
        """The regions of all masks, one mask at a time, and the marks as they are."""
        for found in answered:
            mask = self._store.mask(sequence.track, found.object_id, found.frame)
            if mask is not None:  # else cleared meanwhile
                yield from sequence.results(mask)
        yield from drawn


def _with_fresh(saved: Results, fresh: Results) -> Results:
    """The draft, and what was answered since: it reaches the draft about 5 seconds later."""
    ids = {str(result.get("id")) for result in saved}
    return [*saved, *(result for result in fresh if str(result.get("id")) not in ids)]


def _prompts(
    described: Mapping[str, Any], sequence: FrameSequence, width: int, height: int
) -> dict[int, PixelPrompt]:
    """By page, the prompts of an object in a job's request."""
    prompts = {}
    for page, results in described["prompts"].items():
        if time.monotonic() > sequence.look_by:
            raise UnusableShape(
                f"what is marked took more than {JOB_SECONDS / 60:.0f} minutes to draw: mark fewer "
                "at once, or draw with fewer corners"
            )
        [prompt, *_] = prompts_from_context({"result": results}, sequence.task.config).objects
        prompts[int(page)] = pixel_prompt(prompt, width, height, sequence.decode)
    return prompts


def _asks(items: Results, config: LabelConfig) -> bool:
    """Whether a mark is a box or clicks, and not a shape that a human drew."""
    return all(p.shape is None for p in prompts_from_context({"result": items}, config).objects)


def _page_at_hand(marked: _Marked, fresh: Results) -> int:
    """The page that the annotator looks at, as far as a request that does not say so shows: that
    of the newest answer, else the first that is marked."""
    pages = [each["item_index"] for each in fresh if type(each.get("item_index")) is int]
    marks = [page for each in marked.objects for page in each.prompts]
    return pages[-1] if pages else min(marks, default=0)


def _warn_of_brushes(found: Sequence[Found], regions: Results) -> str:
    brushes = sum(
        region.get("type") == "brushlabels" and not region.get("dynamic") for region in regions
    )
    if brushes <= MANY_MASKS or found[0].height * found[0].width <= MANY_PIXELS:
        return ""
    return f"; {brushes} brush masks make the editor slow: use BitmaskLabels, or track fewer frames"
