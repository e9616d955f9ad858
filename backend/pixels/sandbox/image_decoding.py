"""Images decoded in a few warm processes beside the service."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backend.media.errors import MediaError, Reason
from backend.pixels.sandbox.process import WORKER, Cause, DecoderGone, DecodingProcess, plain

_SECONDS = 15.0
_PIXELS_PER_SECOND = 2_000_000
_HINT = "Check that it opens in other programs, and save it anew there."


class ImageDecoder:
    """Decodes images as ``backend.pixels.images`` does; safe to share between threads. The
    processes end with it, or with the service.

    Args:
        max_pixels: larger images are refused before they are decoded.
        warm: processes that are kept ready.
        most: images decoded at the same time; further ones wait for their turn.
        seconds: what decoding may take for any image; large ones get more.
        module: what the processes run; a test may run one that misbehaves.
    """

    def __init__(
        self,
        *,
        max_pixels: int,
        warm: int = 2,
        most: int = 6,
        seconds: float = _SECONDS,
        module: str = WORKER,
    ) -> None:
        self._max_pixels, self._seconds = max_pixels, seconds
        self._warm, self._most, self._module = warm, most, module
        self._changed = threading.Condition()
        self._closed = False
        self._idle = [self._start() for _ in range(warm)]
        self._busy: set[DecodingProcess] = set()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        self.failures = 0  # processes lost

    def load(self, source: Path | BinaryIO) -> np.ndarray:
        """Decode an image.

        Args:
            source: a path, or a seekable binary file, which is not closed.

        Returns:
            uint8 RGB [H, W, 3], upright, contiguous and writable.

        Raises:
            MediaError: it is no image, of an unknown format, damaged, truncated or too large, or
                the decoder hung or crashed; or what reading the file raises.
        """
        if not isinstance(source, Path):
            return self._load(source)
        try:
            file = source.open("rb")
        except OSError as error:
            raise MediaError(
                f"The downloaded image cannot be read back: {error.strerror}.",
                "Try again.",
                reason=Reason.STORAGE,
            ) from error
        with file:
            return self._load(file)

    def close(self) -> None:
        """End all processes; images being decoded fail."""
        with self._changed:
            self._closed = True
            for process in self._busy:
                process.kill()
            self._changed.notify_all()
            self._finalizer()

    def _load(self, file: BinaryIO, *, again: bool = True) -> np.ndarray:
        process, begun = self._take(), False
        try:
            most = self._seconds_for(self._max_pixels)
            process.open(file, {"max_pixels": self._max_pixels}, seconds=most)
            begun = True
            return self._decode(process)
        except DecoderGone as gone:
            with self._changed:
                self.failures += 1
            if begun or not again:
                raise self._explain(gone.cause, begun) from gone
        finally:
            self._give_back(process)
        # A warm process that the system killed while it waited: the image has no part in it.
        return self._load(file, again=False)

    def _decode(self, process: DecodingProcess) -> np.ndarray:
        process.allow(self._seconds)
        width, height = self._size(process, _checked(process.answer()), "image")
        process.allow(self._seconds_for(width * height))
        width, height = self._size(process, _checked(process.answer()), "decoded")
        pixels = np.empty((height, width, 3), np.uint8)
        whole = memoryview(pixels.data).cast("B")
        top = 0
        while top < height:
            rows = _checked(process.answer()).get("rows")
            if type(rows) is not int or not 0 < rows <= height - top:
                raise process.bad_answer()
            process.take_into(whole[top * width * 3 : (top + rows) * width * 3])
            top += rows
        return pixels

    def _size(self, process: DecodingProcess, answer: dict[str, Any], name: str) -> tuple[int, int]:
        size = answer.get(name)
        if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
            raise process.bad_answer()
        width, height = size
        if min(width, height) < 1 or width * height > self._max_pixels:
            raise process.bad_answer()
        return width, height

    def _seconds_for(self, pixels: int) -> float:
        return self._seconds + pixels / _PIXELS_PER_SECOND

    # --- the processes -------------------------------------------------------------------------

    def _start(self) -> DecodingProcess:
        return DecodingProcess("images", module=self._module)

    def _take(self) -> DecodingProcess:
        """A process for one image: a warm one, a new one, or the next one that is free."""
        deadline = time.monotonic() + self._seconds_for(self._max_pixels)
        with self._changed:
            while not self._closed:
                while self._idle:
                    process = self._idle.pop()
                    if process.alive:
                        self._busy.add(process)
                        return process
                    process.close()
                if len(self._busy) < self._most:
                    process = self._start()
                    self._busy.add(process)
                    return process
                if not self._changed.wait(deadline - time.monotonic()):
                    break
        raise MediaError(
            "The backend has too many images to decode at once."
            if not self._closed
            else "The backend is stopping.",
            "Try again in a moment.",
            reason=Reason.TIMEOUT,
        )

    def _give_back(self, process: DecodingProcess) -> None:
        with self._changed:
            self._busy.remove(process)
            keep = process.alive and not self._closed and len(self._idle) < self._warm
            if keep:
                self._idle.append(process)
            while not self._closed and len(self._idle) < self._warm:
                self._idle.append(self._start())
            self._changed.notify()
        if not keep:
            process.close()

    def _explain(self, cause: Cause, begun: bool) -> MediaError:
        if not begun:
            return MediaError(
                "The backend's image decoder was ended before it began.",
                "Try again in a moment; the machine may be short of memory, see the backend's log.",
                reason=Reason.FAILED,
            )
        sentence = {
            Cause.MEMORY: "The image takes more memory to decode than its size allows for.",
            Cause.HUNG: "The image took too long to decode, so its decoder was stopped.",
            Cause.CRASHED: "The image made its decoder crash; the file is damaged.",
            Cause.DEFECT: "The image could not be decoded; the backend's log says why.",
        }[cause]
        reason = Reason.TOO_LARGE if cause is Cause.MEMORY else Reason.DAMAGED
        return MediaError(sentence, _HINT, reason=reason)


def _close_all(processes: list[DecodingProcess]) -> None:
    while processes:
        processes.pop().close()


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that is no error. Raises the MediaError it describes."""
    if answer.get("error") != "media":
        return answer
    try:
        reason = Reason(answer.get("reason"))
    except ValueError:
        reason = Reason.DAMAGED
    sentence, hint = plain(answer.get("sentence")), plain(answer.get("hint"))
    raise MediaError(sentence, hint, reason=reason)
