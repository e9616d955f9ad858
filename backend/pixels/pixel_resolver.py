"""From recipes to pixels, with the media, caches and decoders of this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.labelstudio.read_results import DecodeMask
from backend.media.cache import MediaFile
from backend.media.errors import MediaError, Reason
from backend.media.task_media import Fetcher, TaskMedia
from backend.metrics import Metrics
from backend.pixels.open_videos import OpenVideos
from backend.pixels.pages import ImageSequence
from backend.pixels.recipes import Frame, FramesRecipe, ImageRecipe, Picture, Video
from backend.pixels.videos import VideoFrames

VIDEO_SECONDS = 600.0  # longest wait for a video, inside a job
PAGE_SECONDS = 120.0  # and for one page of a sequence


@dataclass(frozen=True)
class ImageSource:
    """What the recipe of an image leads to.

    Attributes:
        key: the same for the same bytes, different for others (a content digest).
        load: decodes it to uint8 RGB ``[H, W, 3]``; called at most once per encode, and
            not at all when the embedding is cached.
    """

    key: str
    load: Callable[[], np.ndarray]


class Decoder(Protocol):
    """What is needed of ``ImageDecoder``."""

    def load(self, source: Path, /) -> np.ndarray: ...

    def masks(self, seconds: float = ..., /) -> DecodeMask: ...


class PixelResolver:
    """Turns recipes into pixels; safe to share between threads.

    Args:
        fetcher: has the credentials that addresses need.
        decoder: of images and masks.

    Attributes:
        videos: reads their indexes and frames.
        masks: what decodes the masks of a request, see ``ImageDecoder.masks``.
    """

    def __init__(self, fetcher: Fetcher, metrics: Metrics, decoder: Decoder) -> None:
        self._media = TaskMedia(fetcher, metrics)
        self._decoder = decoder
        self.masks = decoder.masks
        self.videos = OpenVideos(self._media)

    def find(self, image: ImageRecipe, deadline: float) -> ImageSource:
        """An image, not decoded yet. A picture is fetched: its key is that of its content.

        Args:
            deadline: when to give up waiting, on ``time.monotonic``; a download goes on then, and
                serves the next request.

        Raises:
            MediaError: it cannot be fetched.
            Busy: it is still being downloaded at the deadline.
        """
        if isinstance(image, Frame):
            key = f"{image.content_key}:frame:{image.index}"
            return ImageSource(key, partial(self.videos.read, image, deadline))
        file = self._media.file(image.address, image.task_id, deadline)
        return ImageSource(file.content_key, partial(self._load, file, image, deadline))

    def frames(self, recipe: FramesRecipe) -> VideoFrames | ImageSequence:
        """All frames of a video or a sequence for one reader, who closes them. Waits as long as a
        job may.

        Raises:
            MediaError, VideoError, Busy: they cannot be had, read, or not in time.
        """
        if isinstance(recipe, Video):
            return self.videos.open(recipe, time.monotonic() + VIDEO_SECONDS)[1]
        return ImageSequence([partial(self._page, each) for each in recipe.pictures])

    def close(self) -> None:
        """Stop; downloads under way are abandoned."""
        self.videos.close()
        self._media.close()

    def _load(self, file: MediaFile, picture: Picture, deadline: float) -> np.ndarray:
        try:
            return self._decoder.load(file.path)
        except MediaError as error:
            if error.reason not in (Reason.DAMAGED, Reason.NOT_AN_IMAGE):
                raise
            anew = self._media.anew(file, picture.address, picture.task_id, deadline)
            if anew is None:
                raise
            if anew.content_key != file.content_key:
                sentence = "The picture has been replaced meanwhile."
                raise MediaError(sentence, "Try again.", reason=Reason.FAILED) from None
            return self._decoder.load(anew.path)

    def _page(self, page: Picture) -> np.ndarray:
        return self.find(page, time.monotonic() + PAGE_SECONDS).load()
