"""Requests without a context: a page that opens a task, and "Retrieve predictions".

Both ask "what do you predict for these tasks?" and look alike on the wire. Label Studio
1.23 asks on opening only for a single task that has no prediction yet
(``label_studio/tasks/api.py``, ``TaskAPI.get``), so several tasks, or one that has
predictions, are certainly a retrieval and get its whole time budget. A single task without
predictions may be a page that waits: it gets ``open_seconds``; what is not done by then goes
on in the background and is there when Label Studio asks again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from backend.engine.pixel_prompts import UnusableShape
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.job_state import JobState
from backend.labelstudio.json_values import Results
from backend.labelstudio.model_names import shown_version
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, prompts_from_task
from backend.labelstudio.write_results import region_id
from backend.predict.segment import Segmenter
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy
from backend.tracking.store import Job
from backend.tracking.tracking import Tracking

logger = logging.getLogger(__name__)

Prediction = dict[str, Any]
Scored = tuple[Results, list[float]]
"""Results, and the scores of the masks that they are from."""

PREFETCH_SECONDS = 120.0
MAX_PREFETCHES = 8
WORTH_WAITING = 2  # videos of one request


@dataclass(frozen=True)
class Found:
    """What came of a task.

    Attributes:
        prediction: as Label Studio takes it; None where there is nothing.
        errors: of the pages that could not be predicted.
        jobs: the tracks that the prediction is from.
    """

    prediction: Prediction | None = None
    errors: Sequence[Exception] = ()
    jobs: Sequence[Job] = ()


class Retrieval:
    """Predictions for whole tasks, and encoding ahead of the first click.

    Args:
        model_version: of the model that answers now.
        open_seconds: longest wait of a page that opens a task.
        retrieve_seconds: longest wait of "Retrieve predictions".
    """

    def __init__(
        self,
        segmenter: Segmenter,
        tracking: Tracking,
        *,
        model_version: Callable[[], str],
        open_seconds: float,
        retrieve_seconds: float,
    ) -> None:
        self._segmenter = segmenter
        self._tracking = tracking
        self._version = model_version
        self._open_seconds = open_seconds
        self._retrieve_seconds = retrieve_seconds
        self._pool = FairPool(4, "retrieve")
        # Of their own: encoding ahead waits for everything else, and must let nobody wait for it.
        self._ahead = FairPool(4, "ahead", capacity=MAX_PREFETCHES)

    def reply(self, tasks: Sequence[ProjectTask]) -> tuple[list[Any], str]:
        """One entry per task, in order: a prediction, or an empty list where there is none; and
        what the request is, "open" or "retrieve".

        An empty list stores nothing in Label Studio; an empty prediction would be shown. Boxes on
        videos are tracked only where the request is certainly a retrieval; a track that takes
        longer than the request is stored as a prediction when it is done.
        """
        retrieval = len(tasks) > 1 or any(task.task.get("predictions") for task in tasks)
        kind = "retrieve" if retrieval else "open"
        if retrieval and tasks[0].config.video_rectangles:
            return self._track_all(tasks), kind
        prompts = [prompts_from_task(task.task, task.config) for task in tasks]
        if tasks and not retrieval and not prompts[0]:
            self._prefetch(tasks[0])
        deadline = time.monotonic() + self._retrieve_seconds
        asked = {
            number: self._submit(task, partial(self.predict, task, found, deadline))
            for number, (task, found) in enumerate(zip(tasks, prompts, strict=True))
            if found
        }
        seconds = self._retrieve_seconds if retrieval else self._open_seconds
        results, late = _in_time(asked, len(tasks), seconds)
        for each in late:
            each.cancel()  # not begun: asked again, it gets its turn
        return results, kind

    def predict(self, task: ProjectTask, prompts: Sequence[ObjectPrompt], deadline: float) -> Found:
        """Masks for ``prompts``, page by page; a page that fails spoils no other.

        Args:
            deadline: on ``time.monotonic``.
        """
        made: list[Scored] = []
        errors: list[Exception] = []
        for _, page in groupby(sorted(prompts, key=_page), key=_page):
            try:
                self._predict_page(task, list(page), deadline, made, errors)
            except Exception as error:  # noqa: BLE001 - logged or raised by whoever asked
                errors.append(error)
        return Found(self._prediction(made), errors)

    def close(self) -> None:
        """Stop; what runs is abandoned."""
        for pool in (self._pool, self._ahead):
            pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, task: ProjectTask, find: Callable[[], Found]) -> Future[Found]:
        """Begin to find what there is of ``task``; what goes wrong is logged."""

        def run() -> Found:
            try:
                found = find()
            except Exception as error:  # noqa: BLE001 - one task must not spoil the others
                found = Found(errors=[error])
            for reason in found.errors:
                if isinstance(reason, ExpectedError):
                    logger.warning("task %s: not predicted: %s", task.task_id, reason)
                else:
                    logger.error("task %s: not predicted", task.task_id, exc_info=reason)
            return found

        return self._pool.submit(run)

    def _predict_page(
        self,
        task: ProjectTask,
        prompts: list[ObjectPrompt],
        deadline: float,
        made: list[Scored],
        errors: list[Exception],
    ) -> None:
        """Add what the page gives to ``made``, and what cannot be used to ``errors``."""
        answers = self._segmenter.answer(task, prompts, Priority.RETRIEVE, deadline)
        for prompt, answer in zip(prompts, answers, strict=True):
            if isinstance(answer, UnusableShape):
                errors.append(answer)
                continue
            regions = self._segmenter.regions(prompt, answer, task.config, region_id(prompt))
            made.append((regions, [answer.score] if regions else []))

    def _prediction(self, made: Sequence[Scored]) -> Prediction | None:
        regions = [region for results, _ in made for region in results]
        scores = [score for _, of_results in made for score in of_results]
        if not regions:
            return None
        score = sum(scores) / len(scores) if scores else 0.0
        version = shown_version(self._version())
        return {"result": regions, "score": score, "model_version": version}

    def _track_all(self, tasks: Sequence[ProjectTask]) -> list[Any]:
        """All begin now; only few are worth waiting for, the others are stored one by one."""
        patient = len(tasks) <= WORTH_WAITING
        asked = {
            number: self._submit(task, partial(self._track, task, patient))
            for number, task in enumerate(tasks)
        }
        results, late = _in_time(asked, len(tasks), self._retrieve_seconds)
        for each in late:
            each.add_done_callback(self._store_late)
        return results

    def _store_late(self, asked: Future[Found]) -> None:
        """What missed the reply is stored as the results of longer tracks are."""
        if not asked.cancelled():
            for job in asked.result().jobs:
                self._tracking.deliveries.promise(job)

    def _track(self, task: ProjectTask, patient: bool) -> Found:
        jobs = self._tracking.videos.retrieve(task, patient=patient)
        done = [job for job in jobs if job.state is JobState.DONE]
        outcomes = [self._tracking.outcome(job) for job in done]
        prediction = self._prediction([(list(results), scores) for results, scores in outcomes])
        return Found(prediction, jobs=done if prediction else ())

    def _prefetch(self, task: ProjectTask) -> None:
        """Encode the images of ``task`` (of a sequence: the first page) in the background."""
        for tag in task.config.images:
            page = 0 if tag.is_sequence else None
            with suppress(Busy):  # enough is waiting already; the click will encode
                self._ahead.submit(self._encode, task, ObjectPrompt(tag.name, page))

    def _encode(self, task: ProjectTask, prompt: ObjectPrompt) -> None:
        try:
            deadline = time.monotonic() + PREFETCH_SECONDS
            self._segmenter.encode(task, prompt, deadline)
        except ExpectedError as error:
            logger.info("task %s: not encoded ahead: %s", task.task_id, error)
        except Exception:  # thread boundary: the click that follows reports the cause
            logger.exception("task %s: not encoded ahead", task.task_id)


def _page(prompt: ObjectPrompt) -> tuple[str, int]:
    return prompt.image, -1 if prompt.item_index is None else prompt.item_index


def _in_time(
    asked: Mapping[int, Future[Found]], count: int, seconds: float
) -> tuple[list[Any], set[Future[Found]]]:
    """What is done within ``seconds`` of ``count`` tasks, an empty list for the others; and the
    futures that are late."""
    done, late = wait(asked.values(), timeout=seconds)
    results: list[Any] = [[] for _ in range(count)]
    for number, future in asked.items():
        if future in done and not future.cancelled():
            results[number] = future.result().prediction or []
    return results, late
