"""Tracking as a whole: one store, one job runner, and what may be tracked."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from backend.engine.engine import Engine
from backend.expected import counted
from backend.job_state import JobState
from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.json_values import Result
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.write_results import with_note
from backend.pixels.pixel_resolver import PixelResolver
from backend.tracking.database import StoreError
from backend.tracking.delivery import Deliveries
from backend.tracking.purge import Housekeeping
from backend.tracking.runner import JobRunner, Work
from backend.tracking.sequence_commands import SequenceCommands
from backend.tracking.store import Job, TrackStore
from backend.tracking.track_commands import JobRequest, TrackCommands
from backend.tracking.video_commands import VideoCommands

logger = logging.getLogger(__name__)


class JobKind(Protocol):
    """What can be asked for in a job; ``kind`` stands in its request."""

    kind: str

    def open(self, task: ProjectTask, request: JobRequest) -> Work:
        """Turn a job's request into work.

        Raises:
            ExpectedError: why it cannot be done.
        """

    def outcome(self, task: ProjectTask, job: Job) -> tuple[Iterable[Result], list[float]]:
        """The results of a job as Label Studio takes them, and the masks' scores."""


class Tracking:
    """What may be tracked, and the jobs that do it.

    Args:
        label_studio: takes the results of jobs that outlive their request; None where there is
            none.
        budget_seconds: how long a reply may wait for frames.
        workers: jobs side by side.
        stride: track every n-th frame and interpolate those between, unless a command says so.
        on_prompt: track on, in the background, from every prompt on a frame sequence.
        kinds: of jobs, beside those of the text box.
        parse: reads a label config, from memory where a request has brought it already.
        keep_seconds: how long jobs and their masks stay after they ended.

    Attributes:
        store, jobs, deliveries, pixels, parse: the parts, for who shows them.
    """

    def __init__(
        self,
        store: TrackStore,
        engine: Engine,
        pixels: PixelResolver,
        label_studio: LabelStudioClient | None,
        *,
        budget_seconds: float,
        workers: int = 2,
        stride: int = 1,
        on_prompt: bool = False,
        kinds: Sequence[JobKind] = (),
        parse: Callable[[str], LabelConfig] = parse_label_config,
        keep_seconds: float = math.inf,
    ) -> None:
        self.store = store
        self.on_prompt = on_prompt
        self.deliveries = Deliveries(store, self._deliver)
        self.jobs = JobRunner(
            store,
            engine,
            self._open,
            hand_over=self.deliveries.attempt,
            workers=workers,
            stride=stride,
        )
        commands = TrackCommands(store, engine, self.jobs, budget_seconds, self._retract)
        self.sequences = SequenceCommands(commands, pixels)
        self.videos = VideoCommands(commands, pixels.videos)
        self._housekeeping = Housekeeping(store.database, keep_seconds)
        self.pixels = pixels
        self.parse = parse
        self._engine = engine
        self._label_studio = label_studio
        of_text_box: list[JobKind] = [self.sequences, self.videos]
        self._kinds = {each.kind: each for each in [*of_text_box, *kinds]}

    def resume(self) -> None:
        """Take up what a stopped process left: unfinished jobs, and results not delivered; and keep
        the store small from here on."""
        self.deliveries.resume()  # first: a job that ends from here on is handed over by its thread
        try:
            self.jobs.resume()
        except StoreError as error:
            logger.error("jobs that were not finished cannot be looked up: %s", error)
        self._housekeeping.start()

    def close(self) -> None:
        """Stop after the frames under way; unfinished jobs go on at the next start."""
        self.jobs.close()
        self.deliveries.close()
        self._housekeeping.close()
        self.store.close()

    def outcome(self, job: Job) -> tuple[Iterable[Result], list[float]]:
        """The results of a job as Label Studio takes them, made as they are consumed, and the
        masks' scores.

        Raises:
            ExpectedError: what it is about cannot be had.
        """
        return self._kind(job.request).outcome(self._task(job.request), job)

    def _open(self, request: JobRequest) -> Work:
        return self._kind(request).open(self._task(request), request)

    def _kind(self, request: JobRequest) -> JobKind:
        return self._kinds[request.get("kind", SequenceCommands.kind)]

    def _task(self, request: JobRequest) -> ProjectTask:
        project, task, xml = (request[name] for name in ("project", "task", "label_config"))
        return ProjectTask(project, task, xml, self.parse(xml))

    def _deliver(self, job: Job) -> None:
        """Store the result of a job that outlived its request as a prediction of the task."""
        task_id = job.task
        label_studio = self._label_studio
        if label_studio is None or type(task_id) is not int:
            return
        outcome, scores = self.outcome(job)
        results = iter(outcome)
        if job.state is JobState.FAILED:
            line = f"stopped after {job.done} of {counted(job.total, 'mask')}: {job.message}"
            results = (with_note(result, line) for result in results)
        first = next(results, None)
        if first is not None:
            score = sum(scores) / len(scores) if scores else None
            stored = label_studio.create_prediction(
                task_id,
                itertools.chain([first], results),  # one at a time: all of them may be gigabytes
                model_version=self._engine.model_version,
                score=score,
            )
            logger.info("job %s: %d masks stored for task %s", job.id, len(scores), task_id)
            number = stored.get("id")
            if isinstance(number, int):
                self._replace(job, number, label_studio)

    def _replace(self, job: Job, prediction: int, label_studio: LabelStudioClient) -> None:
        """Delete what earlier jobs stored of the objects that a prediction shows now."""
        for earlier in self.store.replace_predictions(job.track, prediction, _objects(job)):
            _delete(earlier, label_studio)

    def _retract(self, job: Job) -> None:
        """The editor has all of a job: what is stored of it, or would be, is no use any more."""
        self.store.settle(job.id)
        for number in self.store.forget_predictions(job.track, _objects(job)):
            if self._label_studio is not None:
                _delete(number, self._label_studio)


def _objects(job: Job) -> list[str]:
    return [str(each.get("id")) for each in job.request.get("objects", ())]


def _delete(prediction: int, label_studio: LabelStudioClient) -> None:
    try:
        label_studio.delete_prediction(prediction)
    except LabelStudioError as error:
        logger.warning("the outdated prediction %d remains: %s", prediction, error)
