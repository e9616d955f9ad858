"""A video that is fetched anew where its bytes in the cache are not those that were stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from backend.media.stream import MediaStream
from backend.pixels.buffer import Picture
from backend.pixels.frame_table import VideoIndex
from backend.pixels.sandbox.video_decoding import RemoteDecoder
from backend.pixels.video_limits import DEFAULT_LIMITS, VideoError

FetchAnew = Callable[[MediaStream, float], tuple[MediaStream, VideoIndex] | None]
"""Fetches a video that cannot be decoded again, until a deadline, and closes what was open of it;
None where it is what was fetched."""


class MendedVideo:
    """Decodes as ``RemoteDecoder`` does; where that fails, and the fault is the cache's, it goes on
    with the file fetched anew, once.

    Args:
        file: closed with the decoder.
        index: of the file.
        anew: fetches it again.
        deadline: when to give up opening it, on ``time.monotonic``; a fetch later on may take as
            long as there is left now.

    Raises:
        VideoError: it cannot be decoded.
        MediaError, Busy: it cannot be fetched anew, or not in time.
    """

    def __init__(
        self, file: MediaStream, index: VideoIndex, anew: FetchAnew, deadline: float
    ) -> None:
        self._file, self._anew = file, anew
        self._patience = deadline - time.monotonic()
        self._mended = False
        self._decoder: RemoteDecoder | None = None
        self._index = index
        try:
            try:
                self._decode()
            except VideoError as error:
                self._mend(error)
        except BaseException:
            self.close()
            raise
        self.content_key, self.table, self.duration = index.content_key, index.table, index.duration
        self.width, self.height = index.width, index.height

    def read(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        """See ``Decoder.read``; raises as the constructor."""
        following = first
        try:
            for number, picture in self._opened().read(first, last):
                yield number, picture
                following = number + 1
        except VideoError as error:
            self._mend(error)
            yield from self._opened().read(following, last)

    def suspend(self) -> None:
        if self._decoder is not None:
            self._decoder.suspend()

    def close(self) -> None:
        """End the decoder and close the file."""
        if self._decoder is not None:
            self._decoder.close()
        self._file.close()

    def _opened(self) -> RemoteDecoder:
        if self._decoder is None:
            raise VideoError("The decoder of the video is gone.")
        return self._decoder

    def _decode(self) -> None:
        self._decoder = RemoteDecoder(self._file, DEFAULT_LIMITS, self._index.table)

    def _mend(self, error: VideoError) -> None:
        """Go on with the file fetched anew. Raises ``error`` where that does not help."""
        if self._mended:
            raise error
        self._mended = True
        found = self._anew(self._file, time.monotonic() + self._patience)
        if found is None:
            raise error
        if self._decoder is not None:
            self._decoder.close()
        self._decoder, (self._file, index) = None, found
        if not _same_frames(index, self._index):
            raise VideoError("The video has been replaced meanwhile; try again.") from None
        self._decode()


def _same_frames(one: VideoIndex, other: VideoIndex) -> bool:
    """Whether frames have the same numbers and sizes in both."""
    return (one.content_key, one.width, one.height, len(one.table)) == (
        other.content_key,
        other.width,
        other.height,
        len(other.table),
    )
