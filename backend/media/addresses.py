"""Task data is hostile: which addresses may be connected to, and a session that goes nowhere else.

Anybody who can import tasks chooses what this service fetches. So only addresses that are
public, or that the operator named, are connected to. The check sits where the socket is opened,
on the address it is opened to, for every hop of a redirect: a name that resolves to a public
address when asked first and to a private one later (DNS rebinding) gains nothing, and neither
does a URL that two parsers read differently.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NewConnectionError
from urllib3.response import HTTPResponse
from urllib3.util import Url, parse_url

from backend.labelstudio.session import CONNECTIONS, answered_within, new_session
from backend.media.errors import MediaError, Reason, shown
from backend.media.proxy import Proxy

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All that IANA has given out for public use; a special purpose may be anywhere else.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Global to Python, some of it or in some versions: protocol assignments, and documentation.
_NEVER_PUBLIC = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "3fff::/20")]


def parse_http_url(url: str) -> Url:
    """Parse an http(s) URL exactly as the HTTP library will.

    Raises:
        MediaError: it is no such URL, or carries a user name, or is longer than 8192 characters.
    """
    if len(url) > _MAX_URL or any(char < " " or char in "\x7f\\" for char in url):
        raise MediaError("The task's media address is not a URL.", reason=Reason.REFUSED)
    try:
        parsed = parse_url(url)
    except LocationParseError:
        parsed = Url()
    if parsed.scheme not in _DEFAULT_PORTS or not parsed.host:
        raise MediaError(f"{shown(url)} is not an http or https URL.", reason=Reason.REFUSED)
    if parsed.auth:
        raise MediaError(
            f"{shown(url)} carries a user name and password, which browsers refuse too.",
            "Use a presigned URL or a storage connection.",
            reason=Reason.REFUSED,
        )
    return parsed


class AddressPolicy:
    """Decides which IP address a host name may be connected to at.

    Args:
        trusted_urls: servers the operator configured (Label Studio, the S3 endpoint); their
            host and port are allowed wherever they are.
        private_hosts: further allowed places in private networks: ``host``, ``host:port``, an
            address, or a network such as ``10.1.0.0/16``.
    """

    def __init__(self, *, trusted_urls: Iterable[str] = (), private_hosts: Iterable[str] = ()):
        self._hosts: set[tuple[str, int | None]] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for url in trusted_urls:
            parsed = parse_http_url(url)
            port = parsed.port or _DEFAULT_PORTS[parsed.scheme or ""]
            self._hosts.add(((parsed.host or "").strip("[]").lower(), port))
        for entry in private_hosts:
            self._allow(entry.strip().lower())

    def _allow(self, entry: str) -> None:
        with suppress(ValueError):
            self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            return
        host, colon, port = entry.rpartition(":")
        if colon and port.isdigit():
            self._hosts.add((host.strip("[]"), int(port)))
        elif entry:
            self._hosts.add((entry, None))

    def addresses(self, host: str, port: int) -> list[str]:
        """The IP addresses of ``host`` that may be connected to, in the resolver's order.

        Raises:
            MediaError: the name does not resolve, or to forbidden addresses only.
        """
        name = host.strip("[]").rstrip(".").lower()
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise MediaError(
                f"The host name {shown(name)} is unknown here.",
                "Check the address, or the DNS of the machine the backend runs on.",
                reason=Reason.UNREACHABLE,
            ) from None
        texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if self.names(name, port):
            return texts
        allowed = [text for text in texts if self._address_allowed(text)]
        if not allowed:
            raise MediaError(
                f"{name} is in a private or reserved network, where task data may not point.",
                f"If it is meant to, add {name} to ALLOWED_PRIVATE_HOSTS of the backend.",
                reason=Reason.REFUSED,
            )
        return allowed

    def names(self, host: str, port: int) -> bool:
        """Whether the operator named this very server."""
        name = host.strip("[]").rstrip(".").lower()
        return (name, port) in self._hosts or (name, None) in self._hosts

    def _address_allowed(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        spellings = [address, *_embedded(address)]
        if any(spelling in network for spelling in spellings for network in self._networks):
            return True
        return all(is_public(spelling) for spelling in spellings)


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to the public internet."""
    if any(address in network for network in _NEVER_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _NAT64:
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast


def _embedded(address: IPAddress) -> list[IPAddress]:
    """IPv4 addresses hidden in an IPv6 one (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    hidden: list[IPAddress | None] = [address.ipv4_mapped, address.sixtofour]
    hidden.extend(address.teredo or ())
    if address in _NAT64:
        hidden.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [entry for entry in hidden if entry is not None]


def guarded_session(
    policy: AddressPolicy,
    *,
    answer_seconds: float,
    verify: bool | str = True,
    proxy: Proxy | None = None,
) -> requests.Session:
    """A session that connects only where the policy allows; see ``new_session``.

    Args:
        policy: asked for every new connection; its ``MediaError`` reaches the caller.
        answer_seconds: how long a server may take over the TLS handshake, and over all headers
            of an answer. A socket's time-out starts anew with every byte, so it alone could be
            stretched for hours.
        verify: True, False, or the path of a CA bundle.
        proxy: makes TLS connections to servers that the operator did not name, to addresses that
            the policy allows like all others.
    """
    adapter = HTTPAdapter(pool_maxsize=CONNECTIONS)
    adapter.poolmanager.pool_classes_by_scheme = _pool_classes(policy, answer_seconds, proxy)
    session = new_session(verify, adapter)
    session.headers["User-Agent"] = "label-studio-sam2"
    return session


def _pool_classes(
    policy: AddressPolicy, answer_seconds: float, proxy: Proxy | None
) -> dict[str, type[HTTPConnectionPool]]:
    class Guarded(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, policy)

        def connect(self) -> None:
            with answered_within(self, answer_seconds):
                super().connect()

        def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as in urllib3
            # urllib3 logs the URL of an answer with malformed headers, signature and all.
            if self._response_options is not None:
                path = self._response_options.request_url.partition("?")[0]
                self._response_options = self._response_options._replace(request_url=path)
            with answered_within(self, answer_seconds):
                return super().getresponse()

    class GuardedTLS(Guarded, HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, policy, proxy)

    class GuardedPool(HTTPConnectionPool):
        ConnectionCls = Guarded

    class GuardedTLSPool(HTTPSConnectionPool):
        ConnectionCls = GuardedTLS

    return {"http": GuardedPool, "https": GuardedTLSPool}


def _connect(
    connection: HTTPConnection, policy: AddressPolicy, proxy: Proxy | None = None
) -> socket.socket:
    """Open a socket to the first allowed address that answers, through the proxy to the first.

    TLS is none the wiser: the certificate is checked against the host name as ever.
    """
    error: OSError | None = None
    timeout = connection.timeout if isinstance(connection.timeout, int | float) else None
    host, port = connection.host, connection.port
    addresses = policy.addresses(host, port)
    if proxy and not policy.names(host, port) and proxy.serves(host, port):
        return proxy.connect(addresses[0], port, timeout)
    for address in addresses:
        try:
            sock = socket.create_connection((address, port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as failure:
            error = failure
        else:
            return sock
    if isinstance(error, TimeoutError):
        raise ConnectTimeoutError(connection, "connect timed out")
    raise NewConnectionError(connection, type(error).__name__)
