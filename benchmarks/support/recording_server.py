"""A real HTTP server on loopback that records every header it receives."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Reply:
    """One answer. ``length`` may announce more than is sent; ``hang`` keeps the connection open
    that many seconds after the body; ``drip`` pauses that many seconds after every byte."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    hang: float = 0.0
    drip: float = 0.0


Handler = Callable[[Seen], Reply]


class RecordingServer:
    """Answers by path prefix, the longest first; 404 elsewhere."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._routes: dict[str, Handler] = {}
        self._http = _Server(("127.0.0.1", 0), _handler_class(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._http.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def route(self, prefix: str, handler: Handler | Reply) -> None:
        self._routes[prefix] = handler if callable(handler) else lambda seen: handler

    def serve(self, path: str, body: bytes, **headers: str) -> None:
        """A file that honours Range and If-None-Match the way static servers do."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.route(path, lambda seen: file_reply(seen, body, names))

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        for prefix in sorted(self._routes, key=len, reverse=True):
            if seen.target.startswith(prefix):
                return self._routes[prefix](seen)
        return Reply(404)

    def count(self, path: str = "/") -> int:
        return sum(seen.target.startswith(path) for seen in self.seen)

    def header_values(self, name: str) -> list[str]:
        return [seen.headers[name] for seen in self.seen if name in seen.headers]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what several tests are about."""


def _handler_class(server: RecordingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = server.answer(Seen(self.command, self.path, headers, body))
            self.send_response(reply.status)
            length = len(reply.body) if reply.length is None else reply.length
            names = {name.lower() for name in reply.headers}
            if reply.status != 304 and "transfer-encoding" not in names:
                self.send_header("Content-Length", str(length))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self._send_body(reply)
            if length != len(reply.body) or reply.hang:
                time.sleep(reply.hang)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def _send_body(self, reply: Reply) -> None:
            if not reply.drip:
                self.wfile.write(reply.body)
                return
            for position in range(len(reply.body)):
                self.wfile.write(reply.body[position : position + 1])
                time.sleep(reply.drip)

        do_GET = do_POST = do_HEAD = do_PATCH = do_DELETE = _respond

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    return Handler


def file_reply(seen: Seen, body: bytes, headers: dict[str, str]) -> Reply:
    etag = headers.get("ETag")
    if etag and seen.headers.get("if-none-match") == etag:
        return Reply(304, headers=headers)
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", ""))
    if not asked:
        return Reply(200, body, headers)
    start = int(asked[1])
    end = min(int(asked[2]) if asked[2] else len(body) - 1, len(body) - 1)
    content_range = {"Content-Range": f"bytes {start}-{end}/{len(body)}"}
    return Reply(206, body[start : end + 1], headers | content_range)


@contextmanager
def recording_server() -> Iterator[RecordingServer]:
    server = RecordingServer()
    try:
        yield server
    finally:
        server.close()
