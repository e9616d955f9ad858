"""The media of tasks by their addresses: fetched while somebody waits, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Protocol, TypeVar

from backend.media.cache import MediaFile
from backend.media.sources import host_of
from backend.media.stream import MediaStream
from backend.metrics import Metrics
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

Fetched = TypeVar("Fetched")

_THREADS = 16


class Fetcher(Protocol):
    """``MediaResolver`` as this module uses it."""

    def fetch(self, uri: str, *, task_id: int | None = None) -> MediaFile: ...

    def open(self, uri: str, *, task_id: int | None = None) -> MediaStream: ...

    def at_hand(self, uri: str, *, task_id: int | None = None) -> MediaFile | None: ...

    def stream_at_hand(self, uri: str, *, task_id: int | None = None) -> MediaStream | None: ...

    def drop_damaged(self, file: MediaFile) -> bool: ...


class TaskMedia:
    """Fetches in threads of its own, so that a slow server cannot hold a click for ever, nor those
    of other projects and servers at all. What is at hand waits for no thread."""

    def __init__(self, fetcher: Fetcher, metrics: Metrics) -> None:
        self._fetcher = fetcher
        self._metrics = metrics
        self._pool = FairPool(_THREADS, "fetch")

    def file(self, address: str, task_id: int | None, deadline: float) -> MediaFile:
        """The file behind an address; see ``MediaResolver.fetch``.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``; the download goes on
                and serves the next request.

        Raises:
            MediaError: it cannot be fetched.
            Busy: it is still being downloaded at the deadline.
        """
        found = self._fetcher.at_hand(address, task_id=task_id)
        return found or self._wait_for(self._fetcher.fetch, address, task_id, deadline)

    def anew(
        self, file: MediaFile, address: str, task_id: int | None, deadline: float
    ) -> MediaFile | None:
        """A file that cannot be decoded, fetched again; None where it is what was fetched. Raises
        as ``file``."""
        if not self._fetcher.drop_damaged(file):
            return None
        return self.file(address, task_id, deadline)

    def stream(self, address: str, task_id: int | None, deadline: float) -> MediaStream:
        """The same as a file of which only what is read is fetched."""
        found = self._fetcher.stream_at_hand(address, task_id=task_id)
        return found or self._wait_for(self._fetcher.open, address, task_id, deadline)

    def stream_anew(
        self, stream: MediaStream, address: str, task_id: int | None, deadline: float
    ) -> MediaStream | None:
        """``anew`` for a video; None also where only what is read of it is stored."""
        anew = self.anew(stream.file, address, task_id, deadline) if stream.file else None
        return MediaStream.of_file(anew) if anew else None

    def close(self) -> None:
        """Stop; downloads under way are abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wait_for(
        self, fetch: Callable[..., Fetched], address: str, task_id: int | None, deadline: float
    ) -> Fetched:
        def timed() -> Fetched:
            with self._metrics.stage("fetch"):
                return fetch(address, task_id=task_id)

        return wait_for_media(self._pool.submit_for(host_of(address), timed), deadline)


def wait_for_media(future: Future[Fetched], deadline: float) -> Fetched:
    """What a future brings until ``deadline``, on ``time.monotonic``.

    Raises:
        Busy: it is not there by then.
        Exception: as the future's.
    """
    try:
        return future.result(max(deadline - time.monotonic(), 0.0))
    except FutureTimeout as error:
        raise Busy("the media file is still being downloaded; try again in a moment") from error
