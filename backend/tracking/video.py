"""The video of a task: its file, its frames, and how the editor counts them."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, BinaryIO

from backend.labelstudio.media_refs import MissingMedia
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import LabelConfig, VideoTag
from backend.labelstudio.timing import Timeline, frames_count, tag_framerate
from backend.labelstudio.video_regions import VideoRegion
from backend.media.stream import MediaStream
from backend.media.task_media import TaskMedia, wait_for_media
from backend.pixels.frame_table import FrameTable
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.videos import VideoFrames
from backend.tracking.runner import Goal, Work

FETCH_SECONDS = 600.0  # for a video, inside a job
KEPT_TABLES = 64
SHORTEST_WAIT_S = 5.0  # for a table; with an index it takes a moment
MAX_EDITOR_FRAMES = 1_000_000  # as many as a file may have, see ``VideoLimits``


@dataclass(frozen=True)
class OpenVideo:
    """A video that is being read; ``file`` stays in the media cache meanwhile."""

    file: MediaStream
    frames: VideoFrames

    def close(self) -> None:
        """Free decoder and file."""
        self.frames.close()
        self.file.close()


class TaskVideos:
    """Opens the videos of tasks."""

    def __init__(self, media: TaskMedia) -> None:
        self._media = media
        self._tables = Tables()

    def table(self, task: ProjectTask, name: str, deadline: float) -> tuple[FrameTable, float]:
        """The timestamps of the video that the Video tag called ``name`` shows, and its duration
        in seconds.

        Args:
            deadline: on ``time.monotonic``.

        Raises:
            MissingMedia: there is no such tag, or no address in the task.
            MediaError, VideoError, Busy: it cannot be had, read, or not in time.
        """
        with self._media.video(task.task, video_tag(task.config, name), deadline) as file:
            return self._tables.get(file, deadline)

    def open(
        self,
        task: ProjectTask,
        name: str,
        deadline: float,
        *,
        read_ahead: int = 8,
        max_bytes: int = 256 << 20,
    ) -> OpenVideo:
        """The video that the Video tag called ``name`` shows; arguments and errors as ``table``.

        Args:
            read_ahead, max_bytes: see ``VideoFrames``.
        """
        file = self._media.video(task.task, video_tag(task.config, name), deadline)
        try:
            table, _ = self._tables.get(file, deadline)
            return OpenVideo(
                file, open_video(file, table=table, read_ahead=read_ahead, max_bytes=max_bytes)
            )
        except BaseException:
            file.close()
            raise

    def open_work(
        self,
        task: ProjectTask,
        request: Mapping[str, Any],
        read_goal: Callable[[Mapping[str, Any], int, int], Goal],
    ) -> Work:
        """The work of a job on a video.

        Args:
            request: names the tag in ``video``, and holds ``objects``.
            read_goal: reads one of them, for frames of a width and height.

        Raises:
            ExpectedError: why it cannot be done.
        """
        video = self.open(task, request["video"], time.monotonic() + FETCH_SECONDS)
        size = video.frames.width, video.frames.height
        try:
            goals = [read_goal(each, *size) for each in request["objects"]]
        except BaseException:
            video.close()
            raise
        return Work(video.frames, goals, lambda frame: size, video.close, request.get("stride"))


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
