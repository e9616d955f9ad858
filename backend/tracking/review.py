"""Which frames deserve a look: where the model itself was unsure, or the mask jumped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from backend.tracking.records import TrackedMask

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
