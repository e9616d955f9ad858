"""The pictures and videos of a task: fetched, named by content, decoded late."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from backend.engine.engine import ImageSource
from backend.labelstudio.media_refs import media_uri
from backend.labelstudio.tags import ImageTag
from backend.media.resolver import MediaFile, MediaStream
from backend.metrics import Metrics
from backend.pixels.images import load_image
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

Fetched = TypeVar("Fetched")


class Fetcher(Protocol):
    """``MediaResolver`` as this module uses it."""

    def fetch(self, uri: str, *, task_id: int | None = None) -> MediaFile: ...

    def open(self, uri: str, *, task_id: int | None = None) -> MediaStream: ...


class TaskImages:
    """Fetches in threads of its own, so that a slow server cannot hold a click for ever."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        max_pixels: int,
        metrics: Metrics,
        decode: Callable[[Path], np.ndarray] | None = None,
        threads: int = 8,
    ) -> None:
        """
        Args:
            decode: turns an image file into uint8 RGB [H, W, 3]; None does it in this process.
        """
        self._fetcher = fetcher
        self._decode = decode or partial(load_image, max_pixels=max_pixels)
        self._metrics = metrics
        self._pool = FairPool(threads, "fetch")

    def source(
        self, task: Mapping[str, Any], tag: ImageTag, page: int | None, deadline: float
    ) -> ImageSource:
        """The image that ``tag`` shows for ``task`` on ``page``.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``; the download goes on
                and serves the next request.

        Raises:
            MissingMedia: the task has no such image.
            MediaError: it cannot be fetched.
            Busy: it is still being downloaded at the deadline.
        """
        return self._image(self._from_task(self._fetcher.fetch, task, tag, page, deadline))

    def video(self, task: Mapping[str, Any], tag: ImageTag, deadline: float) -> MediaStream:
        """The video that ``tag`` shows for ``task``, as a file of which only what is read is
        fetched; arguments and errors as for ``source``."""
        return self._from_task(self._fetcher.open, task, tag, None, deadline)

    def close(self) -> None:
        """Stop; downloads under way are abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _from_task(
        self,
        fetch: Callable[..., Fetched],
        task: Mapping[str, Any],
        tag: ImageTag,
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

    def _image(self, file: MediaFile) -> ImageSource:
        def load() -> np.ndarray:
            return self._decode(file.path)

        return ImageSource(file.content_key, load)


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
