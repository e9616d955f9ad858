"""The videos that editors work on, how their frames are counted, and the encoding of those frames
ahead of the first click."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from backend.engine.engine import Engine
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.timing import Timeline, frame_on_screen
from backend.media.errors import MediaError
from backend.pixels.open_videos import MAX_OPEN, OpenVideos
from backend.pixels.recipes import Frame, Video
from backend.pixels.video_limits import VideoError
from backend.predict.events.messages import Moment
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy
from backend.tracking.video import read_timeline, video_tag

logger = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
MAX_ENCODED = 512  # frames of a video remembered as encoded
ENCODE_SECONDS = 60.0  # longest wait for a frame ahead of clicks; these and tracks go before it

Key = tuple[tuple[str, str], str]
"""Names a video: whose task it is of, and what it shows."""


@dataclass
class EditorVideo:
    """A video that somebody works on.

    Attributes:
        content_key: see ``VideoIndex``.
        timeline: the editor's frames, from 1, and the file's, from 0.
        duration: of the file, in seconds.
        used: when somebody worked with it last.
        encoded: frames whose embeddings were made, the newest last; the engine's cache may have
            dropped some since.
        waiting: frames still to be encoded ahead; ``encoding`` while some thread sees to them.
        dropped: nobody is given it any more, and no frame of it is encoded ahead.
    """

    video: Video
    content_key: str
    timeline: Timeline
    duration: float
    used: float = 0.0
    encoded: dict[int, None] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    encoding: bool = False
    dropped: bool = False

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

    def frame(self, index: int) -> Frame:
        """The file's frame ``index`` for the engine."""
        return Frame(self.video, self.content_key, index)

    def mark_encoded(self, index: int) -> None:
        """Note that a frame has been encoded."""
        self.encoded.pop(index, None)
        self.encoded[index] = None
        while len(self.encoded) > MAX_ENCODED:
            self.encoded.pop(next(iter(self.encoded)))


class EditorVideos:
    """Reads how the frames of a video are counted once, until it is idle or released."""

    def __init__(self, videos: OpenVideos, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._videos = videos
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[Key, EditorVideo] = OrderedDict()  # the last used last

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, task: ProjectTask, name: str, deadline: float) -> Iterator[EditorVideo]:
        """The video that the Video tag ``name`` shows for a task; read anew after a failure.

        Args:
            deadline: on ``time.monotonic``.

        Raises:
            MissingMedia, MediaError, VideoError: it cannot be had, or read.
            Busy: not in time.
        """
        tag = video_tag(task.config, name)
        video = Video.of(task, tag)
        key = task.key, "\n".join([name, str(tag.framerate), video.address])
        opened = self._open.get(key) or self._read(task, name, video, deadline)
        with self._lock:
            opened = self._open.setdefault(key, opened)
            opened.used = self._clock()
            self._open.move_to_end(key)
            surplus = list(self._open)[:-MAX_OPEN]
        self._drop(surplus)
        try:
            yield opened
        except (MediaError, VideoError):
            self._drop([key])
            raise

    def release(self, task: ProjectTask) -> None:
        """Forget the videos of a task, and close them as soon as nobody reads them."""
        self._drop([key for key in list(self._open) if key[0] == task.key])

    def expire(self) -> None:
        """Forget and close what nobody used for ``IDLE_SECONDS``."""
        limit = self._clock() - IDLE_SECONDS
        self._drop([key for key, opened in list(self._open.items()) if opened.used < limit])

    def _read(self, task: ProjectTask, name: str, video: Video, deadline: float) -> EditorVideo:
        index = self._videos.index(video, deadline)
        timeline = read_timeline(task.config, name, task.data, (), index)
        return EditorVideo(video, index.content_key, timeline, index.duration)

    def _drop(self, keys: Iterable[Key]) -> None:
        with self._lock:
            dropped = [self._open.pop(key) for key in keys if key in self._open]
        for opened in dropped:  # it may take a while to end a decoder
            opened.dropped = True
            self._videos.release(opened.video)


class Prewarmer:
    """Encodes frames before they are clicked on: one thread for all videos, a frame of each in
    turn, at the lowest priority."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._pool = FairPool(2, "prewarm")

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
            if frame is None or video.dropped:
                video.encoding = False
                return
        try:
            self._engine.embed(video.frame(frame), Priority.PREFETCH, ENCODE_SECONDS)
            video.mark_encoded(frame)
        except ExpectedError as error:
            logger.info("frames are not encoded ahead: %s", error)
            self.ask(video, ())
        except Exception:  # thread boundary: the click will say what is wrong
            logger.exception("frames are not encoded ahead")
            self.ask(video, ())
        self._next(video)
