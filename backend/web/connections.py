"""Takes requests in whole before a thread is given to them: a gunicorn worker on waitress.

One thread reads from all connections, so a slow sender costs a place among the connections and no
thread that answers. Heads and bodies have their time and large bodies their room; where connections
run out, the one that has kept the server waiting longest goes. A request that is refused for its
head (``backend/web/door.py``) is answered without its body.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn.workers.base import Worker as GunicornWorker
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

from backend.settings import MIB, Settings
from backend.web.door import ARRIVED, REFUSAL, Door, Refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head
REQUEST_SECONDS = 60.0  # from the first byte to the last
REPLY_SECONDS = 60.0  # in which the caller takes what was answered, or of a stream the next piece
IDLE_SECONDS = 30.0  # without a request
LINGER_SECONDS = 5.0  # in which who was refused may read why
# Each may have a file with a body; a process is often allowed 1,024 files.
MAX_CONNECTIONS = 512
SMALL = MIB  # bodies up to here always find room
ON_DISK = 8 * MIB  # bodies from here on are kept in temporary files
AHEAD = 8 * MIB  # of a stream, made before its caller has taken it; other replies are one piece

_TOO_SLOW = Refusal(
    HTTPStatus.REQUEST_TIMEOUT, f"the request was not here whole after {REQUEST_SECONDS:.0f} s"
)
_NO_ROOM = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "the backend is busy with other large requests; try again soon"
)


class Intake(HTTPRequestParser):
    """A request as it comes in."""

    refusal: Refusal | None = None
    size = 0  # of the body: as declared, or the most that it may come to
    arrived: float | None = None  # when it was here whole, on the server's clock

    def __init__(self, adj: Adjustments, server: Server) -> None:
        super().__init__(adj)
        self._server = server

    def parse_header(self, header_plus: bytes) -> None:
        """Read the head, and decide over it."""
        try:
            super().parse_header(header_plus)
        except (TransferEncodingNotImplemented, ValueError) as error:
            # A half IPv6 address, and a length of thousands of digits, are ValueErrors.
            raise ParsingError(str(error)) from error
        door = self._server.door
        refusal = door.refusal(self.path, self._header)
        if refusal is None and self.body_rcv is not None:
            size = door.limit(self.path) if self.chunked else self.content_length
            refusal = None if self._server.has_room(size) else _NO_ROOM
            self.size = size
        if refusal is not None:
            self.refuse(refusal)

    def received(self, data: bytes) -> int:
        """Take the next bytes; returns how many."""
        taken: int = super().received(data)
        if self.chunked and self.body_bytes_received > self.size and self.refusal is None:
            self.refuse(self._server.door.too_large(self.path))
        if self.completed:
            self.arrived = self._server.clock()
        return taken

    def refuse(self, refusal: Refusal) -> None:
        """Have it answered with ``refusal``, without the rest of it, and the connection closed."""
        self.close()
        self.refusal = refusal
        self.body_rcv = None
        self.content_length = self.size = 0
        self.expect_continue = False
        self.headers["CONNECTION"] = "close"
        self.completed = True

    def _header(self, name: str) -> str | None:
        if self.chunked and name == "Transfer-Encoding":
            return "chunked"  # which waitress has taken out
        value: str | None = self.headers.get(name.upper().replace("-", "_"))
        return value


class _Task(WSGITask):
    """Hands on to the application a refusal, which it has the words for, and when the request was
    here."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[REFUSAL] = self.request.refusal
        environ[ARRIVED] = self.request.arrived
        return environ


