"""What a human put on a video, on its way into jobs and the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend.engine.pixel_prompts import PixelPrompt
from backend.labelstudio.geometry import Box, box_to_pixels
from backend.labelstudio.keyframes import Keyframe
from backend.labelstudio.video_regions import VideoRegion
from backend.tracking.clip import box_digest, box_numbers
from backend.tracking.spans import Direction, plan_spans
from backend.tracking.work import Goal


def on_one(regions: Sequence[VideoRegion], name: str | None = None) -> list[VideoRegion]:
    """The regions on one Video tag, that of the first region where no name is given."""
    names = [name] if name is not None else [region.to_name for region in regions[:1]]
    return [region for region in regions if region.to_name in names]


def by_frame(keyframes: Sequence[Keyframe]) -> list[Keyframe]:
    """One key frame for each frame, the last of several, ascending."""
    found = {each.frame: each for each in keyframes}
    return [found[frame] for frame in sorted(found)]


def goal_of(
    described: Mapping[str, Any], request: Mapping[str, Any], width: int, height: int
) -> Goal:
    """One object of a job's request, on a video of this size in pixels."""
    boxes = {int(frame): Box(*numbers) for frame, numbers in described["prompts"].items()}
    nothing = np.zeros((0, 2)), np.zeros(0, dtype=bool)
    prompts = {
        frame: PixelPrompt(*nothing, box=box_to_pixels(box, width, height))
        for frame, box in boxes.items()
    }
    digests = {frame: box_digest(box) for frame, box in boxes.items()}
    direction = Direction(request["direction"])
    spans = plan_spans(boxes, first=request["first"], last=request["last"], direction=direction)
    # Where the human says that the object ends, nothing is tracked on from there.
    ends = set(described["ends"])
    spans = [span for span in spans if span.reverse or span.anchor not in ends]
    answers = [frame for frame in boxes if request["first"] <= frame <= request["last"]]
    return Goal(described["id"], prompts, digests, spans, answers)


def write_keyframes(keyframes: Sequence[Keyframe]) -> list[list[Any]]:
    """Key frames as JSON."""
    return [[each.frame, box_numbers(each.box), each.enabled] for each in keyframes]


def read_keyframes(written: Sequence[Sequence[Any]]) -> list[Keyframe]:
    """Undo ``write_keyframes``."""
    return [Keyframe(frame, Box(*numbers), enabled) for frame, numbers, enabled in written]
