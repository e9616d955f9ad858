"""The videos that frames are read from: a few decoders, shared, closed when nobody uses them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from backend.media.sources import host_of
from backend.media.stream import MediaStream
from backend.media.task_media import TaskMedia, wait_for_media
from backend.pixels.frame_table import VideoIndex
from backend.pixels.mended_video import MendedVideo
from backend.pixels.recipes import Frame, Video
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.video_limits import VideoError
from backend.pixels.videos import VideoFrames
from backend.threads.caller import caller
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

KEPT_INDEXES = 64
THREADS = 16
MAX_WAITING = 128  # indexes that are still to be read, half of them of one project
SHORTEST_WAIT_S = 5.0  # for an index; where the file has one it takes a moment
MAX_OPEN = 8
MAX_FRAME_BYTES = 64 << 20  # decoded frames that one open video keeps


def read_index(file: MediaStream) -> VideoIndex:
    """The index of a video file.

    Raises:
        VideoError: it is no video.
        MediaError: it cannot be read.
    """
    with open_video(file, read_ahead=0) as frames:
        size = frames.width, frames.height
        return VideoIndex(file.content_key, frames.table, frames.duration, *size)


class Indexes:
    """The indexes of videos, each read once per content. For formats that have none the whole
    file has to be read; that goes on when nobody waits for it any more.

    Whoever asks again while a video waits for its turn waits for the same one: what is queued, and
    holds its file open, does not grow with how often it is asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[str, Future[VideoIndex]] = OrderedDict()
        self._queued: set[tuple[str, str]] = set()  # contents, and the projects they wait for
        self._pool = FairPool(THREADS, "index", capacity=MAX_WAITING)

    def get(self, file: MediaStream, deadline: float, host: str = "") -> VideoIndex:
        """See ``read_index``.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``; not before five seconds.
            host: what reading the file waits for.

        Raises:
            Busy: it is still being read at the deadline, or too many others are.
        """
        with self._lock:
            future = self._read.get(file.content_key)
            if future is None or (future.done() and future.exception()):
                future = self._read[file.content_key] = Future()
                self._read.move_to_end(file.content_key)
                self._forget_oldest()
            # It may not wait for another project's turn.
            place = file.content_key, caller().project
            wanted = not (future.running() or future.done() or place in self._queued)
            if wanted:
                reading = file.another()
                self._queued.add(place)
        if wanted:
            self._queue(place, host, reading)
        return wait_for_media(future, max(deadline, time.monotonic() + SHORTEST_WAIT_S))

    def forget(self, content_key: str) -> None:
        """Read the index of a content again for whoever asks next: its bytes were damaged."""
        with self._lock:
            future = self._read.get(content_key)
            if future is not None and future.done():
                del self._read[content_key]

    def close(self) -> None:
        """Read no more; what is being read is abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _queue(self, place: tuple[str, str], host: str, file: MediaStream) -> None:
        try:
            self._pool.submit_for(host, self._fill, place, file)
        except Busy:
            file.close()
            with self._lock:
                self._queued.discard(place)
                if all(key != file.content_key for key, _ in self._queued):
                    self._read.pop(file.content_key, None)  # nobody would ever fill it
            raise

    def _forget_oldest(self) -> None:
        """With the lock held; what is still to be read stays."""
        read = [key for key, each in self._read.items() if each.done()]
        for key in read[: max(0, len(self._read) - KEPT_INDEXES)]:
            del self._read[key]

    def _fill(self, place: tuple[str, str], file: MediaStream) -> None:
        """In the pool; several times for one that several projects want."""
        with file:
            with self._lock:
                self._queued.discard(place)
                future = self._read.get(file.content_key)
                if future is None or future.running() or future.done():
                    return
                future.set_running_or_notify_cancel()
            try:
                future.set_result(read_index(file))
            except BaseException as error:  # noqa: BLE001 - handed to all who wait
                future.set_exception(error)


class OpenVideos:
    """Opens videos, and keeps those open whose frames are asked for one by one."""

    def __init__(self, media: TaskMedia) -> None:
        self._media = media
        self._indexes = Indexes()
        self._lock = threading.Lock()
        self._readers: OrderedDict[Video, _Reader] = OrderedDict()  # the last used last

    def index(self, video: Video, deadline: float) -> VideoIndex:
        """What is known of a video without decoding it.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``.

        Raises:
            MediaError, VideoError, Busy: it cannot be had, read, or not in time.
        """
        file, index = self._indexed(video, deadline)
        file.close()
        return index

    def open(self, video: Video, deadline: float, **options: Any) -> tuple[str, VideoFrames]:
        """The content key of a video, and all its frames for one reader, who closes them; else as
        ``index``.

        Args:
            options: see ``VideoFrames``.
        """
        opened = MendedVideo(*self._indexed(video, deadline), partial(self._anew, video), deadline)
        return opened.content_key, VideoFrames(opened, **options)

    def read(self, frame: Frame, deadline: float) -> np.ndarray:
        """A frame of a video that stays open; uint8 RGB [H, W, 3]. Else as ``index``."""
        with self._lock:
            reader = self._readers.setdefault(frame.video, _Reader(self.open))
            self._readers.move_to_end(frame.video)
            oldest = next(iter(self._readers))
            full = len(self._readers) > MAX_OPEN
        if full:
            self.release(oldest)
        return reader.read(frame, deadline)

    def release(self, video: Video) -> None:
        """Close a video that stayed open, as soon as nobody reads it."""
        with self._lock:
            reader = self._readers.pop(video, None)
        if reader is not None:
            reader.wanted = False
            reader.close_unwanted()

    def close(self) -> None:
        for video in list(self._readers):
            self.release(video)
        self._indexes.close()

    def _indexed(self, video: Video, deadline: float) -> tuple[MediaStream, VideoIndex]:
        """A video, opened, and its index; raises as ``index``."""
        file = self._media.stream(video.address, video.task_id, deadline)
        try:
            try:
                return file, self._indexes.get(file, deadline, host_of(video.address))
            except VideoError:
                if (anew := self._anew(video, file, deadline)) is None:
                    raise
                return anew
        except BaseException:
            file.close()
            raise

    def _anew(
        self, video: Video, file: MediaStream, deadline: float
    ) -> tuple[MediaStream, VideoIndex] | None:
        """See ``FetchAnew``; raises as ``index``."""
        anew = self._media.stream_anew(file, video.address, video.task_id, deadline)
        if anew is None:
            return None
        self._indexes.forget(file.content_key)
        file.close()
        try:
            return anew, self._indexes.get(anew, deadline, host_of(video.address))
        except BaseException:
            anew.close()
            raise


class _Reader:
    """A video whose frames several threads ask for, one by one; opened when the first is read, and
    anew after a failure."""

    def __init__(self, open_it: Callable[..., tuple[str, VideoFrames]]) -> None:
        self._open_it = open_it
        self._opened: tuple[str, VideoFrames] | None = None
        self._turn = threading.Lock()
        self.wanted = True

    def read(self, frame: Frame, deadline: float) -> np.ndarray:
        if not self._turn.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise Busy("the video is still being read; try again in a moment")
        try:
            if self._opened is None:
                options = {"read_ahead": 0, "max_bytes": MAX_FRAME_BYTES}
                self._opened = self._open_it(frame.video, deadline, **options)
            key, frames = self._opened
            if key != frame.content_key:
                raise VideoError("The video has been replaced meanwhile; try again.")
            return frames[frame.index]
        except BaseException:
            self._close()
            raise
        finally:
            self._turn.release()
            self.close_unwanted()

    def close_unwanted(self) -> None:
        if not self.wanted and self._turn.acquire(blocking=False):
            self._close()
            self._turn.release()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None
