"""The operator's HTTP proxy, and which servers are reached through it."""

from __future__ import annotations

import base64
import socket
from urllib.parse import unquote, urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from backend.media.errors import MediaError, Reason


class Proxy:
    """Makes TLS connections for the backend (``CONNECT``), to addresses that were checked here.

    The proxy is told an IP address and no name: it does not look the name up a second time, so
    what it connects to is what was checked.

    Args:
        url: such as ``http://user:password@proxy:3128``.
        exceptions: hosts that are reached without it, and ends of their names, comma separated;
            ``*`` for all.
    """

    def __init__(self, url: str, exceptions: str = "") -> None:
        parts = urlsplit(url)
        self._place = (parts.hostname or "", parts.port or 80)
        names = (each.strip().lstrip(".").lower() for each in exceptions.split(","))
        self._exceptions = tuple(name for name in names if name)
        self._headers = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            encoded = base64.b64encode(login.encode()).decode("ascii")
            self._headers["Proxy-Authorization"] = f"Basic {encoded}"

    def serves(self, host: str, port: int) -> bool:
        """Whether a server is reached through it."""
        host = host.strip("[]").rstrip(".").lower()
        return not any(
            name in ("*", host, f"{host}:{port}") or host.endswith(f".{name}")
            for name in self._exceptions
        )

    def connect(self, address: str, port: int, timeout: float | None) -> socket.socket:
        """A socket that leads to an IP address.

        Raises:
            MediaError: there is none; the text says whether that is the proxy's doing.
        """
        name, number = self._place
        connection = HTTPConnection(name, number, timeout=timeout)
        connection.set_tunnel(address, port, headers=self._headers)
        try:
            connection.connect()
        except (OSError, HTTPError) as error:
            connection.close()
            raise MediaError(
                f"The proxy {name}:{number} makes no connection: {_why(error)}.",
                "Check HTTPS_PROXY and NO_PROXY of the backend, and what the proxy allows: it is "
                "asked for IP addresses.",
                reason=Reason.UNREACHABLE,
            ) from None
        sock = connection.sock
        connection.sock = None  # it is the caller's from here on
        return sock


def _why(error: Exception) -> str:
    """What the proxy answered, or why it did not."""
    text = str(error)
    said = text.startswith("Tunnel connection failed")
    return text.partition(": ")[2][:100] if said else type(error).__name__
