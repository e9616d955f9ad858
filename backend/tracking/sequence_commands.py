"""The commands of the text box on frame sequences, and the jobs behind them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from backend.engine.pixel_prompts import PixelPrompt, pixel_prompt
from backend.labelstudio.commands import TRACK_HELP, ParsedCommand, TextKind, Word
from backend.labelstudio.json_values import mappings
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.prompts import ObjectPrompt, prompts_from_context
from backend.labelstudio.tags import LabelConfig
from backend.pixels.pages import ImageSequence
from backend.tracking.review import doubts, progress, ranges
from backend.tracking.runner import Goal, Work
from backend.tracking.sequence import FrameSequence, SequenceObject, by_id
from backend.tracking.spans import Direction, plan_spans
from backend.tracking.store import Job, TrackedMask
from backend.tracking.workshop import Workshop

FETCH_SECONDS = 120.0  # for one page of a sequence, inside a job
MANY_MASKS = 100  # brush masks cost the browser 60-85 ms each at 720p
MANY_PIXELS = 640 * 480

TRACK = ParsedCommand(TextKind.COMMAND, Word.TRACK, "track")

Results = list[dict[str, Any]]
Reply = tuple[Results, str | None]


class SequenceCommands:
    """Answers ``track``, ``status``, ``stop``, ``redo`` and ``clear`` on frame sequences."""

    kind = "sequence"

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._parse = lru_cache(maxsize=16)(parse_label_config)

    def sequence(
        self, project: str, task: Mapping[str, Any], label_config: str, image: str
    ) -> FrameSequence:
        """The sequence that the Image tag called ``image`` shows for ``task``.

        Raises:
            MissingMedia: the label config has no such tag.
        """
        config = self._parse(label_config)
        tag = config.image(image)
        if tag is None:
            raise MissingMedia(f"the label config has no <Image name={image}>")
        version = self._shop.engine.family
        return FrameSequence(project, task, label_config, config, tag, version, self._shop.store)

    def command(self, sequence: FrameSequence, parsed: ParsedCommand, fresh: Results) -> Reply:
        """Carry a command out.

        Args:
            fresh: results sent to the editor in the last seconds, which its draft may not
                hold yet.

        Returns:
            Regions for the editor, and the text for the text box (None empties it).

        Raises:
            MissingMedia: the task has no such sequence.
        """
        saved = sequence.saved_results()
        match parsed.word:
            case Word.TRACK | Word.REDO:
                return self._track(sequence, parsed, _with_fresh(saved, fresh))
            case Word.STATUS:
                return self._status(sequence, saved)
            case Word.STOP:
                stopped = self._shop.cancel(sequence.track)
                return [], "stopped; what is done stays" if stopped else "nothing is being tracked"
            case Word.CLEAR:
                self._shop.cancel(sequence.track)
                self._shop.store.forget(sequence.track)
                return [], None
        return [], TRACK_HELP

    def plan(
        self, sequence: FrameSequence, parsed: ParsedCommand, results: Results
    ) -> tuple[str, dict[str, Any]] | str:
        """The track and the request of the job that carries the marks in ``results`` on, for
        ``JobRunner.submit``; or why there is none."""
        objects = sequence.objects(results)
        request = _job_request(sequence, objects, results, parsed)
        if isinstance(request, str):
            return request
        sequence.remember(objects)
        return sequence.track, request

    def _track(self, sequence: FrameSequence, parsed: ParsedCommand, results: Results) -> Reply:
        objects = sequence.objects(results)
        request = _job_request(sequence, objects, results, parsed)
        if isinstance(request, str):
            return [], request
        if parsed.word is Word.REDO:
            self._shop.cancel(sequence.track)
            self._shop.store.forget_masks(sequence.track)
        sequence.remember(objects)
        job = self._shop.run(sequence.track, request)
        return self._reply(sequence, objects, results, job)

    def carry_on(self, sequence: FrameSequence, answer: Results, fresh: Results) -> Reply:
        """Track on, in the background, from prompts that have just been answered.

        A job that they change is stopped after the frame that it is at; what it found and the
        prompts leave as it is stays.

        Args:
            answer: the regions of the answer.
            fresh: see ``command``.

        Returns:
            Regions and text as ``command``: what is found so far.

        Raises:
            MissingMedia: the task has no such sequence.
        """
        changed = {str(result.get("id")) for result in answer}
        saved = [each for each in sequence.saved_results() if str(each.get("id")) not in changed]
        shown = [result for result in answer if not result.get("dynamic")]
        results = _with_fresh([*saved, *shown], fresh)
        objects = sequence.objects(results)
        request = _job_request(sequence, objects, results, TRACK)
        if isinstance(request, str):
            return [], None
        sequence.remember(objects)
        job = self._shop.begin(sequence.track, request)
        return self._reply(sequence, objects, results, job)

    def _status(self, sequence: FrameSequence, saved: Results) -> Reply:
        jobs = self._shop.store.jobs(track=sequence.track)
        if not jobs:
            return [], self._shop.engine.status().detail
        return self._reply(sequence, sequence.objects(saved), saved, jobs[0])

    def _reply(
        self,
        sequence: FrameSequence,
        objects: Sequence[SequenceObject],
        saved: Results,
        job: Job,
    ) -> tuple[Results, str]:
        """The masks of pages that no human marked and the editor does not show yet."""
        human = {(each.id, page) for each in objects for page in each.prompts}
        shown = by_id(saved)
        regions: Results = []
        found = list(self._shop.store.masks(sequence.track))
        for mask in found:
            if mask.prompted or (mask.object_id, mask.frame) in human:
                continue
            if mask.object_id not in sequence.known:
                continue
            regions += sequence.update(mask, shown)
        left = self._shop.jobs.seconds_left(job)
        return regions, _status_text(sequence.pages, job, left, found, regions)

    def open(self, request: Mapping[str, Any]) -> Work:
        """See ``jobs.Opener``."""
        sequence = self._sequence_of(request)
        pages = [partial(self._page, sequence, index) for index in range(sequence.pages)]
        frames = ImageSequence(pages)
        goals = [self._goal(each, request, sequence.config, frames) for each in request["objects"]]
        return Work(frames, goals, frames.page_size, frames.close, request.get("stride"))

    def _page(self, sequence: FrameSequence, index: int) -> np.ndarray:
        deadline = time.monotonic() + FETCH_SECONDS
        return self._shop.images.source(sequence.task, sequence.tag, index, deadline).load()

    def _sequence_of(self, request: Mapping[str, Any]) -> FrameSequence:
        names = ("project", "task", "label_config", "image")
        return self.sequence(*(request[name] for name in names))

    def _goal(
        self,
        described: Mapping[str, Any],
        request: Mapping[str, Any],
        config: LabelConfig,
        frames: ImageSequence,
    ) -> Goal:
        prompts: dict[int, PixelPrompt] = {}
        digests: dict[int, str] = {}
        for page, results in described["prompts"].items():
            [prompt, *_] = prompts_from_context({"result": results}, config).objects
            # Pages are tracked at the size of the first one; percentages hold for any size.
            prompts[int(page)] = pixel_prompt(prompt, frames.width, frames.height)
            digests[int(page)] = _digest(prompts[int(page)])
        spans = plan_spans(
            prompts,
            first=request["first"],
            last=request["last"],
            direction=Direction(request["direction"]),
        )
        answers = [
            page
            for page, prompt in prompts.items()
            if prompt.mask is None and request["first"] <= page <= request["last"]
        ]
        return Goal(described["id"], prompts, digests, spans, answers)

    def outcome(self, job: Job) -> tuple[Results, list[float]]:
        """What was tracked of the job's objects, and the marks it follows from, with the masks'
        scores. A box or clicks are shown by their mask, what a human drew as it is."""
        sequence = self._sequence_of(job.request)
        marks = {
            (described["id"], int(page)): items
            for described in job.request["objects"]
            for page, items in described["prompts"].items()
        }
        objects = {described["id"] for described in job.request["objects"]}
        results: Results = []
        scores: list[float] = []
        for mask in self._shop.store.masks(job.track):
            place = mask.object_id, mask.frame
            if mask.object_id not in objects:
                continue  # of an earlier job
            if place in marks and not (mask.prompted and _asks(marks[place], sequence.config)):
                continue
            made = sequence.results(mask)
            results += made
            scores += [mask.iou] if made else []
            if made:
                marks.pop(place, None)
        for items in marks.values():
            results += items
        return results, scores


def _with_fresh(saved: Results, fresh: Results) -> Results:
    """The draft, and what was answered since: it reaches the draft about 5 seconds later."""
    ids = {str(result.get("id")) for result in saved}
    return [*saved, *(result for result in fresh if str(result.get("id")) not in ids)]


def _job_request(
    sequence: FrameSequence,
    objects: Sequence[SequenceObject],
    results: Results,
    parsed: ParsedCommand,
) -> dict[str, Any] | str:
    """The job's request, or why there is none."""
    if not objects:
        return "nothing is marked yet: click on an object first, then track"
    last_page = sequence.pages - 1
    first, last = parsed.frames or (0, last_page)
    if first > last or first > last_page:
        return f"there is no range {first}-{last}: the frames are 0-{last_page}"
    direction = Direction(parsed.direction or ("both" if parsed.frames else "forward"))
    request = _request(sequence, objects, results, first, min(last, last_page), direction)
    return request if parsed.stride is None else {**request, "stride": parsed.stride}


