"""Task data is hostile: which addresses may be connected to, and which files opened.

Anybody who can import tasks chooses what this service fetches. So only addresses that are
public, or that the operator named, are connected to; the check is made on the very address
the socket then uses (a name is resolved once), for every hop of a redirect.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from backend.media.errors import MediaError, Reason, shown

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Not marked as special in every Python: carrier NAT, protocol assignments, benchmarking,
# reserved, and IPv6 site-local.
_NEVER_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4", "fec0::/10")
]


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
        try:
            self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            return
        except ValueError:
            pass
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
        if (name, port) in self._hosts or (name, None) in self._hosts:
            return texts
        allowed = [text for text in texts if self._address_allowed(text)]
        if not allowed:
            raise MediaError(
                f"{name} is in a private or reserved network, where task data may not point.",
                f"If it is meant to, add {name} to ALLOWED_PRIVATE_HOSTS of the backend.",
                reason=Reason.REFUSED,
            )
        return allowed

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


def path_inside(root: Path, relative: str) -> Path:
    """The existing regular file ``relative`` names under ``root``, symlinks resolved.

    Args:
        relative: slash-separated; a leading slash still means the root.

    Raises:
        MediaError: it leaves the root (``..``, symlink), or there is no such file.
    """
    if "\0" in relative or ".." in PurePosixPath(relative.replace("\\", "/")).parts:
        raise MediaError("The local file path climbs out of its folder.", reason=Reason.REFUSED)
    try:
        base = root.resolve(strict=True)
        path = (base / relative.lstrip("/")).resolve(strict=True)
    except (OSError, RuntimeError):
        raise _no_such_file(relative) from None
    if not path.is_relative_to(base):
        raise MediaError(
            f"{shown(relative)} is a link that leaves the local files folder.",
            reason=Reason.REFUSED,
        )
    if not path.is_file():
        raise _no_such_file(relative)
    return path


def _no_such_file(relative: str) -> MediaError:
    return MediaError(
        f"There is no file {shown(relative)} in the backend's local files folder.",
        "Check that the same folder is mounted for Label Studio and for the backend.",
        reason=Reason.NOT_FOUND,
    )
