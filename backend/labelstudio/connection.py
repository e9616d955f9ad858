"""Where a Label Studio is, which URLs are on it, and with what key it is reached.

The kinds of API key differ in their form. A *legacy token* is hexadecimal and sent as
``Authorization: Token <key>``; a default Label Studio 1.23 refuses it. A *personal access token* is
a JWT refresh token, exchanged for an access token that lives five minutes and is sent as
``Authorization: Bearer <access>``.
"""

from __future__ import annotations

import base64
import enum
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

_DEFAULT_PORTS = {"http": 80, "https": 443}
_RENEW_BEFORE_EXPIRY_S = 30.0
_DEFAULT_LIFETIME_S = 300.0  # of an access token that does not say; Label Studio's


@dataclass(frozen=True)
class ServerUrl:
    """The address of a Label Studio.

    Attributes:
        origin: scheme, lower-case host (IPv6 in brackets) and port.
        prefix: the sub-path it is served under, without a slash at the end; "" for none.
        text: the whole, without a slash at the end.
    """

    origin: tuple[str, str, int]
    prefix: str
    text: str

    @classmethod
    def parse(cls, url: str) -> ServerUrl:
        """Read a configured address. Raises ValueError, whose text continues "LABEL_STUDIO_URL"."""
        parsed = _parsed(url.strip())
        if parsed is None:
            raise ValueError("must be a full address such as http://label-studio:8080.")
        if parsed.auth or parsed.query:
            raise ValueError(
                "must not contain a user name, password or query; put the token into "
                "LABEL_STUDIO_API_KEY."
            )
        prefix = (parsed.path or "").rstrip("/")
        return cls(_origin(parsed), prefix, _origin_text(parsed) + prefix)

    def owns(self, url: str) -> bool:
        """Whether an absolute URL has the same origin and is under the sub-path.

        Paths with dot segments (also percent-encoded) are nobody's: servers and proxies
        disagree on what they mean.
        """
        parsed = _parsed(url)
        # The text as given: parsing resolves dot segments away.
        if parsed is None or parsed.auth or has_dot_segments(url.partition("?")[0]):
            return False
        inside = f"{parsed.path or ''}/".startswith(self.prefix + "/")
        return _origin(parsed) == self.origin and inside

    def absolute(self, path: str) -> str:
        """The full URL of a path, given with or without the sub-path in front."""
        path = "/" + path.lstrip("/")
        if self.prefix and f"{path}/".startswith(self.prefix + "/"):
            path = path[len(self.prefix) :]
        return self.text + path


def has_dot_segments(path: str) -> bool:
    """Whether a URL path climbs (``..``), also in percent-encoded or back-slashed spelling."""
    for _ in range(3):  # %252e%252e: some proxies decode more than once
        path = unquote(path)
    segments = path.replace("\\", "/").split("/")
    return ".." in segments or "." in segments


def shown_origin(url: str) -> str:
    """Scheme, host and port of a URL for a message, without anything that may be secret."""
    parsed = _parsed(url)
    return _origin_text(parsed) if parsed else "an address that is not a URL"


def _parsed(url: str) -> Url | None:
    """The parts of an http(s) URL, exactly as the HTTP library will read it."""
    try:
        parsed = parse_url(url)
    except LocationParseError:
        return None
    return parsed if parsed.scheme in _DEFAULT_PORTS and parsed.host else None


def _origin(parsed: Url) -> tuple[str, str, int]:
    scheme = parsed.scheme or ""
    return scheme, (parsed.host or "").lower(), parsed.port or _DEFAULT_PORTS[scheme]


def _origin_text(parsed: Url) -> str:
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{(parsed.host or '').lower()}{port}"


class Credential(enum.Enum):
    """What kind of API key was configured; the value is how to call it in a sentence."""

    NONE = "no API key"
    LEGACY = "a legacy token"
    PERSONAL_ACCESS = "a personal access token"
    ACCESS = "a short-lived access token"
    UNKNOWN = "an API key of no known form"


def credential_kind(api_key: str | None) -> Credential:
    """The kind of an API key; a JWT names its own."""
    if not api_key:
        return Credential.NONE
    claims = _jwt_claims(api_key)
    if claims is None:
        legacy = re.fullmatch(r"[0-9a-f]{40}", api_key, re.IGNORECASE)
        return Credential.LEGACY if legacy else Credential.UNKNOWN
    if claims.get("token_type") == "access":
        return Credential.ACCESS
    return Credential.PERSONAL_ACCESS


def credential_expiry(api_key: str | None) -> float | None:
    """When an API key says that it expires, in seconds since 1970; None where it does not say."""
    expires = (_jwt_claims(api_key or "") or {}).get("exp")
    return float(expires) if isinstance(expires, int | float) else None


class AccessToken:
    """The access token of a personal access token: exchanged when needed, by one thread.

    Args:
        exchange: asks Label Studio for a new access token; may raise.
        clock: seconds that only grow.
    """

    def __init__(
        self, exchange: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._lock = threading.Lock()
        self._token: str | None = None
        self._renew_at = 0.0

    def get(self, *, rejected: str | None = None) -> str:
        """A token that is good for a while yet.

        Args:
            rejected: a token that just drew a 401; it is replaced, once, however many threads
                report it.
        """
        with self._lock:
            token = self._token
            if token is None or token == rejected or self._clock() >= self._renew_at:
                # Forgotten first: where the exchange fails, the next caller tries again.
                self._token = None
                token = self._exchange()
                self._token = token
                self._renew_at = self._clock() + _usable_seconds(token)
            return token


def _jwt_claims(token: str) -> dict[str, Any] | None:
    """The claims of a JWT, unverified; None where the text is not a JWT (RFC 7519)."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _usable_seconds(access: str) -> float:
    """How long to use an access token; measured by its own claims, as clocks may differ."""
    claims = _jwt_claims(access) or {}
    issued, expires = claims.get("iat"), claims.get("exp")
    lifetime = _DEFAULT_LIFETIME_S
    if isinstance(issued, int | float) and isinstance(expires, int | float):
        lifetime = float(expires - issued)
    return max(lifetime - _RENEW_BEFORE_EXPIRY_S, lifetime / 2)