def _request(
    sequence: FrameSequence,
    objects: Sequence[SequenceObject],
    results: Results,
    first: int,
    last: int,
    direction: Direction,
) -> dict[str, Any]:
    """Everything a job needs to run, now or after a restart, as JSON."""
    return {
        "kind": SequenceCommands.kind,
        "project": sequence.project,
        "task": {"id": sequence.task.get("id"), "data": dict(sequence.data)},
        "label_config": sequence.label_config,
        "image": sequence.tag.name,
        "objects": [
            {
                "id": each.id,
                "prompts": {
                    str(page): _items(prompt, results) for page, prompt in each.prompts.items()
                },
            }
            for each in objects
        ],
        "first": first,
        "last": last,
        "direction": direction,
    }


def _items(prompt: ObjectPrompt, results: Results) -> Results:
    """The result items that ``prompt`` was read from."""
    return [dict(item) for item in mappings(results) if item.get("id") in prompt.source_ids]


def _asks(items: Results, config: LabelConfig) -> bool:
    """Whether a mark is a box or clicks, and not a shape that a human drew."""
    return all(p.shape is None for p in prompts_from_context({"result": items}, config).objects)


def _digest(prompt: PixelPrompt) -> str:
    """Names what a prompt says; the editor encodes the same mask in other bytes at times."""
    found = hashlib.sha256()
    for part in (prompt.points, prompt.positive, prompt.box, prompt.mask):
        array = np.zeros(0) if part is None else np.ascontiguousarray(part)
        found.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()[:16]


def _status_text(
    pages: int, job: Job, left: float | None, found: Sequence[TrackedMask], regions: Results
) -> str:
    parts = [progress(job, (mask.frame for mask in found), pages, left)]
    look = sorted({doubt.frame for doubt in doubts(found)})
    if look:
        parts.append(f"look at {ranges(look)}")
    brushes = sum(
        region.get("type") == "brushlabels" and not region.get("dynamic") for region in regions
    )
    if brushes > MANY_MASKS and found[0].mask.height * found[0].mask.width > MANY_PIXELS:
        parts.append(f"{brushes} brush masks make the editor slow: BitmaskLabels or a range help")
    return "; ".join(parts)
