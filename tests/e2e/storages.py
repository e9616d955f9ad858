"""A proxy that records what passes to a server behind it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_PASSED_ON = 64 * 1024
# Of one connection, not of the message (RFC 9110, section 7.6.1).
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}


@dataclass(frozen=True)
class Passed:
    """A request that passed; header names in lower case."""

    target: str
    headers: dict[str, str]

    @property
    def is_signed(self) -> bool:
        """Whether the URL carries a signature."""
        return "signature=" in self.target.lower()

    @property
    def token(self) -> str:
        """The kind of token of Label Studio it carries; "" for none."""
        kind = self.headers.get("authorization", "").partition(" ")[0]
        return kind if kind in ("Token", "Bearer") else ""


class RecordingProxy:
    """Passes requests on to a server, as they are, and notes them.

    Args:
        upstream: the server's URL.
        prefix: a sub-path under which the server is published.
        ranges: False to drop the Range header, as some proxies do.
        bytes_per_second: what passes, of a slow connection; None for all there is.
    """

    def __init__(
        self,
        upstream: str,
        *,
        prefix: str = "",
        ranges: bool = True,
        bytes_per_second: int | None = None,
    ) -> None:
        parts = urlsplit(upstream)
        self.upstream = parts.hostname or "", parts.port or 80
        self.prefix, self.ranges = prefix, ranges
        self.pause = _PASSED_ON / bytes_per_second if bytes_per_second else 0.0
        self.passed: list[Passed] = []
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}{prefix}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave a body unread."""


@contextmanager
def recording_proxy(upstream: str, **options: Any) -> Iterator[RecordingProxy]:
    """A proxy for the time of the block."""
    proxy = RecordingProxy(upstream, **options)
    try:
        yield proxy
    finally:
        proxy.close()


def _handler(proxy: RecordingProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.passed.append(Passed(self.path, headers))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            dropped = _HOP_BY_HOP if proxy.ranges else {*_HOP_BY_HOP, "range"}
            kept = {n: v for n, v in self.headers.items() if n.lower() not in dropped}
            connection = http.client.HTTPConnection(*proxy.upstream, timeout=60)
            connection.connect()
            if proxy.pause:  # else all of it fits into the buffers on the way
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PASSED_ON)
            try:
                target = self.path.removeprefix(proxy.prefix)
                connection.request(self.command, target, body, kept)
                self._answer(connection.getresponse())
            finally:
                connection.close()

        def _answer(self, answer: http.client.HTTPResponse) -> None:
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            while chunk := answer.read(_PASSED_ON):
                self.wfile.write(chunk)
                time.sleep(proxy.pause)

        do_GET = do_POST = do_HEAD = do_PUT = _pass_on

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    return Handler
