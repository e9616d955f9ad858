"""A decoding process as the service sees it: started, asked, watched, and killed when it must be.

The process reads files through the service: it asks for a range of bytes and waits. The time
that takes is the source's; all other time is the decoder's, and limited.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from backend.pixels.sandbox.wire import BadMessage, Channel, Closed

logger = logging.getLogger(__name__)

WORKER = "backend.pixels.sandbox.worker"
_START_SECONDS = 60.0
_EXIT_SECONDS = 5.0
_LONGEST_SENTENCE = 500
_HEAD_BYTES = 1 << 20
_LONGEST_READ = 1 << 23
# A decoder may read a file several times over (a search for an index, a seek), but not for ever.
_READS_PER_FILE = 8
_READ_IN_ANY_CASE = 1 << 26
_ROOT = Path(__file__).resolve().parents[3]
# The environment holds credentials: a decoder gets of it what finding libraries may need.
_INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME")


class Cause(enum.Enum):
    """Why a process had to go."""

    CRASHED = "crashed"
    HUNG = "hung"
    MEMORY = "ran out of memory"
    DEFECT = "failed"


class DecoderGone(Exception):
    """The process did not answer and was ended."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(f"the decoder {cause.value}")
        self.cause = cause


class DecodingProcess:
    """One process; one request at a time, by one thread at a time.

    It starts in the background: making one takes milliseconds, the first request waits.

    Args:
        kind: ``images`` or ``videos``.
        module: what is run; a test may run one that misbehaves.
    """

    def __init__(self, kind: str, *, module: str = WORKER) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - nothing of it is from outside
                [sys.executable, "-P", "-m", module, kind, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the service, which then ends this one
            )
        self._channel = Channel(ours)
        self._ready = False
        self._file: BinaryIO | None = None
        self._size = self._may_read = 0
        self._left = 0.0
        self._failure: Exception | None = None  # of reading the file

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(
        self, file: BinaryIO, request: Mapping[str, Any], payload: bytes = b"", *, seconds: float
    ) -> None:
        """Send the first request about a file, and see it begun; the answers come from ``answer``.

        Args:
            file: seekable; what the decoder reads from now on.
            seconds: what the decoder may take until it has answered, its reading not counted.

        Raises:
            DecoderGone: it is gone, and has not looked at the file.
            Exception: what reading the file raises.
        """
        self._file, self._size, self._failure = file, file.seek(0, os.SEEK_END), None
        file.seek(0)
        head = file.read(_HEAD_BYTES)  # the whole file mostly; saves asking for it
        if not self._ready:
            self._left = _START_SECONDS
            with self._exchange():
                self._channel.receive()
            self._ready = True
        sizes = {"size": self._size, "head": len(head)}
        self.ask({**request, **sizes}, head + payload, seconds=seconds)
        if self.answer().get("begun") is not True:
            raise self.bad_answer()

    def ask(self, request: Mapping[str, Any], payload: bytes = b"", *, seconds: float) -> None:
        """Send a further request about the file; see ``open``. Raises DecoderGone."""
        self._may_read = self._size * _READS_PER_FILE + _READ_IN_ANY_CASE
        self._left = seconds
        with self._exchange():
            self._channel.send({**request, "seconds": seconds}, payload)

    def allow(self, seconds: float) -> None:
        """Set anew how much time is left for the next answers."""
        self._left = seconds

    def answer(self) -> dict[str, Any]:
        """The next answer, whose payload is to be taken before anything else. The bytes of the
        file that the decoder asks for meanwhile are sent to it.

        Raises:
            DecoderGone: it hung, crashed, or sent a bad message; it is ended now.
            Exception: what reading the file raised.
        """
        while True:
            with self._exchange():
                header = self._channel.receive()
            if "read" in header:
                self._send_bytes(header["read"])
                continue
            if self._failure is not None:
                self.close()  # what it makes of a file that cannot be read is of no interest
                raise self._failure
            if header.get("error") in ("memory", "defect"):
                self.close()
                raise DecoderGone(Cause.MEMORY if header["error"] == "memory" else Cause.DEFECT)
            return header

    def take_into(self, target: memoryview) -> None:
        """Take the answer's payload, of exactly that size. Raises DecoderGone."""
        with self._exchange():
            self._channel.take_into(target)

    def take(self, limit: int) -> bytearray:
        """Take the answer's payload, at most ``limit`` bytes. Raises DecoderGone."""
        with self._exchange():
            return self._channel.take(limit)

    def bad_answer(self) -> DecoderGone:
        """The exception for an answer that cannot be right; the process is ended."""
        return self._gone(BadMessage("an answer that cannot be right"))

    def kill(self) -> None:
        """End it, from any thread; the thread that uses it finds it gone."""
        self._process.kill()

    def close(self) -> None:
        """End it and free everything. May be called again."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._file = None

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Time with the process, of which so much is left; it is taken off that.

        Raises:
            DecoderGone: it hung, crashed, or broke the rules; it is ended now.
            Exception: what reading the file raised, if that came before.
        """
        began = time.monotonic()
        self._channel.deadline = began + self._left
        try:
            yield
        except (Closed, BadMessage, TimeoutError) as error:
            gone = self._gone(error)
            raise self._failure or gone from error
        finally:
            self._left -= time.monotonic() - began

    def _send_bytes(self, asked: Any) -> None:
        """Answer a request for bytes of the file; ``_failure`` is what reading them raised."""
        with self._exchange():
            file, position, length = self._range(asked)
        header, data = {}, b""
        try:  # not the decoder's time
            file.seek(position)
            data = file.read(length)
        except Exception as error:  # noqa: BLE001 - raised by ``answer``
            self._failure, header = error, {"failed": True}
        with self._exchange():
            self._channel.send(header, data)

    def _range(self, asked: Any) -> tuple[BinaryIO, int, int]:
        """The file, and which of its bytes are asked for: position and length."""
        position, length = asked if isinstance(asked, list) and len(asked) == 2 else (-1, 0)
        if type(position) is not int or type(length) is not int:
            raise BadMessage("a range that is none")
        if self._file is None or position < 0 or not 0 < length <= _LONGEST_READ:
            raise BadMessage("a range that cannot be read")
        self._may_read -= length
        if self._may_read < 0:
            raise TimeoutError("the decoder reads in circles")
        return self._file, position, length

    def _gone(self, error: Exception) -> DecoderGone:
        """End the process and find out what became of it."""
        if isinstance(error, Closed):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_SECONDS)
        code = self._process.poll()
        self.close()
        if isinstance(error, TimeoutError) or code == -signal.SIGALRM:
            cause, what = Cause.HUNG, "took too long"
        elif code == -signal.SIGKILL:  # not ours: the system's, when memory runs out
            cause, what = Cause.MEMORY, "was killed"
        elif isinstance(error, BadMessage):
            cause, what = Cause.DEFECT, f"sent a bad message ({error})"
        else:
            cause, what = Cause.CRASHED, f"ended with code {code}"
        logger.warning("decoding process %d %s", self._process.pid, what)
        return DecoderGone(cause)


def plain(text: object) -> str:
    """A sentence that a process sent, fit for a message and a log: one line, not too long."""
    line = "".join(char if char.isprintable() else "?" for char in str(text))
    return line[:_LONGEST_SENTENCE]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    searched = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, searched)),
        "LANG": "C.UTF-8",
        # Threads of a kind that decoding does not use would only take up address space.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
