"""How far a job is, in the words of the text box."""

from __future__ import annotations

from collections.abc import Iterable

from backend.job_state import JobState
from backend.tracking.records import Job


def progress(job: Job, frames: Iterable[int], total: int, seconds_left: float | None) -> str:
    """One line: which of ``total`` frames are done, and what to expect of the others.

    Args:
        seconds_left: see ``JobRunner.seconds_left``.
    """
    shown = ranges(sorted(set(frames)))
    done = f"frames {shown} of {total} done" if shown else "no frame done yet"
    match job.state:
        case JobState.FAILED:
            return f"{job.message}; {done}"
        case JobState.DONE:
            return done
        case JobState.CANCELLED:
            return f"stopped; {done}"
        case JobState.QUEUED:
            return f"{done}, waiting for other tracks; type status to see more"
    wait = f", {seconds_left:.0f} s left" if seconds_left is not None else ""
    return f"{done}{wait}; type status to see more"


def ranges(frames: Iterable[int], limit: int = 12) -> str:
    """Ascending numbers as "0-41, 43, 50-61"."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:limit]]
    return ", ".join(shown) + (", ..." if len(runs) > limit else "")
