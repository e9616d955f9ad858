"""The life of a job: a track, or a fine-tuning."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self in (JobState.DONE, JobState.CANCELLED, JobState.FAILED)
