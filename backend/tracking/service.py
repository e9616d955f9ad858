"""The commands of the text box on frame sequences, and the jobs behind them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from backend.answers import to_pixels
from backend.engine.engine import Engine, PixelPrompt
from backend.labelstudio.commands import TRACK_HELP, ParsedCommand, Word
from backend.labelstudio.json_values import mappings
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.prompts import ObjectPrompt, prompts_from_context
from backend.labelstudio.tags import LabelConfig
from backend.task_images import TaskImages
from backend.tracking.jobs import Goal, JobRunner, Work
from backend.tracking.objects import SequenceObject
from backend.tracking.plan import Direction, plan_spans
from backend.tracking.review import doubts
from backend.tracking.sequence import FrameSequence
from backend.tracking.store import Job, JobState, TrackedMask, TrackStore
from backend.video import ImageSequence

logger = logging.getLogger(__name__)

FETCH_SECONDS = 120.0  # for one page of a sequence, inside a job
MANY_MASKS = 100  # LABEL_STUDIO: brush masks cost the browser 60-85 ms each at 720p
MANY_PIXELS = 640 * 480

Results = list[dict[str, Any]]


class Publisher(Protocol):
    """``LabelStudioClient`` as this module uses it."""

    def create_prediction(
        self, task: int, result: Results, *, model_version: str, score: float | None
    ) -> Any: ...


class SequenceTracking:
    """Answers ``track``, ``status``, ``stop``, ``redo`` and ``clear`` on frame sequences.

    Args:
        publisher: takes the result of jobs that outlive their request; None without a Label
            Studio to send them to.
        budget_seconds: how long a reply may wait for frames.
    """

    def __init__(
        self,
        store: TrackStore,
        engine: Engine,
        images: TaskImages,
        publisher: Publisher | None,
        *,
        budget_seconds: float,
        workers: int = 2,
    ) -> None:
        self.store = store
        self._engine = engine
        self._images = images
        self._publisher = publisher
        self._budget = budget_seconds
        self._parse = lru_cache(maxsize=16)(parse_label_config)
        self.jobs = JobRunner(store, engine, self._open, delivered=self._deliver, workers=workers)

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
        version = self._engine.model_version
        return FrameSequence(project, task, label_config, config, tag, version, self.store)

    def close(self) -> None:
        """Stop after the frames under way; unfinished jobs go on at the next start."""
        self.jobs.close()
        self.store.close()

    def command(
        self, sequence: FrameSequence, parsed: ParsedCommand, fresh: Results
    ) -> tuple[Results, str | None]:
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
                stopped = self._cancel(sequence)
                return [], "stopped; what is done stays" if stopped else "nothing is being tracked"
            case Word.CLEAR:
                self._cancel(sequence)
                self.store.forget(sequence.track)
                return [], None
        return [], TRACK_HELP

    def _track(
        self, sequence: FrameSequence, parsed: ParsedCommand, results: Results
    ) -> tuple[Results, str | None]:
        objects = sequence.objects(results)
        if not objects:
            return [], "nothing is marked yet: click on an object first, then track"
        last_page = sequence.pages - 1
        first, last = parsed.frames or (0, last_page)
        if first > last or first > last_page:
            return [], f"there is no range {first}-{last}: the frames are 0-{last_page}"
        direction = Direction(parsed.direction or ("both" if parsed.frames else "forward"))
        if parsed.word is Word.REDO:
            self._cancel(sequence)
            self.store.forget_masks(sequence.track)
        sequence.remember(objects)
        request = _request(sequence, objects, results, first, min(last, last_page), direction)
        job = self.jobs.submit(sequence.track, request)
        job = self.jobs.wait(job.id, self._budget)
        if not job.state.ended:
            self.store.update_job(job.id, deliver=True)
        return self._reply(sequence, objects, results, job)

    def _status(self, sequence: FrameSequence, saved: Results) -> tuple[Results, str | None]:
        jobs = self.store.jobs(track=sequence.track)
        if not jobs:
            return [], self._engine.status().detail
        return self._reply(sequence, sequence.objects(saved), saved, jobs[0])

    def _cancel(self, sequence: FrameSequence) -> bool:
        running = self.store.jobs(track=sequence.track, unfinished=True)
        for job in running:
            self.jobs.cancel(job.id)
        for job in running:
            self.jobs.wait(job.id, self._budget)
        return bool(running)

    def _reply(
        self,
        sequence: FrameSequence,
        objects: Sequence[SequenceObject],
        saved: Results,
        job: Job,
    ) -> tuple[Results, str]:
        """The masks of pages that no human marked and the editor does not show yet."""
        human = {(each.id, page) for each in objects for page in each.prompts}
        shown = {str(result.get("id")): result for result in saved}
        regions: Results = []
        found = list(self.store.masks(sequence.track))
        for mask in found:
            if (mask.object_id, mask.frame) in human or mask.object_id not in sequence.known:
                continue
            for region in sequence.results(mask):
                if not _same_region(shown.get(str(region["id"])), region):
                    regions.append(region)
        return regions, _status_text(sequence.pages, job, found, regions)

    def _open(self, request: Mapping[str, Any]) -> Work:
        """See ``jobs.Opener``."""
        sequence = self._sequence_of(request)
        pages = [partial(self._page, sequence, index) for index in range(sequence.pages)]
        frames = ImageSequence(pages)
        goals = [self._goal(each, request, sequence.config, frames) for each in request["objects"]]
        return Work(frames, goals, frames.page_size, frames.close)

    def _page(self, sequence: FrameSequence, index: int) -> np.ndarray:
        deadline = time.monotonic() + FETCH_SECONDS
        return self._images.source(sequence.task, sequence.tag, index, deadline).load()

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
            prompts[int(page)] = to_pixels(prompt, frames.width, frames.height)
            digests[int(page)] = _digest(results)
        spans = plan_spans(
            prompts,
            first=request["first"],
            last=request["last"],
            direction=Direction(request["direction"]),
        )
        return Goal(described["id"], prompts, digests, spans)

    def _deliver(self, job: Job) -> None:
        """Store the result of a job that outlived its request as a prediction of the task."""
        task_id = job.request["task"].get("id")
        if self._publisher is None or type(task_id) is not int:
            return
        sequence = self._sequence_of(job.request)
        results: Results = []
        scores: list[float] = []
        for mask in self.store.masks(job.track):
            made = sequence.results(mask)
            results += made
            scores += [mask.iou] if made else []
        for described in job.request["objects"]:
            for prompted in described["prompts"].values():
                results += prompted
        if results:
            score = sum(scores) / len(scores) if scores else None
            self._publisher.create_prediction(
                task_id, results, model_version=self._engine.model_version, score=score
            )
            logger.info("job %s: %d regions stored for task %s", job.id, len(results), task_id)


def _with_fresh(saved: Results, fresh: Results) -> Results:
    """The draft, and what was answered since: it reaches the draft about 5 seconds later."""
    ids = {str(result.get("id")) for result in saved}
    return [*saved, *(result for result in fresh if str(result.get("id")) not in ids)]


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


def _digest(results: Results) -> str:
    kept = [{key: item.get(key) for key in ("value", "is_positive")} for item in results]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _same_region(shown: Mapping[str, Any] | None, region: Mapping[str, Any]) -> bool:
    """Whether the editor shows just this already."""
    return shown is not None and shown.get("value") == region["value"]


def _status_text(pages: int, job: Job, found: Sequence[TrackedMask], regions: Results) -> str:
    parts = [_progress(pages, job, found)]
    look = sorted({doubt.frame for doubt in doubts(found)})
    if look:
        parts.append(f"look at {_ranges(look)}")
    brushes = sum(region.get("type") == "brushlabels" for region in regions)
    if brushes > MANY_MASKS and found[0].mask.size > MANY_PIXELS:
        parts.append(f"{brushes} brush masks make the editor slow: BitmaskLabels or a range help")
    return "; ".join(parts)


def _progress(pages: int, job: Job, found: Sequence[TrackedMask]) -> str:
    frames = _ranges(sorted({mask.frame for mask in found}))
    done = f"frames {frames} of {pages} done" if frames else "no frame done yet"
    match job.state:
        case JobState.FAILED:
            return f"{job.message}; {done}"
        case JobState.DONE:
            return done
        case JobState.CANCELLED:
            return f"stopped; {done}"
        case JobState.QUEUED:
            return f"{done}, waiting for other tracks; type status to see more"
    elapsed = max(time.time() - job.created, 0.001)
    left = elapsed / job.done * (job.total - job.done) if job.done else None
    wait = f", {left:.0f} s left" if left is not None else ""
    return f"{done}{wait}; type status to see more"


def _ranges(frames: Iterable[int], limit: int = 12) -> str:
    """Sorted numbers as "0-41, 43, 50-61"."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:limit]]
    return ", ".join(shown) + (", ..." if len(runs) > limit else "")
