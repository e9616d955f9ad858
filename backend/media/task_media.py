"""The pictures and videos of a task: fetched, and named by their content."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Protocol, TypeVar

from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.tags import ImageTag, MediaTag, VideoTag
from backend.media.cache import MediaFile
from backend.media.stream import MediaStream
from backend.metrics import Metrics
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

Fetched = TypeVar("Fetched")

_THREADS = 8


class Fetcher(Protocol):
    """``MediaResolver`` as this module uses it."""

    def fetch(self, uri: str, *, task_id: int | None = None) -> MediaFile: ...

    def open(self, uri: str, *, task_id: int | None = None) -> MediaStream: ...


class TaskMedia:
    """Fetches in threads of its own, so that a slow server cannot hold a click for ever."""

    def __init__(self, fetcher: Fetcher, metrics: Metrics) -> None:
        self._fetcher = fetcher
        self._metrics = metrics
        self._pool = FairPool(_THREADS, "fetch")

    def image(
        self, task: Mapping[str, Any], tag: ImageTag, page: int | None, deadline: float
    ) -> MediaFile:
        """The file of the picture that ``tag`` shows for ``task`` on ``page``.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``; the download goes on
                and serves the next request.

        Raises:
            MissingMedia: the task has no such picture.
            MediaError: it cannot be fetched.
            Busy: it is still being downloaded at the deadline.
        """
        return self._from_task(self._fetcher.fetch, task, tag, page, deadline)

    def video(self, task: Mapping[str, Any], tag: VideoTag, deadline: float) -> MediaStream:
        """The video that ``tag`` shows for ``task``, as a file of which only what is read is
        fetched; arguments and errors as for ``image``."""
        return self._from_task(self._fetcher.open, task, tag, None, deadline)

    def close(self) -> None:
        """Stop; downloads under way are abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _from_task(
        self,
        fetch: Callable[..., Fetched],
        task: Mapping[str, Any],
        tag: MediaTag,
        page: int | None,
        deadline: float,
    ) -> Fetched:
        data, task_id = task.get("data"), task.get("id")
        uri = media_uri(data if isinstance(data, dict) else {}, tag, page)
        known_id = task_id if type(task_id) is int else None

        def timed() -> Fetched:
            with self._metrics.stage("fetch"):
                return fetch(uri, task_id=known_id)

        return wait_for_media(self._pool.submit(timed), deadline)


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
