"""Who may come in, decided from the head of a request alone: before a byte of its body is read."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from werkzeug.datastructures import Authorization
from werkzeug.http import parse_options_header

from backend.settings import MIB, Settings

# They carry no credentials. Everything else must, /webhook too: see SECURITY.md.
PROBES = frozenset({"/", "/health", "/ready"})
OFFERED = "/pictures/"
"""What lies below has names that nobody can guess, for a short while, see ``OfferedPictures``."""
LARGE = frozenset({"/predict"})
"""The routes that take as much as MAX_BODY_MB: tasks with their annotations."""
REFUSAL = "backend.refusal"
ARRIVED = "backend.arrived"
"""The place in a WSGI environment where a server puts the ``Refusal`` that it came to itself."""
SMALL_BODY = 8 * MIB  # of all others: a label config, written in ASCII


class Refusal(NamedTuple):
    """Why a request is not answered."""

    code: HTTPStatus
    reason: str


class Door:
    """Decides over requests by their heads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Elsewhere the name of the machine is anything, and credentials stand in the way.
        self._local_names_only = settings.is_open and settings.is_local

    def limit(self, path: str) -> int:
        """The largest body that a route takes, in bytes."""
        largest = self._settings.max_body_bytes
        return largest if path in LARGE else min(largest, SMALL_BODY)

    def too_large(self, path: str) -> Refusal:
        """The answer to a body above the limit."""
        limit = self.limit(path)
        reason = f"the request is larger than {limit // MIB} MiB"
        if limit == self._settings.max_body_bytes:
            reason += "; raise MAX_BODY_MB of the backend"
        else:
            reason += f", the most that {path} takes"
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)

    def refusal(self, path: str, header: Callable[[str], str | None]) -> Refusal | None:
        """Why a request with this head is not answered; None where it is.

        Args:
            path: of the request, unquoted.
            header: the value of a header, None where it was not sent.
        """
        return (
            self._of_a_browser(header)
            or self._unauthorised(path, header)
            or self._unreadable(path, header)
        )

    def _of_a_browser(self, header: Callable[[str], str | None]) -> Refusal | None:
        """Pages of others, open in a browser that reaches this address, are kept out: Label
        Studio's server asks, and the backend's own pages do."""
        origin = header("Origin")
        if origin is not None and not (self._settings.has_pages and _is_own(origin, header)):
            reason = "requests of web pages of others (with their Origin) are not answered"
            return Refusal(HTTPStatus.FORBIDDEN, reason)
        host = header("Host")
        if self._local_names_only and host and not _is_local_name(host):
            # A page may let its own name point to this machine (DNS rebinding).
            reason = (
                "without credentials this backend answers to localhost and addresses only, and not "
                "to names of the Internet; set BASIC_AUTH_USER and BASIC_AUTH_PASS"
            )
            return Refusal(HTTPStatus.FORBIDDEN, reason)
        return None

    def _unauthorised(self, path: str, header: Callable[[str], str | None]) -> Refusal | None:
        probe = path in PROBES and not (path == "/" and wants_html(header("Accept")))
        if probe or path.startswith(OFFERED) or self._settings.is_open:
            return None
        if self._knows(_credentials(header("Authorization"))):
            return None
        return Refusal(HTTPStatus.UNAUTHORIZED, "credentials missing or wrong")

    def _unreadable(self, path: str, header: Callable[[str], str | None]) -> Refusal | None:
        length = header("Content-Length") or ""
        if not length and header("Transfer-Encoding") is None:
            return None
        if length and not (length.isascii() and length.isdigit()):
            return Refusal(HTTPStatus.BAD_REQUEST, "Content-Length must be a number")
        # Digits are counted first: Python refuses to convert thousands of them.
        if len(length) > 18 or int(length or 0) > self.limit(path):
            return self.too_large(path)
        kind = parse_options_header(header("Content-Type"))[0].lower()
        if (not length or int(length)) and kind != "application/json":
            reason = "the body must be JSON, with Content-Type: application/json"
            return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
        return None

    def _knows(self, given: Authorization | None) -> bool:
        settings = self._settings
        if given is None:
            return False
        if given.type == "bearer" and settings.auth_token is not None:
            return _same(given.token, settings.auth_token)
        if given.type != "basic":
            return False
        user = _same(given.username, settings.basic_auth_user)
        word = _same(given.password, settings.basic_auth_pass)
        # A browser asks for a name and a password only: the token is the password to any name.
        token = _same(given.password, settings.auth_token)
        by_name = settings.basic_auth_user is not None and user and word
        return by_name or (settings.auth_token is not None and token)


def wants_html(accept: str | None) -> bool:
    """Whether an ``Accept`` header is a browser's that shows a page."""
    return "text/html" in (accept or "").lower()


def _is_own(origin: str, header: Callable[[str], str | None]) -> bool:
    """Whether the page that a browser asks for is of this very address.

    Browsers say so themselves over TLS and on this machine, whatever a proxy makes of ``Host``;
    elsewhere the names are compared. No page of another address can have either header sent.
    """
    site = header("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin" and origin != "null"
    hosts = [header("Host"), (header("X-Forwarded-Host") or "").split(",")[0].strip()]
    own = origin.partition("://")[2].lower()
    return bool(own) and own in [(host or "").lower() for host in hosts]


def _credentials(given: str | None) -> Authorization | None:
    try:
        return Authorization.from_header(given)
    except ValueError:  # not of ASCII, for one
        return None


def _same(given: str | None, wanted: str | None) -> bool:
    """Whether both are equal, in a time that does not tell where they begin to differ."""
    # A lone surrogate has no bytes in UTF-8.
    pair = [(text or "").encode("utf-8", "surrogatepass") for text in (given, wanted)]
    return hmac.compare_digest(*pair)


def _is_local_name(host: str) -> bool:
    """Whether the public DNS has no say in where this Host header leads."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower().rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith((".localhost", ".internal"))
    return True
