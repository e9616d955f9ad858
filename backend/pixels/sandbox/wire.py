"""Messages between the service and a decoding process: a small JSON header and raw bytes.

Nothing is pickled. The receiver takes a message for what its fields say and no more, as a decoder
that was taken over by a hostile file may send anything.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

_HEAD = struct.Struct("!IQ")  # bytes of the header, bytes of the payload
_MAX_HEADER_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 20

Buffer = bytes | memoryview


class Closed(Exception):
    """The other side is gone."""


class BadMessage(Exception):
    """The other side sent something that is no message, or not the one that was due."""


class Channel:
    """One end of a stream socket. For one thread at a time.

    Sending and receiving raise ``Closed`` where the other side is gone, and ``TimeoutError`` once
    the deadline has passed.

    Attributes:
        pending: bytes of the last message's payload that were not taken yet.
        deadline: by when the other side must have done its part, on ``time.monotonic``; None waits
            for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self.pending = 0
        self.deadline: float | None = None

    def send(self, header: Mapping[str, Any], payload: Buffer = b"") -> None:
        text = json.dumps(header).encode()
        view = memoryview(payload).cast("B")
        try:
            for part in (_HEAD.pack(len(text), len(view)) + text, view):
                self._set_timeout()
                self._socket.sendall(part)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error

    def receive(self) -> dict[str, Any]:
        """The next message's header; its payload must be taken before the next call. Raises
        BadMessage."""
        if self.pending:
            raise BadMessage(f"{self.pending} bytes were not asked for")
        head = bytearray(_HEAD.size)
        self._fill(memoryview(head))
        length, payload = _HEAD.unpack(head)
        if length > _MAX_HEADER_BYTES:
            raise BadMessage("the header is too long")
        text = bytearray(length)
        self._fill(memoryview(text))
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadMessage("the header is not JSON") from error
        if not isinstance(header, dict):
            raise BadMessage("the header is no object")
        self.pending = payload
        return header

    def take_into(self, target: memoryview) -> None:
        """Take the payload. Raises BadMessage where it has not exactly the size of ``target``
        (format "B")."""
        if self.pending != len(target):
            raise BadMessage(f"a payload of {self.pending} bytes where {len(target)} are due")
        self._fill(target)
        self.pending = 0

    def take(self, limit: int) -> bytearray:
        """Take the payload. Raises BadMessage where it has more than ``limit`` bytes."""
        if self.pending > limit:
            raise BadMessage(f"a payload of {self.pending} bytes where at most {limit} are due")
        data = bytearray(self.pending)
        self.take_into(memoryview(data))
        return data

    def wait_until_closed(self) -> None:
        """Return when the other side is gone; may be called in a thread of its own."""
        poll = select.poll()
        poll.register(self._socket, 0)  # hanging up is told without being asked for
        poll.poll()

    def close(self) -> None:
        """Hang up. May be called again."""
        self._socket.close()

    def _fill(self, target: memoryview) -> None:
        while len(target):
            try:
                self._set_timeout()
                count = self._socket.recv_into(target)
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed from error
            if not count:
                raise Closed
            target = target[count:]

    def _set_timeout(self) -> None:
        left = None if self.deadline is None else self.deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
