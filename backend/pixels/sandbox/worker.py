"""The decoding process, ``python -m backend.pixels.sandbox.worker KIND DESCRIPTOR``.

It serves one service over one inherited socket, one request after the other, until the service
hangs up. It has no network, no credentials and no files: even the file that it decodes it reads
by asking the service for ranges of bytes.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from backend.pixels.sandbox.limits import Memory, alarm, confine
from backend.pixels.sandbox.wire import Buffer, Channel, Closed, Nonsense

Serve = Callable[["Session", Mapping[str, Any]], None]

_READ_BYTES = 1 << 18
_MAX_PAYLOAD_BYTES = 1 << 30  # the table of a long video
_ALARM_AFTER_S = 2.0  # the service, which has the same limit, comes first and can explain


class Session:
    """What the code that serves requests needs of the process it runs in.

    Attributes:
        channel: to the service.
        memory: limits what decoding may take up.
        file: the file that the current requests are about.
        payload: what came with the request, without the head of the file.
        seconds: what the work at hand may take.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.memory = Memory()
        self.file: io.BufferedReader | None = None
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
        self.file = io.BufferedReader(_FileOfTheService(self, request["size"]), _READ_BYTES)
        return self.file

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

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted <= 0:
            return 0
        count = self._session.read_bytes(self._position, view[:wanted])
        self._position += count
        return count


def run(channel: Channel, serve: Serve) -> None:
    """Answer requests until the service hangs up."""
    session = Session(channel)
    threading.Thread(target=_end_with_the_service, args=(channel,), daemon=True).start()
    confine()
    channel.send({"ready": True})
    while True:
        request = session.next_request()
        session.allow(request["seconds"])
        if "head" in request:
            channel.send({"begun": True})  # from here on it may be the file's fault
        try:
            serve(session, request)
        except (Closed, Nonsense):
            raise
        except MemoryError:
            channel.send({"error": "memory"})
        except Exception:  # process boundary: this one lives on, and the log says what happened
            logging.exception("decoding failed")
            channel.send({"error": "defect"})
        alarm(0)


def _end_with_the_service(channel: Channel) -> None:
    """Do not go on decoding for nobody. Where a decoder never lets this thread run, the alarm
    ends it."""
    channel.wait_until_closed()
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Serve what the first argument names over the descriptor that the second one names."""
    logging.basicConfig(format="decoder: %(levelname)s %(message)s")
    kind, descriptor = arguments
    channel = Channel(socket.socket(fileno=int(descriptor)))
    serve = _server(kind)
    try:
        run(channel, serve)
    except (Closed, Nonsense):
        # Not a clean exit: destructors of decoders could hang just as decoding could.
        os._exit(0)


def _server(kind: str) -> Serve:
    """Only what the kind needs is imported: a process for images starts the sooner."""
    if kind == "images":
        from backend.pixels.sandbox.serve_images import serve_images

        return serve_images()
    from backend.pixels.sandbox.serve_videos import serve_videos

    return serve_videos()


if __name__ == "__main__":
    main(sys.argv[1:])
