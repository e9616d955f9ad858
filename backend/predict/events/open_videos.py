"""The videos that editors have open: a few decoders, shared, closed when nobody uses them; and the
encoding of their frames ahead of the first click."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from backend.engine.engine import Engine
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.timing import Timeline, frame_on_screen
from backend.media.errors import MediaError
from backend.pixels.recipes import ImageSource
from backend.pixels.sandbox.process import DecoderGone
from backend.pixels.video_limits import VideoError
from backend.predict.events.messages import Moment
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy
from backend.tracking.video import OpenVideo, TaskVideos, read_timeline, video_tag

logger = logging.getLogger(__name__)

MAX_OPEN = 8
IDLE_SECONDS = 600.0
MAX_FRAME_BYTES = 64 << 20  # decoded frames that one open video keeps
MAX_ENCODED = 512  # frames of a video remembered as encoded
ENCODE_SECONDS = 60.0  # longest wait for a frame ahead of clicks; these and tracks go before it

Key = tuple[tuple[str, str], str]
"""Names a video: whose task it is of, and what it shows."""


@dataclass
class EditorVideo:
    """A video that somebody works on; its frames may be asked for from any thread.

    Attributes:
        timeline: the editor's frames, from 1, and the file's, from 0.
        encoded: frames whose embeddings were made, the newest last; the engine's cache may have
            dropped some since.
        waiting: frames still to be encoded ahead; ``encoding`` while some thread sees to them.
        users: how many work with it now; ``used`` is when the last one ended.
        dropped: it is handed out no more, and closed by its last user.
        broken: its file or decoder failed, it must be opened anew.
    """

    key: Key
    opened: OpenVideo
    timeline: Timeline
    encoded: dict[int, None] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    encoding: bool = False
    users: int = 0
    used: float = 0.0
    dropped: bool = False
    broken: bool = False
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
            f"{self.opened.file.content_key}:frame:{index}", partial(self._read, index)
        )

    def mark_encoded(self, index: int) -> None:
        """Note that a frame has been encoded."""
        self.encoded.pop(index, None)
        self.encoded[index] = None
        while len(self.encoded) > MAX_ENCODED:
            self.encoded.pop(next(iter(self.encoded)))

    def close(self) -> None:
        """Free decoder and file."""
        with self._decoder:
            self.opened.close()

    def _read(self, index: int) -> np.ndarray:
        with self._decoder:
            try:
                return self.opened.frames[index]
            except MediaError:
                self.broken = True
                raise
            except VideoError as error:
                self.broken = self.broken or isinstance(error.__cause__, DecoderGone)
                raise


class EditorVideos:
    """Opens videos once, however many ask, and closes them when they are idle or released."""

    def __init__(self, videos: TaskVideos, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._videos = videos
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[Key, Future[EditorVideo]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, task: ProjectTask, name: str, deadline: float) -> Iterator[EditorVideo]:
        """The video that the Video tag ``name`` shows for a task, which stays open meanwhile.

        Args:
            deadline: on ``time.monotonic``.

        Raises:
            MissingMedia, MediaError, VideoError: it cannot be had, or read.
            Busy: not in time, or too many videos are in use.
        """
        video = self._take(task, name, deadline)
        try:
            yield video
        finally:
            video.used = self._clock()
            self.let_go(video)

    def hold(self, video: EditorVideo) -> bool:
        """Begin to use an open video once more, for work in the background; False if it was
        dropped. Undone by ``let_go``."""
        with self._lock:
            if not video.dropped:
                video.users += 1
            return not video.dropped

    def let_go(self, video: EditorVideo) -> None:
        """Undo ``hold``."""
        with self._lock:
            video.users -= 1
            over = video.dropped and video.users == 0
        if over:
            video.close()

    def release(self, task: ProjectTask) -> None:
        """Close the videos of a task as soon as nothing uses them."""
        self._drop(video for video in self._opened() if video.key[0] == task.key)

    def expire(self) -> None:
        """Close what nobody used for ``IDLE_SECONDS``."""
        limit = self._clock() - IDLE_SECONDS
        self._drop(video for video in self._opened() if not video.users and video.used < limit)

    def close(self) -> None:
        """Close everything."""
        self._drop(self._opened())

    def _take(self, task: ProjectTask, name: str, deadline: float) -> EditorVideo:
        """An open video, with one user more."""
        address = media_uri(task.data, video_tag(task.config, name), None)
        tag = task.config.video(name)
        key = task.key, "\n".join([name, str(tag and tag.framerate), address])
        while True:
            with self._lock:
                opening = self._open.get(key)
                mine = opening is None
                if opening is None:
                    self._make_room()
                    opening = self._open[key] = Future()
            if mine:
                self._fill(key, opening, task, name, deadline)
            try:
                video = opening.result(max(deadline - time.monotonic(), 0.0))
            except FutureTimeout as error:
                raise Busy("the video is still being opened; try again in a moment") from error
            if video.broken:
                self._drop([video])
            elif self.hold(video):
                return video

    def _make_room(self) -> None:
        """Drop the video that was not used for longest."""
        if len(self._open) >= MAX_OPEN:
            idle = [video for video in self._opened() if not video.users]
            if not idle:
                raise Busy(f"{len(self._open)} videos are in use; try again in a moment")
            self._drop([min(idle, key=lambda video: video.used)])

    def _fill(
        self, key: Key, opening: Future[EditorVideo], task: ProjectTask, name: str, deadline: float
    ) -> None:
        try:
            video = self._videos.open(task, name, deadline, read_ahead=0, max_bytes=MAX_FRAME_BYTES)
            table, seconds = video.frames.table, video.frames.duration
            try:
                timeline = read_timeline(task.config, name, task.data, (), table, seconds)
            except BaseException:
                video.close()
                raise
        except BaseException as error:  # noqa: BLE001 - handed to all who wait for the video
            with self._lock:
                self._open.pop(key, None)
            opening.set_exception(error)
            return
        opening.set_result(EditorVideo(key, video, timeline, used=self._clock()))

    def _opened(self) -> list[EditorVideo]:
        """The videos that are open by now."""
        done = [opening for opening in list(self._open.values()) if opening.done()]
        return [opening.result() for opening in done if not opening.exception()]

    def _drop(self, videos: Iterable[EditorVideo]) -> None:
        """Hand these out no more; they are closed as soon as nobody works with them."""
        closing = []
        with self._lock:
            for video in videos:
                if not video.dropped:
                    video.dropped = True
                    del self._open[video.key]
                    if video.users == 0:
                        closing.append(video)
        for video in closing:
            video.close()


class Prewarmer:
    """Encodes frames before they are clicked on: one thread for all videos, a frame of each in
    turn, at the lowest priority."""

    def __init__(self, engine: Engine, videos: EditorVideos) -> None:
        self._engine = engine
        self._videos = videos
        self._lock = threading.Lock()
        self._pool = FairPool(1, "prewarm")

    def ask(self, video: EditorVideo, frames: Sequence[int]) -> tuple[list[int], list[int]]:
        """Have ``frames`` encoded, in this order; frames asked for earlier and no longer wanted
        are left out.

        Returns:
            Those encoded already, and those that will be.
        """
        cached = [frame for frame in frames if frame in video.encoded]
        pending = [frame for frame in frames if frame not in video.encoded]
        with self._lock:
            video.waiting = list(pending)
            begins = bool(pending) and not video.encoding
            video.encoding = video.encoding or begins
        if begins:
            self._next(video)
        return cached, pending

    def close(self) -> None:
        """Stop after the frame under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, video: EditorVideo) -> None:
        try:
            self._pool.submit(self._step, video)
        except Busy:  # or the service is stopping
            video.encoding = False

    def _step(self, video: EditorVideo) -> None:
        """One frame; the next one queues behind those of other videos."""
        with self._lock:
            frame = video.waiting.pop(0) if video.waiting else None
            if frame is None or not self._videos.hold(video):
                video.encoding = False
                return
        try:
            self._engine.embed(video.source(frame), Priority.PREFETCH, ENCODE_SECONDS)
            video.mark_encoded(frame)
        except ExpectedError as error:
            logger.info("frames are not encoded ahead: %s", error)
            self._give_up(video)
        except Exception:  # thread boundary: the click will say what is wrong
            logger.exception("frames are not encoded ahead")
            self._give_up(video)
        finally:
            self._videos.let_go(video)
        self._next(video)

    def _give_up(self, video: EditorVideo) -> None:
        with self._lock:
            video.waiting = []
