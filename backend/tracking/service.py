"""Tracking as a whole: one store, one job runner, and what may be tracked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from backend.engine.engine import Engine
from backend.task_images import TaskImages
from backend.tracking.jobs import JobRunner, Work
from backend.tracking.sequence_commands import SequenceCommands
from backend.tracking.store import Job, TrackStore
from backend.tracking.video_commands import VideoCommands
from backend.tracking.workshop import Workshop

logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """``LabelStudioClient`` as this module uses it."""

    def create_prediction(
        self,
        task: int,
        result: list[dict[str, Any]],
        *,
        model_version: str,
        score: float | None,
    ) -> Any: ...


@dataclass(frozen=True)
class TrackSettings:
    """``budget_seconds``: how long a reply may wait for frames; ``workers``: jobs side by side."""

    budget_seconds: float
    workers: int = 2


class Tracking:
    """What may be tracked, and the jobs that do it.

    Args:
        publisher: takes the result of jobs that outlive their request; None without a Label
            Studio to send them to.
    """

    def __init__(
        self,
        store: TrackStore,
        engine: Engine,
        images: TaskImages,
        publisher: Publisher | None,
        settings: TrackSettings,
    ) -> None:
        self.store = store
        self.jobs = JobRunner(
            store, engine, self._open, delivered=self._deliver, workers=settings.workers
        )
        self._engine = engine
        self._publisher = publisher
        shop = Workshop(store, engine, images, self.jobs, settings.budget_seconds)
        self.sequences = SequenceCommands(shop)
        self.videos = VideoCommands(shop)

    def close(self) -> None:
        """Stop after the frames under way; unfinished jobs go on at the next start."""
        self.jobs.close()
        self.store.close()

    def _kind(self, request: Mapping[str, Any]) -> SequenceCommands | VideoCommands:
        return self.videos if request.get("kind") == self.videos.kind else self.sequences

    def _open(self, request: Mapping[str, Any]) -> Work:
        return self._kind(request).open(request)

    def _deliver(self, job: Job) -> None:
        """Store the result of a job that outlived its request as a prediction of the task."""
        task_id = job.request["task"].get("id")
        if self._publisher is None or type(task_id) is not int:
            return
        results, scores = self._kind(job.request).outcome(job)
        if results:
            score = sum(scores) / len(scores) if scores else None
            self._publisher.create_prediction(
                task_id, results, model_version=self._engine.model_version, score=score
            )
            logger.info("job %s: %d results stored for task %s", job.id, len(results), task_id)