class Connection(HTTPChannel):
    """One connection, with the time that its caller has for the next thing to do."""

    task_class = _Task
    request: Intake | None  # as far as it has come in

    def __init__(self, server: Server, sock: socket.socket, *rest: Any, **named: Any) -> None:
        self.parser_class = partial(Intake, server=server)
        self.since = server.clock()  # when the caller's turn began
        self._refused = self._lingering = False
        super().__init__(server, sock, *rest, **named)

    @property
    def is_waiting(self) -> bool:
        """Whether it is the caller's turn to send something."""
        return not (self.requests or self.total_outbufs_len or self.will_close)

    def is_overdue(self, now: float) -> bool:
        """Whether the caller has had its time."""
        if self.requests and self.total_outbufs_len <= AHEAD:
            return False
        if self._lingering:
            limit = LINGER_SECONDS
        elif self.total_outbufs_len:
            limit = REPLY_SECONDS
        elif self.request is None:
            limit = IDLE_SECONDS
        else:
            limit = REQUEST_SECONDS if self.request.headers_finished else HEAD_SECONDS
        return now - self.since > limit

    def give_up(self) -> None:
        """Wait no longer; whoever had sent a whole head is told."""
        with self.requests_lock:
            late, self.request = self.request, None
            if late is not None and late.headers_finished and not self._lingering:
                late.refuse(_TOO_SLOW)
                self.requests.append(late)
                self.server.add_task(self)
                return
        self.handle_close()  # at once: ``will_close`` waits until the caller reads

    def received(self, data: bytes) -> bool:
        """Take bytes off the connection; those that follow a refusal are thrown away."""
        if self._lingering:
            return False
        if self.request is None:
            self.since = self.server.clock()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer one request, in a thread."""
        self._refused = self.requests[0].refusal is not None
        super().service()

    def write_soon(self, data: Any) -> int:
        """Send as much of a reply as the connection takes at once, and the rest later."""
        self.since = self.server.clock()
        return int(super().write_soon(data))

    def handle_close(self) -> None:
        """Close it. Bytes that nobody reads would make the system cut off the reply to a caller
        that still sends, so what was refused is closed on this side first."""
        if self._refused and not self._lingering and self.connected:
            self._lingering, self.will_close = True, False
            self.since = self.server.clock()
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the caller was faster
            else:
                return
        super().handle_close()


class Server(TcpWSGIServer):
    """The connections of one listening socket.

    Args:
        application: is called in one of ``threads`` threads, with whole requests.
        clock: seconds, from any beginning.
    """

    channel_class = Connection

    def __init__(
        self,
        application: WSGIApplication,
        listening: socket.socket,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.door = Door(settings)
        self.clock = clock
        self._large_bodies = settings.max_body_bytes
        self._evicted = 0
        # A line for every request that waits for a thread; the metrics count what is told "busy".
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(settings.threads)
        super().__init__(
            application,
            map={},
            _sock=listening,
            dispatcher=dispatcher,
            adj=Adjustments(
                ident=None,
                cleanup_interval=1,
                connection_limit=sys.maxsize,  # see handle_accept
                max_request_header_size=64 * 1024,
                max_request_body_size=sys.maxsize,  # the door knows each route's
                inbuf_overflow=ON_DISK,
                # A thread waits for a slow reader between the pieces of a stream only.
                outbuf_high_watermark=AHEAD,
                log_socket_errors=False,
            ),
            sockinfo=(listening.family, listening.type, listening.proto, listening.getsockname()),
            bind_socket=False,
        )

    def turn(self, seconds: float) -> None:
        """Serve what there is to read and to write; wait for it up to ``seconds``."""
        wasyncore.loop(seconds, use_poll=True, map=self._map, count=1)

    def has_room(self, size: int) -> bool:
        """Whether a body of so many bytes may come in: large ones together are as large as the
        largest that is taken."""
        if size <= SMALL:
            return True
        held = sum(
            request.size
            for channel in self.active_channels.values()
            for request in (channel.request, *channel.requests)
            if request is not None and request.size > SMALL
        )
        return held + size <= self._large_bodies

    def handle_accept(self) -> None:
        """Take a connection; beyond their number, the one goes that waits longest."""
        super().handle_accept()
        if len(self.active_channels) > MAX_CONNECTIONS:
            waiting = [each for each in self.active_channels.values() if each.is_waiting]
            if waiting:
                min(waiting, key=lambda each: each.since).will_close = True
                self._evicted += 1

    def maintenance(self, now: float) -> None:
        """Give up on those who have had their time; waitress calls it once a second."""
        overdue = [each for each in self.active_channels.values() if each.is_overdue(self.clock())]
        for each in overdue:
            each.give_up()
        if self._evicted:
            logger.warning("%d connections were closed to make room for others", self._evicted)
            self._evicted = 0

    def stop(self, seconds: float) -> None:
        """Take no more connections; end when all that is under way is answered, and after
        ``seconds`` at the latest."""
        wasyncore.dispatcher.close(self)
        ends = self.clock() + seconds
        while self.is_answering and self.clock() < ends:
            self.turn(0.1)

    @property
    def is_answering(self) -> bool:
        """Whether a whole request has not been answered to the last byte."""
        return any(
            each.requests or each.total_outbufs_len for each in self.active_channels.values()
        )


class Worker(GunicornWorker):
    """The process that holds the model; gunicorn's master starts it, stops it and starts it anew
    where it dies or says nothing for ``--timeout``."""

    server: Server | None = None

    def run(self) -> None:
        """Serve until gunicorn says stop."""
        [listener] = self.sockets
        self.server = Server(self.wsgi, listener.sock, Settings.from_env(os.environ))
        while self.alive and os.getppid() == self.ppid:
            self.notify()
            self.server.turn(1.0)
        self.server.stop(self.cfg.graceful_timeout)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop soon; a signal that comes between two turns is seen at once, too."""
        super().handle_exit(sig, frame)
        if self.server is not None:
            self.server.pull_trigger()
