"""The videos that editors have open: a few decoders, shared, closed when nobody uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.timing import Timeline, frame_on_screen
from backend.media.errors import MediaError
from backend.pixels.recipes import ImageSource
from backend.pixels.sandbox.process import DecoderGone
from backend.pixels.video_limits import VideoError
from backend.predict.events.messages import Moment
from backend.threads.fair_queue import Busy
from backend.tracking.video import OpenVideo, TaskVideos, read_timeline, video_tag

MAX_OPEN = 8
IDLE_SECONDS = 600.0
MAX_FRAME_BYTES = 64 << 20  # decoded frames that one open video keeps

Task = tuple[str, str]
"""Project and task: whose video it is."""


@dataclass
class OpenClip:
    """A video that somebody works on; its frames may be asked for from any thread.

    Attributes:
        timeline: the editor's frames, from 1, and the file's, from 0.
        encoded: frames whose embeddings were made, the newest last; the engine's cache may have
            dropped some since.
        waiting: frames still to be encoded ahead.
    """

    video: OpenVideo
    timeline: Timeline
    encoded: dict[int, None] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    draining: bool = False
    users: int = 0
    used: float = 0.0
    dropped: bool = False
    broken: bool = False  # file or decoder failed: it must be opened anew
    _decoder: threading.Lock = field(default_factory=threading.Lock)

    @property
    def framerate(self) -> float:
        """Frames per second over the whole file."""
        times = self.timeline.times
        if len(times) > 1 and times[-1] > times[0]:
            return (len(times) - 1) / (times[-1] - times[0])
        return self.timeline.framerate

    def index(self, moment: Moment | None) -> int:
        """The file's frame at ``moment``; its first where nothing is said."""
        if moment is not None and moment.seconds is not None:
            return frame_on_screen(moment.seconds, self.timeline.times)
        return self.timeline.file_frame((moment and moment.frame) or 1)

    def source(self, index: int) -> ImageSource:
        """Frame ``index`` for the engine, decoded only where no embedding of it is at hand."""
        return ImageSource(
            f"{self.video.file.content_key}:frame:{index}", partial(self._read, index)
        )

    def close(self) -> None:
        """Free decoder and file."""
        with self._decoder:
            self.video.close()

    def _read(self, index: int) -> np.ndarray:
        with self._decoder:
            try:
                return self.video.frames[index]
            except MediaError:
                self.broken = True
                raise
            except VideoError as error:
                self.broken = self.broken or isinstance(error.__cause__, DecoderGone)
                raise


class Clips:
    """Opens videos once, however many ask, and closes them when they are idle or released."""

    def __init__(self, videos: TaskVideos, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._videos = videos
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[tuple[Task, str], Future[OpenClip]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, task: ProjectTask, name: str, deadline: float) -> Iterator[OpenClip]:
        """The video that the Video tag ``name`` shows for a task, which stays open meanwhile.

        Args:
            deadline: on ``time.monotonic``.

        Raises:
            MissingMedia, MediaError, VideoError: it cannot be had, or read.
            Busy: not in time, or too many videos are in use.
        """
        clip = self._take(task, name, deadline)
        try:
            yield clip
        finally:
            with self._lock:
                clip.users -= 1
                clip.used = self._clock()
                over = clip.dropped and clip.users == 0
            if over:
                clip.close()

    def hold(self, clip: OpenClip) -> bool:
        """Begin to use an open clip once more, for work in the background; False if it was
        dropped. Undone by ``let_go``."""
        with self._lock:
            if not clip.dropped:
                clip.users += 1
            return not clip.dropped

    def let_go(self, clip: OpenClip) -> None:
        """Undo ``hold``."""
        with self._lock:
            clip.users -= 1
            over = clip.dropped and clip.users == 0
        if over:
            clip.close()

    def release(self, task: Task) -> None:
        """Close the videos of a task as soon as nothing uses them."""
        self._drop([key for key in list(self._open) if key[0] == task])

    def expire(self) -> None:
        """Close what nobody used for ``IDLE_SECONDS``."""
        limit = self._clock() - IDLE_SECONDS
        self._drop([key for key, clip in self._idle() if clip.used < limit])

    def close(self) -> None:
        """Close everything."""
        self._drop(list(self._open))

    def _take(self, task: ProjectTask, name: str, deadline: float) -> OpenClip:
        address = media_uri(task.data, video_tag(task.config, name))
        video = task.config.video(name)
        content = "\n".join([name, str(video and video.framerate), address])
        key = ((task.project, task.task_id), content)
        while True:
            with self._lock:
                future = self._open.get(key)
                mine = future is None
                if future is None:
                    self._make_room()
                    future = self._open[key] = Future()
            if mine:
                self._fill(key, future, task, name, deadline)
            try:
                clip = future.result(max(deadline - time.monotonic(), 0.0))
            except FutureTimeout as error:
                raise Busy("the video is still being opened; try again in a moment") from error
            if clip.broken:
                self._forget_broken(key, future, clip)
            elif self.hold(clip):
                return clip

    def _forget_broken(
        self, key: tuple[Task, str], future: Future[OpenClip], clip: OpenClip
    ) -> None:
        with self._lock:
            mine = self._open.get(key) is future
            if mine:
                self._forget(key, clip)
            over = mine and clip.users == 0
        if over:
            clip.close()

    def _make_room(self) -> None:
        """Drop the video that was not used for longest; called with the lock."""
        if len(self._open) < MAX_OPEN:
            return
        idle = sorted(self._idle(), key=lambda pair: pair[1].used)
        if not idle:
            raise Busy(f"{len(self._open)} videos are in use; try again in a moment")
        key, clip = idle[0]
        self._forget(key, clip)
        clip.close()

    def _fill(
        self,
        key: tuple[Task, str],
        future: Future[OpenClip],
        task: ProjectTask,
        name: str,
        deadline: float,
    ) -> None:
        try:
            clip = self._open_clip(task, name, deadline)
        except BaseException as error:  # noqa: BLE001 - handed to all who wait for the clip
            with self._lock:
                self._open.pop(key, None)
            future.set_exception(error)
            return
        clip.used = self._clock()
        future.set_result(clip)

    def _open_clip(self, task: ProjectTask, name: str, deadline: float) -> OpenClip:
        video = self._videos.open(task, name, deadline, read_ahead=0, max_bytes=MAX_FRAME_BYTES)
        table, seconds = video.frames.table, video.frames.duration
        timeline = read_timeline(task.config, name, task.data, (), table, seconds)
        return OpenClip(video, timeline)

    def _idle(self) -> list[tuple[tuple[Task, str], OpenClip]]:
        found = []
        for key, future in list(self._open.items()):
            if future.done() and not future.exception() and future.result().users == 0:
                found.append((key, future.result()))
        return found

    def _forget(self, key: tuple[Task, str], clip: OpenClip) -> None:
        """No longer hand a clip out; called with the lock."""
        self._open.pop(key, None)
        clip.dropped = True

    def _drop(self, keys: list[tuple[Task, str]]) -> None:
        closing = []
        with self._lock:
            for key in keys:
                future = self._open.get(key)
                if future is None or not future.done() or future.exception():
                    continue
                clip = future.result()
                self._forget(key, clip)
                if clip.users == 0:
                    closing.append(clip)
        for clip in closing:
            clip.close()
