"""Images, and the masks of regions, decoded in a few warm processes beside the service."""

from __future__ import annotations

import io
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backend.labelstudio.brush_rle import MAX_MASK_PIXELS
from backend.labelstudio.geometry import Mask
from backend.labelstudio.read_results import (
    BrushStrokes,
    DecodeMask,
    EncodedMask,
    UnreadableMask,
)
from backend.media.errors import MediaError, Reason
from backend.pixels.sandbox.process import WORKER, Cause, DecoderGone, DecodingProcess, plain
from backend.threads.caller import caller
from backend.threads.fair_pool import may_take

_SECONDS = 15.0
_PIXELS_PER_SECOND = 2_000_000
_MASKS_SECONDS = 60.0
_MOST_LOST = 3
_SPARE_SECONDS = 60.0  # that more processes than the warm ones stay after there were too few
_HINT = "Check that it opens in other programs, and save it anew there."


class ImageDecoder:
    """Decodes images as ``backend.pixels.images`` does; safe to share between threads. The
    processes end with it, or with the service.

    Args:
        max_pixels: larger images are refused before they are decoded.
        warm: processes that are kept ready; where these were too few, more are for a while, as a
            start costs more than most images do.
        most: images decoded at the same time, half of them for one project; further ones wait for
            their turn.
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
        self._too_few = float("-inf")  # when, last
        self._idle = [self._start() for _ in range(warm)]
        self._busy: dict[DecodingProcess, str] = {}  # and for which project
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
            return self._image(source)
        try:
            file = source.open("rb")
        except OSError as error:
            raise MediaError(
                f"The downloaded image cannot be read back: {error.strerror}.",
                "Try again.",
                reason=Reason.STORAGE,
            ) from error
        with file:
            return self._image(file)

    def masks(self, seconds: float = _MASKS_SECONDS) -> DecodeMask:
        """What decodes the masks of a request, one after the other.

        Args:
            seconds: for all of them together. Once they are used up, or a few masks have cost a
                process each, the others are refused.
        """
        return _Masks(self, time.monotonic() + seconds)

    def close(self) -> None:
        """End all processes; images being decoded fail."""
        with self._changed:
            self._closed = True
            for process in self._busy:
                process.kill()
            self._changed.notify_all()
            self._finalizer()

    def _image(self, file: BinaryIO) -> np.ndarray:
        most = self._seconds_for(self._max_pixels)
        request = {"kind": "image", "max_pixels": self._max_pixels}
        try:
            pixels, width = self._decoded(file, request, lambda width: 3 * width, most)
        except _Lost as lost:
            raise _explain(lost) from lost
        return pixels.reshape(len(pixels), width, 3)

    def mask(self, encoded: EncodedMask, seconds: float) -> Mask:
        """Decode one mask; see ``masks``, which bounds how many.

        Raises:
            MediaError: it cannot be decoded, or no process is free in time.
            DecoderGone: it hung or crashed.
        """
        request: dict[str, Any] = {"kind": "bitmask", "max_pixels": MAX_MASK_PIXELS}
        if isinstance(encoded, BrushStrokes):
            request |= {"kind": "brush", "picture": [encoded.width, encoded.height]}
            data = encoded.rle
        else:
            data = encoded.png
        packed, width = self._decoded(io.BytesIO(data), request, _bytes_of_bits, seconds)
        return np.unpackbits(packed, axis=1, count=width).view(bool)

    def _decoded(
        self,
        file: BinaryIO,
        request: Mapping[str, Any],
        row_bytes: Callable[[int], int],
        seconds: float,
        *,
        again: bool = True,
    ) -> tuple[np.ndarray, int]:
        """What a process makes of a file.

        Args:
            row_bytes: what a row of so many pixels comes in.
            seconds: longest wait for a process, and what decoding may take.

        Returns:
            uint8 ``[H, row_bytes]``, and the width in pixels.

        Raises:
            _Lost: the process hung or crashed.
        """
        process, begun = self._take(seconds), False
        try:
            process.open(file, request, seconds=seconds)
            begun = True
            process.allow(min(self._seconds, seconds))
            most = request["max_pixels"]
            width, height = _size(process, _checked(process.answer()), "image", most)
            process.allow(min(self._seconds_for(width * height), seconds))
            width, height = _size(process, _checked(process.answer()), "decoded", most)
            return _rows(process, height, row_bytes(width)), width
        except DecoderGone as gone:
            with self._changed:
                self.failures += 1
            if begun or not again:
                raise _Lost(gone.cause, begun) from gone
        finally:
            self._give_back(process)
        # A warm process that the system killed while it waited: the file has no part in it.
        return self._decoded(file, request, row_bytes, seconds, again=False)

    def _seconds_for(self, pixels: int) -> float:
        return self._seconds + pixels / _PIXELS_PER_SECOND

    # --- the processes -------------------------------------------------------------------------

    def _start(self) -> DecodingProcess:
        return DecodingProcess("images", module=self._module)

    def _take(self, seconds: float) -> DecodingProcess:
        """A process for one file: a warm one, a new one, or the next one that is free."""
        deadline = time.monotonic() + seconds
        owner = caller().owner
        with self._changed:
            while not self._closed:
                running = sum(each == owner for each in self._busy.values())
                if may_take(running, self._most - len(self._busy)):
                    if not self._idle:
                        self._too_few = time.monotonic()
                    process = self._warm_one() or self._start()
                    self._busy[process] = owner
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

    def _warm_one(self) -> DecodingProcess | None:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            process.close()
        return None

    def _give_back(self, process: DecodingProcess) -> None:
        with self._changed:
            del self._busy[process]
            spare = time.monotonic() - self._too_few < _SPARE_SECONDS
            wanted = 0 if self._closed else self._most if spare else self._warm
            ended = [process]
            if process.alive and wanted:
                self._idle.append(process)  # the last that is used is the first that is used again
                excess = max(0, len(self._idle) - wanted)
                ended, self._idle[:excess] = self._idle[:excess], []
            while not self._closed and len(self._idle) < self._warm:
                self._idle.append(self._start())
            self._changed.notify_all()
        for each in ended:
            each.close()


class _Lost(DecoderGone):
    """A process was lost; ``begun``: after it had begun to look at the file."""

    def __init__(self, cause: Cause, begun: bool) -> None:
        super().__init__(cause)
        self.begun = begun


class _Masks:
    """Decodes the masks of one request; see ``ImageDecoder.masks``."""

    def __init__(self, decoder: ImageDecoder, deadline: float) -> None:
        self._decoder = decoder
        self._deadline = deadline
        self._lost = 0
        self._last: tuple[EncodedMask, Mask | str] | None = None

    def __call__(self, encoded: EncodedMask) -> Mask:
        """See ``DecodeMask``. The last one is kept: what a region overlaps is asked object by
        object."""
        if self._last is None or self._last[0] != encoded:
            self._last = None  # before there are two
            self._last = encoded, self._decode(encoded)
        found = self._last[1]
        if isinstance(found, str):
            raise UnreadableMask(found)
        return found

    def _decode(self, encoded: EncodedMask) -> Mask | str:
        """The mask, or why there is none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            return "there was no time left to decode its mask"
        if self._lost >= _MOST_LOST:
            return "its mask is not looked at, as others made their decoders crash or hang"
        try:
            return self._decoder.mask(encoded, left)
        except MediaError as error:
            return f"its mask cannot be decoded ({error.sentence.rstrip('.')})"
        except DecoderGone as gone:
            self._lost += 1
            return f"its mask {_MASK_LOST[gone.cause]}"


