"""What is kept of tracking: jobs and the masks they found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.job_state import JobState


@dataclass(frozen=True)
class Job:
    """A job as it stands. ``request`` is JSON: everything needed to run it again."""

    id: str
    track: str
    digest: str
    request: Mapping[str, Any]
    state: JobState
    done: int
    total: int
    message: str
    deliver: bool
    created: float
    updated: float


@dataclass(frozen=True)
class TrackedMask:
    """One object on one frame.

    Attributes:
        anchor: digest of the prompt the mask follows from.
        mask: bool ``[H, W]``; empty where the object is absent.
        iou: predicted IoU, 0 to 1.
        presence: logit of "the object is there", above 0 for yes.
        prompted: the prompt is on this very frame: a human's box or clicks.
        stride: it comes from a pass that tracked every n-th frame; those between are interpolated.
    """

    object_id: str
    frame: int
    anchor: str
    mask: np.ndarray
    iou: float
    presence: float
    prompted: bool = False
    stride: int = 1
