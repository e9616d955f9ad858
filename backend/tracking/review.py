"""How far a job is, and which frames deserve a look: where the model was unsure, a mask jumped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from backend.job_state import JobState
from backend.tracking.store import Job, TrackedMask


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


LOW_IOU = 0.6
# A neighbouring frame's area differs by at most this factor in ordinary motion.
AREA_JUMP = 2.0
# An ordinary object moves at most this part of its own size between two frames.
PLACE_JUMP = 1.0


@dataclass(frozen=True)
class Doubt:
    """A frame to look at, and why."""

    object_id: str
    frame: int
    reason: str


@dataclass(frozen=True)
class _Summary:
    frame: int
    area: int
    centre: tuple[float, float]
    iou: float
    presence: float


def doubts(masks: Iterable[TrackedMask]) -> list[Doubt]:
    """Frames to look at, in order of object and frame.

    Args:
        masks: in order of object and frame, as ``TrackStore.masks`` gives them.
    """
    found: list[Doubt] = []
    previous: tuple[str, _Summary] | None = None
    for mask in masks:
        now = _summary(mask)
        before = previous[1] if previous is not None and previous[0] == mask.object_id else None
        reason = _reason(now, before)
        if reason:
            found.append(Doubt(mask.object_id, mask.frame, reason))
        previous = (mask.object_id, now)
    return found


def _summary(found: TrackedMask) -> _Summary:
    rows, columns = np.nonzero(found.mask)
    centre = (float(columns.mean()), float(rows.mean())) if len(rows) else (0.0, 0.0)
    return _Summary(found.frame, len(rows), centre, found.iou, found.presence)


def _reason(now: _Summary, before: _Summary | None) -> str | None:
    consecutive = before is not None and before.frame == now.frame - 1
    if consecutive and before is not None and before.area and not now.area:
        return "lost"
    if consecutive and before is not None and now.area and not before.area:
        return "found again"
    if not now.area:
        return None
    if now.iou < LOW_IOU or now.presence <= 0:
        return "unsure"
    if before is None or not consecutive or not before.area:
        return None
    if max(now.area, before.area) > AREA_JUMP * min(now.area, before.area):
        return "size jumped"
    moved = np.hypot(now.centre[0] - before.centre[0], now.centre[1] - before.centre[1])
    if moved > PLACE_JUMP * np.sqrt(min(now.area, before.area)):
        return "place jumped"
    return None