_MASK_LOST = {
    Cause.MEMORY: "takes more memory to decode than its size allows for; draw it anew",
    Cause.HUNG: "took too long to decode; draw it anew",
    Cause.CRASHED: "made its decoder crash; draw it anew",
    Cause.DEFECT: "could not be decoded; the backend's log says why",
}


def _rows(process: DecodingProcess, height: int, row_bytes: int) -> np.ndarray:
    """The rows that a process sends, uint8 ``[height, row_bytes]``."""
    rows = np.empty((height, row_bytes), np.uint8)
    whole = memoryview(rows.data).cast("B")
    top = 0
    while top < height:
        count = _checked(process.answer()).get("rows")
        if type(count) is not int or not 0 < count <= height - top:
            raise process.bad_answer()
        process.take_into(whole[top * row_bytes : (top + count) * row_bytes])
        top += count
    return rows


def _bytes_of_bits(width: int) -> int:
    return -(-width // 8)


def _size(
    process: DecodingProcess, answer: dict[str, Any], name: str, max_pixels: int
) -> tuple[int, int]:
    size = answer.get(name)
    if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        raise process.bad_answer()
    width, height = size
    if min(width, height) < 1 or width * height > max_pixels:
        raise process.bad_answer()
    return width, height


def _explain(lost: _Lost) -> MediaError:
    if not lost.begun:
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
    }[lost.cause]
    reason = Reason.TOO_LARGE if lost.cause is Cause.MEMORY else Reason.DAMAGED
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
