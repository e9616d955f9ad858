"""How far a job is, and which frames deserve a look: where the model was unsure, a mask jumped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from backend.job_state import JobState
from backend.tracking.store import Job, Sighting, TrackedMask

Found = Sighting | TrackedMask

LOW_IOU = 0.6
# A neighbouring frame's area differs by at most this factor in ordinary motion.
AREA_JUMP = 2.0
# An ordinary object moves at most this part of its own size between two frames.
PLACE_JUMP = 1.0


def report(
    job: Job,
    masks: Sequence[Found],
    total: int,
    seconds_left: float | None,
    *,
    shown_as: Callable[[int], int],
    unit: str = "frame",
    marked: Iterable[int] = (),
) -> str:
    """What the text box says of a job: see ``progress``, and which frames to look at.

    Args:
        masks: what was found, in order of object and frame.
        seconds_left: see ``JobRunner.seconds_left``.
        shown_as: the number under which the editor shows a frame.
        unit: what a frame is called.
        marked: the frames that a human marked: they are done too.
    """
    done = {mask.frame for mask in masks}
    done.update(marked if done else ())
    text = progress(job, map(shown_as, done), total, seconds_left, unit)
    look = sorted({shown_as(doubt.frame) for doubt in doubts(masks)})
    return f"{text}; look at {ranges(look)}" if look else text


def progress(
    job: Job, frames: Iterable[int], total: int, seconds_left: float | None, unit: str = "frame"
) -> str:
    """One line: which of ``total`` frames are done, and what to expect of the others."""
    shown = ranges(sorted(set(frames)))
    done = f"{unit}s {shown} of {total} done" if shown else f"no {unit} is done yet"
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


@dataclass(frozen=True)
class Doubt:
    """A frame to look at, and why."""

    object_id: str
    frame: int
    reason: str


def doubts(masks: Iterable[Found]) -> list[Doubt]:
    """Frames to look at, in the order of ``masks``: by object and frame, as
    ``TrackStore.sightings`` gives them."""
    found: list[Doubt] = []
    before: Found | None = None
    for now in masks:
        same = before is not None and before.object_id == now.object_id
        reason = _reason(now, before if same else None)
        if reason:
            found.append(Doubt(now.object_id, now.frame, reason))
        before = now
    return found


def _reason(now: Found, before: Found | None) -> str | None:
    """Why to look at a frame; ``before`` is the object on an earlier one."""
    area, centre = now.area, now.centroid
    if before is None or before.frame != now.frame - 1:
        return "unsure" if area and _is_unsure(now) else None
    area_before, centre_before = before.area, before.centroid
    if centre is None or centre_before is None:  # one of them is empty
        return "lost" if area_before else "found again" if area else None
    if _is_unsure(now):
        return "unsure"
    if max(area, area_before) > AREA_JUMP * min(area, area_before):
        return "size jumped"
    if math.dist(centre, centre_before) > PLACE_JUMP * math.sqrt(min(area, area_before)):
        return "place jumped"
    return None


def _is_unsure(found: Found) -> bool:
    return found.iou < LOW_IOU or found.presence <= 0
