"""The pictures behind masks, for exports that hold them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from backend.export.masks import Kind, Media
from backend.media.cache import MediaFile
from backend.media.resolver import MediaResolver
from backend.pixels import jpegs
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.videos import VideoFrames

JPEG_QUALITY = 92
JPEG = ".jpg"
_BEGINNINGS = ((b"\xff\xd8\xff", JPEG), (b"\x89PNG\r\n\x1a\n", ".png"), (b"BM", ".bmp"))
"""What files begin with that are copied as they are; others become JPEGs."""


class MediumPictures:
    """The pages of one medium, to be had in ascending order."""

    def __init__(
        self,
        media: Media,
        resolver: MediaResolver,
        decode: Callable[[Path], np.ndarray],
        video: VideoFrames | None,
    ) -> None:
        self._media, self._resolver = media, resolver
        self._decode, self._video = decode, video

    def get(self, index: int, *, jpeg: bool) -> tuple[str, bytes | MediaFile]:
        """A page's file: the ending of its name, and its content or where that is,
        for as long as that value lives.

        Args:
            jpeg: whatever it is, make a JPEG of it.

        Raises:
            MediaError, VideoError: it cannot be had, or not be decoded.
        """
        if self._video is not None:
            return JPEG, jpegs.jpeg(self._video[index], JPEG_QUALITY)
        address = self._media.addresses[index]
        file = self._resolver.fetch(address, task_id=self._media.task)
        ending = _ending(file.path)
        if ending is None or (jpeg and ending != JPEG):
            return JPEG, jpegs.jpeg(self._decode(file.path), JPEG_QUALITY)
        return ending, file


@contextmanager
def pictures_of(
    media: Media, resolver: MediaResolver, decode: Callable[[Path], np.ndarray]
) -> Iterator[MediumPictures]:
    """The pictures of a medium; of a video, its frames.

    Args:
        decode: makes pixels of a file that somebody else wrote.
    """
    with ExitStack() as opened:
        video = None
        if media.kind is Kind.VIDEO:
            file = opened.enter_context(resolver.open(media.addresses[0], task_id=media.task))
            video = opened.enter_context(open_video(file))
        yield MediumPictures(media, resolver, decode, video)


def _ending(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(16)
    return next((ending for begin, ending in _BEGINNINGS if head.startswith(begin)), None)
