"""What the code in a decoding process has of its surroundings: the service at the other end of a
socket, one file that is read through it, and limits of memory and time.
"""

from __future__ import annotations

import io
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backend.pixels.sandbox.wire import Buffer, Channel

_READ_BYTES = 1 << 18
_MAX_PAYLOAD_BYTES = 1 << 30  # the table of a long video
_ALARM_AFTER_S = 2.0  # the service, which has the same limit, comes first and can explain

Serve = Callable[["Session", Mapping[str, Any]], None]
"""Answers one request of the service."""


class Session:
    """What the code that serves requests needs of the process it runs in.

    Attributes:
        channel: to the service.
        memory: limits what decoding may take up.
        payload: what came with the request, without the head of the file.
        seconds: what the work at hand may take.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.memory = Memory()
        self.payload = b""
        self.seconds = 0.0
        self._head = b""
        self._early: deque[dict[str, Any]] = deque()

    def next_request(self) -> dict[str, Any]:
        """Wait for the service."""
        if self._early:
            self.payload = b""
            return self._early.popleft()
        request = self.channel.receive()
        whole = bytes(self.channel.take(_MAX_PAYLOAD_BYTES))
        if "head" in request:
            self._head, whole = whole[: request["head"]], whole[request["head"] :]
        self.payload = whole
        return request

    def allow(self, seconds: float) -> None:
        """Start the time for the work at hand."""
        self.seconds = seconds
        alarm(seconds + _ALARM_AFTER_S)

    def send(self, header: Mapping[str, Any], payload: Buffer = b"") -> None:
        """Send an answer, however long the service takes to read it."""
        alarm(0)
        self.channel.send(header, payload)
        self.allow(self.seconds)

    def open_file(self, request: Mapping[str, Any]) -> io.BufferedReader:
        """Let the file be read that this request and the next ones are about."""
        return io.BufferedReader(_FileOfTheService(self, request["size"]), _READ_BYTES)

    def read_bytes(self, position: int, target: memoryview) -> int:
        """Put bytes of the file into ``target``; returns how many, 0 at its end."""
        if position < len(self._head):
            known = self._head[position : position + len(target)]
            target[: len(known)] = known
            return len(known)
        return self._ask_for_bytes(position, target)

    def _ask_for_bytes(self, position: int, target: memoryview) -> int:
        self.channel.send({"read": [position, len(target)]})
        alarm(0)  # how long the service takes is its own affair
        header = self.channel.receive()
        while "seconds" in header:  # the next request, sent before the service saw this question
            self._early.append(header)
            header = self.channel.receive()
        alarm(self.seconds + _ALARM_AFTER_S)
        if "failed" in header:
            raise OSError("the service could not read the file")
        count = self.channel.pending
        self.channel.take_into(target[:count])
        return count


class _FileOfTheService(io.RawIOBase):
    """A file that is read through the service."""

    def __init__(self, session: Session, size: int) -> None:
        self._session, self._size = session, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")[: max(0, self._size - self._position)]
        count = self._session.read_bytes(self._position, view) if view else 0
        self._position += count
        return count


class Memory:
    """The address space of this process, limited anew for every file.

    Measured from what the interpreter and the libraries take up. Where the system does not say
    how much that is (macOS, which enforces no such limit either), nothing is limited.
    """

    def __init__(self) -> None:
        self._base: int | None = None
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            self._base = pages * resource.getpagesize()

    def limit(self, more: int) -> None:
        """Allow ``more`` bytes beyond what is taken up without any file."""
        if self._base is None:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = self._base + more
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def alarm(seconds: float) -> None:
    """End the process in that many seconds; 0 calls it off. The service watches too, but if it
    dies, nobody else would end a decoder that hangs."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
