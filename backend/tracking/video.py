"""The video of a task: which file, which frames, and what the editor holds of it."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import numpy as np

from backend.engine.pixel_prompts import PixelPrompt
from backend.labelstudio.geometry import Box, box_to_pixels
from backend.labelstudio.keyframes import Keyframe
from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.read_results import newest_first
from backend.labelstudio.tags import LabelConfig, VideoTag
from backend.labelstudio.timing import Timeline, frames_count, tag_framerate
from backend.labelstudio.video_regions import VideoRegion
from backend.media.resolver import MediaStream
from backend.media.task_media import wait_for_media
from backend.pixels.frame_table import FrameTable
from backend.pixels.sandbox.video_decoding import open_video
from backend.tracking.runner import Goal
from backend.tracking.spans import Direction, plan_spans


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


KEPT_TABLES = 64
SHORTEST_WAIT_S = 5.0  # for a table; with an index it takes a moment

Results = list[dict[str, Any]]

MAX_EDITOR_FRAMES = 1_000_000  # as many as a file may have, see ``VideoLimits``


@dataclass(frozen=True)
class Clip:
    """The video of a task.

    Attributes:
        track: names what is tracked.
        timeline: the editor's frames, from 1, and the file's, from 0.
    """

    track: str
    project: str
    task: Mapping[str, Any]
    label_config: str
    config: LabelConfig
    name: str
    timeline: Timeline


def read_table(file: BinaryIO) -> tuple[FrameTable, float]:
    """The timestamps of a video file and its duration in seconds.

    Raises:
        VideoError: it is no video.
        MediaError: it cannot be read.
    """
    with open_video(file, read_ahead=0) as frames:
        return frames.table, frames.duration


class Tables:
    """The tables of videos, each read once per content. For formats without an index the whole
    file has to be read; that goes on when nobody waits for it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[str, Future[tuple[FrameTable, float]]] = OrderedDict()

    def get(self, file: MediaStream, deadline: float) -> tuple[FrameTable, float]:
        """See ``read_table``.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``; not before five seconds.

        Raises:
            Busy: it is still being read at the deadline.
        """
        with self._lock:
            future = self._read.get(file.content_key)
            if future is None or (future.done() and future.exception()):
                future = self._read[file.content_key] = Future()
                self._read.move_to_end(file.content_key)
                if len(self._read) > KEPT_TABLES:
                    self._read.popitem(last=False)
                reading = threading.Thread(
                    target=_fill, args=(future, file.another()), name="table", daemon=True
                )
                reading.start()
        return wait_for_media(future, max(deadline, time.monotonic() + SHORTEST_WAIT_S))


def _fill(future: Future[tuple[FrameTable, float]], file: MediaStream) -> None:
    try:
        with file:
            future.set_result(read_table(file))
    except BaseException as error:  # noqa: BLE001 - handed to all who wait
        future.set_exception(error)


def saved_before(task: Mapping[str, Any], moment: float) -> bool:
    """Whether the newest draft of a task was saved before ``moment`` (seconds since 1970)."""
    for draft in newest_first(task.get("drafts")):
        try:
            saved = datetime.fromisoformat(str(draft.get("updated_at")))
        except ValueError:
            return False
        return saved.timestamp() < moment
    return False


def video_tag(config: LabelConfig, name: str) -> VideoTag:
    """The Video tag called ``name``.

    Raises:
        MissingMedia: there is none.
    """
    video = config.video(name)
    if video is None:
        raise MissingMedia(f"the label config has no <Video name={name}>")
    return video


def read_timeline(
    config: LabelConfig,
    name: str,
    data: Mapping[str, object],
    regions: Sequence[VideoRegion],
    table: FrameTable,
    duration: float,
) -> Timeline:
    """The editor's frames and the file's.

    Args:
        name: of the Video tag.
        data: the task's.
        regions: what the editor made; they say how many frames it counts.
        table, duration: of the file.

    Raises:
        MissingMedia: the tag's framerate cannot be used, or makes too many frames.
    """
    video = config.video(name)
    try:
        framerate = tag_framerate(video.framerate if video else None, data)
    except ValueError as error:
        raise MissingMedia(str(error)) from error
    stated = next((region.frames_count for region in regions if region.frames_count), None)
    # Both come from the task: a number like 1e12 would be counted through for hours.
    if not (stated or duration * framerate) <= MAX_EDITOR_FRAMES or framerate == math.inf:
        raise MissingMedia(
            f"the editor would count more than {MAX_EDITOR_FRAMES} frames in this video: check the "
            "framerate of its <Video> tag"
        )
    return Timeline(table.times.tolist(), framerate, stated or frames_count(duration, framerate))


def clip_track(project: str, task: object, name: str, model_version: str, address: str) -> str:
    """Names what is tracked: the same video of the same task by the same model."""
    parts = [project, str(task), name, model_version, address]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def box_numbers(box: Box) -> list[float]:
    """A box as JSON."""
    return [box.x, box.y, box.width, box.height, box.rotation]


def box_digest(box: Box) -> str:
    """Names what a box says as a prompt."""
    return hashlib.sha256(json.dumps(box_numbers(box)).encode()).hexdigest()[:16]
