"""An HTTP session that keeps nothing, and follows no redirect by itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

CONNECTIONS = 16  # that are kept open to one server


class _HandDrivenSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: redirects are judged one by one. Even with ``allow_redirects=False`` requests
        prepares the next hop, and reads the whole body of the redirect for it, however long."""


def new_session(verify: bool | str, adapter: HTTPAdapter | None = None) -> requests.Session:
    """A session without cookies, retries, or anything from the environment.

    Args:
        verify: True, False, or the path of a CA bundle.
        adapter: makes the connections; the usual one where None.
    """
    session = _HandDrivenSession()
    # With trust_env, requests lets ~/.netrc replace the Authorization header, and a proxy would
    # hide which address is connected to.
    session.trust_env = False
    session.verify = verify
    # Cookies know no ports: a Label Studio session cookie would go to its neighbours too.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter or HTTPAdapter(pool_maxsize=CONNECTIONS))
    return session


def redirect_target(response: requests.Response) -> str:
    """The URL that a redirect leads to; "" where it is none."""
    try:
        return urljoin(response.url, response.headers["Location"])
    except ValueError:  # unbalanced brackets of an IPv6 address
        return ""


def timed_adapter() -> HTTPAdapter:
    """Makes connections whose answers must have all their headers within the time for reading: a
    socket's time-out starts anew with every byte, so it alone could be stretched for hours."""
    adapter = HTTPAdapter(pool_maxsize=CONNECTIONS)
    adapter.poolmanager.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedTLSPool}
    return adapter


class _Timed(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as in urllib3
        with answered_within(self, self.timeout if isinstance(self.timeout, int | float) else 60.0):
            return super().getresponse()


class _TimedTLS(_Timed, HTTPSConnection):
    pass


class _TimedPool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _TimedTLSPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTLS


@contextmanager
def answered_within(connection: HTTPConnection, seconds: float) -> Iterator[None]:
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
