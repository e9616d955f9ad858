"""A ``requests`` session that connects only where an address policy allows.

The check sits where the socket is opened, on the address it is opened to: a name that
resolves to a public address when asked first and to a private one later (DNS rebinding)
gains nothing, and neither does a URL that two parsers read differently.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.response import HTTPResponse

from backend.media.addresses import AddressPolicy


def guarded_session(
    policy: AddressPolicy, *, answer_seconds: float, verify: bool | str = True
) -> requests.Session:
    """A session without retries, redirects, cookies or anything from the environment.

    Args:
        policy: asked for every new connection; its ``MediaError`` reaches the caller.
        answer_seconds: how long a server may take over the TLS handshake, and over all headers
            of an answer. A socket's time-out starts anew with every byte, so it alone could be
            stretched for hours.
        verify: True, False, or the path of a CA bundle.
    """
    session = _HandDrivenSession()
    session.trust_env = False  # no ~/.netrc credentials, no proxy that would hide the address
    session.verify = verify
    # Cookies know no ports, and no task needs any.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = "label-studio-sam2"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _GuardedAdapter(policy, answer_seconds))
    return session


class _HandDrivenSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere. Even with ``allow_redirects=False`` requests prepares the next hop, and reads
        the whole body of the redirect for it, however long."""


class _GuardedAdapter(HTTPAdapter):
    def __init__(self, policy: AddressPolicy, answer_seconds: float) -> None:
        self._pool_classes = _pool_classes(policy, answer_seconds)
        super().__init__(max_retries=0, pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = self._pool_classes


def _pool_classes(
    policy: AddressPolicy, answer_seconds: float
) -> dict[str, type[HTTPConnectionPool]]:
    class Guarded(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, policy)

        def connect(self) -> None:
            with _hurry(self, answer_seconds):
                super().connect()

        def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as in urllib3
            # urllib3 logs the URL of an answer with malformed headers, signature and all.
            if self._response_options is not None:
                path = self._response_options.request_url.partition("?")[0]
                self._response_options = self._response_options._replace(request_url=path)
            with _hurry(self, answer_seconds):
                return super().getresponse()

    class GuardedTLS(Guarded, HTTPSConnection):
        pass

    class GuardedPool(HTTPConnectionPool):
        ConnectionCls = Guarded

    class GuardedTLSPool(HTTPSConnectionPool):
        ConnectionCls = GuardedTLS

    return {"http": GuardedPool, "https": GuardedTLSPool}


def _connect(connection: HTTPConnection, policy: AddressPolicy) -> socket.socket:
    """Open a socket to the first allowed address that answers.

    TLS is none the wiser: the certificate is checked against the host name as ever.
    """
    error: OSError | None = None
    timeout = connection.timeout if isinstance(connection.timeout, int | float) else None
    for address in policy.addresses(connection.host, connection.port):
        try:
            sock = socket.create_connection((address, connection.port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as failure:
            error = failure
        else:
            return sock
    if isinstance(error, TimeoutError):
        raise ConnectTimeoutError(connection, "connect timed out")
    raise NewConnectionError(connection, type(error).__name__)


@contextmanager
def _hurry(connection: HTTPConnection, seconds: float) -> Iterator[None]:
    """Cut the connection if the block is not done in time. Raises TimeoutError in that case,
    whatever the block made of it: headers that end early look like headers that end."""
    late = threading.Event()

    def cut() -> None:
        sock = connection.sock
        if sock is not None:
            late.set()
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():
            raise TimeoutError("the server takes too long over its headers") from None
