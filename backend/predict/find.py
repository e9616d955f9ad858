"""What a detector finds on a picture, a page or a frame, as prompts for the model."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import replace

from backend.expected import ExpectedError
from backend.labelstudio.detections import Detections, Wanted, one_picture, read_detections
from backend.labelstudio.detector_client import DetectorClient
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import MediaTag
from backend.metrics import Metrics
from backend.pixels.jpegs import jpeg, within
from backend.pixels.pixel_resolver import PixelResolver
from backend.pixels.recipes import ImageRecipe
from backend.recent_values import Recent
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

LONGEST_SIDE = 2048  # of a picture as the detector gets it
AT_ONCE = 4  # pictures that it is asked about, half of them for one project
OFFERED = 64
OFFERED_SECONDS = 120.0  # or until it has answered


class NoDetector(ExpectedError):
    """There is none to ask."""


class OfferedPictures:
    """Pictures that may be fetched from this service for a short while, without credentials, by
    whoever was told their name: 24 random bytes."""

    def __init__(self) -> None:
        self._files = Recent[bytes](entries=OFFERED, seconds=OFFERED_SECONDS)

    @contextmanager
    def offering(self, file: bytes) -> Iterator[str]:
        """Offer a file inside the block, under the name that comes out."""
        name = secrets.token_urlsafe(24)
        self._files.put(name, file)
        try:
            yield name
        finally:
            self._files.forget(lambda key: key == name)

    def get(self, name: str) -> bytes | None:
        """The file that is offered under a name now."""
        return self._files.get(name)


class Finder:
    """Asks the detector, where there is one; safe to share between threads.

    Args:
        client: of the detector; None where the settings name none.
        labels: by what the detector calls it: the label that it gets.
        score: what it is less sure of is left out.
        fetch_url: of this service, where the detector is to fetch pictures from; None to send them
            along.
    """

    def __init__(
        self,
        client: DetectorClient | None,
        pixels: PixelResolver,
        metrics: Metrics,
        *,
        labels: Mapping[str, str] | None = None,
        score: float = 0.0,
        fetch_url: str | None = None,
    ) -> None:
        self._client = client
        self._pixels = pixels
        self._metrics = metrics
        named = {name.casefold(): label for name, label in (labels or {}).items()}
        self._wanted = Wanted(labels=named, score=score)
        self._fetch_url = fetch_url
        self._pool = FairPool(AT_ONCE, "detector", capacity=64)
        self.pictures = OfferedPictures()

    def check(self) -> DetectorClient:
        """The detector to ask. Raises NoDetector where there is none."""
        if self._client is None:
            raise NoDetector(
                "no detector is connected: the operator sets DETECTOR_URL to another ML backend"
            )
        return self._client

    def wanted(self, words: Mapping[str, str | None]) -> Wanted:
        """What to look for: by what was named, the label that it gets, None for that of the
        settings or its own; nothing for all labels of the label config."""
        named = {word.casefold(): label for word, label in words.items() if label is not None}
        return replace(self._wanted, words=tuple(words), labels={**self._wanted.labels, **named})

    def find(
        self,
        task: ProjectTask,
        tag: MediaTag,
        image: ImageRecipe,
        wanted: Wanted,
        deadline: float,
        *,
        page: int | None = None,
    ) -> Detections:
        """What the detector finds on one picture.

        Args:
            tag, page: where on ``task`` it is.
            image: it.
            deadline: when to give up waiting, on ``time.monotonic``.

        Raises:
            NoDetector: there is none.
            DetectorError: it did not answer.
            MediaError, VideoError, Busy: the picture cannot be had, or decoded, or not in time.
        """
        client = self.check()
        future = self._pool.submit(self._find, client, task, tag, image, wanted, deadline, page)
        try:
            return future.result(max(deadline - time.monotonic(), 0.0))
        except FutureTimeout as error:
            future.cancel()
            raise Busy("the detector is still looking; try again in a moment") from error

    def close(self) -> None:
        """Stop; what was asked is abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _find(
        self,
        client: DetectorClient,
        task: ProjectTask,
        tag: MediaTag,
        image: ImageRecipe,
        wanted: Wanted,
        deadline: float,
        page: int | None,
    ) -> Detections:
        pixels = self._pixels.find(image, deadline).load()
        height, width = pixels.shape[:2]
        file = jpeg(within(pixels, LONGEST_SIDE))
        del pixels  # while the detector looks
        sent = one_picture(task, tag)
        with self._address(file) as address:
            asked = sent.task(task.task.get("id"), address)
            left = deadline - time.monotonic()
            xml = sent.label_config
            with self._metrics.stage("detect"):
                entry = client.predict(asked, task.project, xml, wanted.text, left)
        left = deadline - time.monotonic()
        return read_detections(
            entry,
            sent,
            wanted,
            task=task,
            tag=tag,
            page=page,
            size=(width, height),
            decode=self._pixels.masks(max(left, 0.0)),
            late=lambda: time.monotonic() > deadline,
        )

    @contextmanager
    def _address(self, file: bytes) -> Iterator[str]:
        """Where the detector has a picture, as long as it is asked about it."""
        if self._fetch_url is None:
            yield "data:image/jpeg;base64," + base64.b64encode(file).decode("ascii")
            return
        with self.pictures.offering(file) as name:
            yield f"{self._fetch_url}/pictures/{name}.jpg"
