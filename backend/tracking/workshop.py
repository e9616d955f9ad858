"""What every kind of tracking works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.engine.engine import Engine
from backend.pixels.recipes import TaskPictures
from backend.tracking.runner import JobRunner
from backend.tracking.store import Job, TrackStore


@dataclass(frozen=True)
class Workshop:
    """The parts, and the two things done with jobs.

    Attributes:
        budget_seconds: how long a reply may wait for frames.
    """

    store: TrackStore
    engine: Engine
    images: TaskPictures
    jobs: JobRunner
    budget_seconds: float

    def run(self, track: str, request: Mapping[str, Any], *, wait: bool = True) -> Job:
        """Begin or join a job, and wait for it as long as the reply may.

        A job that goes on is stored as a prediction when it ends.
        """
        job = self.jobs.submit(track, request)
        if wait:
            job = self.jobs.wait(job.id, self.budget_seconds)
        if not job.state.ended and not self.store.ask_delivery(job.id):
            return self.store.job(job.id) or job  # it has just ended
        return job

    def begin(self, track: str, request: Mapping[str, Any]) -> Job:
        """Begin or join a job in the place of those that run on its track, without waiting; it is
        stored as a prediction when it ends."""
        job = self.jobs.submit(track, request, deliver=True)
        for other in self.store.jobs(track=track, unfinished=True):
            if other.id != job.id:
                self.jobs.cancel(other.id)
        return self.store.job(job.id) or job

    def cancel(self, track: str) -> bool:
        """Stop what runs on a track; returns whether anything did."""
        running = self.store.jobs(track=track, unfinished=True)
        for job in running:
            self.jobs.cancel(job.id)
        for job in running:
            self.jobs.wait(job.id, self.budget_seconds)
        return bool(running)
