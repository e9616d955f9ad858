"""The life of a job: a track, or a fine-tuning."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

MAX_CRASHES = 3
"""Starts of a job that may end the process with no progress between; then it has failed."""


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


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as people and programs read them: 2026-11-30T08:15:00Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
