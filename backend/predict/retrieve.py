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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.job_state import JobState
from backend.labelstudio.json_values import task_name
from backend.labelstudio.prompts import ObjectPrompt, prompts_from_task
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.write_results import region_id
from backend.predict.segment import Segmenter
from backend.threads.fair_pool import FairPool
from backend.tracking.store import Job
from backend.tracking.video_commands import VideoCommands

logger = logging.getLogger(__name__)

Task = Mapping[str, Any]
Prediction = dict[str, Any]

PREFETCH_SECONDS = 120.0
MAX_PREFETCHES = 8
WORTH_WAITING = 2  # videos of one request


@dataclass(frozen=True)
class _Tracked:
    """What came of the videos of a task, and the jobs that it is from."""

    prediction: Prediction | None = None
    jobs: Sequence[Job] = ()


class Retrieval:
    """Predictions for whole tasks, and encoding ahead of the first click."""

    def __init__(
        self,
        segmenter: Segmenter,
        videos: VideoCommands,
        *,
        model_version: Callable[[], str],
        open_seconds: float,
        retrieve_seconds: float,
    ) -> None:
        self._segmenter = segmenter
        self._videos = videos
        self._version = model_version
        self._open_seconds = open_seconds
        self._retrieve_seconds = retrieve_seconds
        self._pool = FairPool(2, "batch")
        # Of their own: encoding ahead waits for everything else, and must let nobody wait for it.
        self._ahead = FairPool(2, "ahead")
        self._prefetches = threading.BoundedSemaphore(MAX_PREFETCHES)

    def reply(
        self, project: str, tasks: Sequence[Task], label_config: str, config: LabelConfig
    ) -> tuple[list[Any], str]:
        """One entry per task, in order: a prediction, or an empty list where there is none.

        An empty list stores nothing in Label Studio; an empty prediction would be shown. Boxes on
        videos are tracked only where the request is certainly a retrieval; a track that takes
        longer than the request is stored as a prediction when it is done.
        """
        retrieval = len(tasks) > 1 or any(task.get("predictions") for task in tasks)
        if retrieval and config.video_rectangles:
            return self._track_all(project, tasks, label_config), "retrieve"
        prompts = [prompts_from_task(dict(task), config) for task in tasks]
        if not any(prompts):
            if not retrieval and tasks:
                self._prefetch(tasks[0], config)
            return [[] for _ in tasks], "retrieve" if retrieval else "open"
        seconds = self._retrieve_seconds if retrieval else self._open_seconds
        deadline = time.monotonic() + self._retrieve_seconds
        futures: list[Future[Prediction | None] | None] = [
            self._pool.submit(self._predict, task, config, found, deadline) if found else None
            for task, found in zip(tasks, prompts, strict=True)
        ]
        wait([future for future in futures if future is not None], timeout=seconds)
        return [_done(future) or [] for future in futures], "retrieve" if retrieval else "open"

    def predict(self, task: Task, config: LabelConfig, seconds: float) -> Prediction | None:
        """Masks for all that a task holds and that can be turned into one; None for nothing.

        Args:
            seconds: how long it may take.

        Raises:
            ExpectedError: why not.
        """
        deadline = time.monotonic() + seconds
        regions: list[dict[str, Any]] = []
        scores: list[float] = []
        prompts = sorted(prompts_from_task(dict(task), config), key=_page)
        for _, group in groupby(prompts, key=_page):
            made, page_scores = self._predict_page(task, config, list(group), deadline)
            regions += made
            scores += page_scores
        return self._prediction(regions, scores)

    def close(self) -> None:
        """Stop; what runs is abandoned."""
        for pool in (self._pool, self._ahead):
            pool.shutdown(wait=False, cancel_futures=True)

    def _predict(
        self, task: Task, config: LabelConfig, prompts: Sequence[ObjectPrompt], deadline: float
    ) -> Prediction | None:
        regions: list[dict[str, Any]] = []
        scores: list[float] = []
        pages = sorted(prompts, key=_page)
        for _, group in groupby(pages, key=_page):
            try:
                made, page_scores = self._predict_page(task, config, list(group), deadline)
            except ExpectedError as error:
                logger.warning("task %s: not predicted: %s", task_name(task), error)
                continue
            except Exception:  # thread boundary: one task must not spoil the others
                logger.exception("task %s: not predicted", task_name(task))
                continue
            regions += made
            scores += page_scores
        return self._prediction(regions, scores)

    def _prediction(
        self, regions: list[dict[str, Any]], scores: Sequence[float]
    ) -> Prediction | None:
        if not regions:
            return None
        score = sum(scores) / len(scores)
        return {"result": regions, "score": score, "model_version": self._version()}

    def _track_all(self, project: str, tasks: Sequence[Task], label_config: str) -> list[Any]:
        """All begin now; only few are worth waiting for, the others are stored one by one."""
        patient = len(tasks) <= WORTH_WAITING
        asked = [
            self._pool.submit(self._track, project, task, label_config, patient) for task in tasks
        ]
        wait(asked, timeout=self._retrieve_seconds)
        return [self._taken(future) for future in asked]

    def _taken(self, asked: Future[_Tracked]) -> Prediction | list[Any]:
        if asked.done():
            return asked.result().prediction or []
        asked.add_done_callback(self._store_late)
        return []

    def _store_late(self, asked: Future[_Tracked]) -> None:
        """What missed the reply is stored as the results of longer tracks are."""
        if not asked.cancelled():
            for job in asked.result().jobs:
                self._videos.deliver(job)

    def _track(self, project: str, task: Task, label_config: str, patient: bool) -> _Tracked:
        try:
            results: list[dict[str, Any]] = []
            scores: list[float] = []
            jobs = self._videos.retrieve(project, task, label_config, patient=patient)
            done = [job for job in jobs if job.state is JobState.DONE]
            for job in done:
                made, each = self._videos.outcome(job)
                results, scores = results + made, scores + each
            if not results:
                return _Tracked()
        except ExpectedError as error:
            logger.warning("task %s: not tracked: %s", task_name(task), error)
            return _Tracked()
        except Exception:  # thread boundary: one task must not spoil the others
            logger.exception("task %s: not tracked", task_name(task))
            return _Tracked()
        score = sum(scores) / len(scores) if scores else 0.0
        prediction = {"result": results, "score": score, "model_version": self._version()}
        return _Tracked(prediction, done)

    def _predict_page(
        self, task: Task, config: LabelConfig, prompts: list[ObjectPrompt], deadline: float
    ) -> tuple[list[dict[str, Any]], list[float]]:
        page = self._segmenter.page(task, config, prompts[0], Priority.RETRIEVE, deadline)
        segments = self._segmenter.segment(page, prompts, Priority.RETRIEVE, deadline)
        regions: list[dict[str, Any]] = []
        scores = []
        for prompt, segment in zip(prompts, segments, strict=True):
            made = self._segmenter.regions(prompt, segment, config, region_id(prompt))
            regions += made
            scores += [segment.score] if made else []
        return regions, scores

    def _prefetch(self, task: Task, config: LabelConfig) -> None:
        """Encode the images of ``task`` (of a sequence: the first page) in the background."""
        for tag in config.images:
            if not self._prefetches.acquire(blocking=False):
                return  # enough is waiting already; the click will encode
            page = 0 if tag.is_sequence else None
            try:
                self._ahead.submit(self._encode, task, config, ObjectPrompt(tag.name, page))
            except BaseException:
                self._prefetches.release()
                raise

    def _encode(self, task: Task, config: LabelConfig, prompt: ObjectPrompt) -> None:
        try:
            deadline = time.monotonic() + PREFETCH_SECONDS
            self._segmenter.page(task, config, prompt, Priority.PREFETCH, deadline)
        except ExpectedError as error:
            logger.info("task %s: not encoded ahead: %s", task_name(task), error)
        except Exception:  # thread boundary: the click that follows reports the cause
            logger.exception("task %s: not encoded ahead", task_name(task))
        finally:
            self._prefetches.release()


def _page(prompt: ObjectPrompt) -> tuple[str, int]:
    return prompt.image, -1 if prompt.item_index is None else prompt.item_index


def _done(future: Future[Prediction | None] | None) -> Prediction | None:
    if future is None:
        return None
    if not future.done():
        future.cancel()  # not begun: asked again, it gets its turn
        return None
    return future.result()
