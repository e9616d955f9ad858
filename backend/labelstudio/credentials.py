"""The kinds of API key Label Studio knows, told apart by their shape.

A *legacy token* is hexadecimal and sent as ``Authorization: Token <key>``; a default Label
Studio 1.23 refuses it. A *personal access token* is a JWT refresh token, exchanged for an
access token that lives five minutes and is sent as ``Authorization: Bearer <access>``.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import threading
import time
from collections.abc import Callable
from typing import Any

_RENEW_BEFORE_EXPIRY_S = 30.0
_DEFAULT_LIFETIME_S = 300.0  # Label Studio's, where the token does not say


class Credential(enum.Enum):
    """What kind of API key was configured; the value is how to call it in a sentence."""

    NONE = "no API key"
    LEGACY = "a legacy token"
    PERSONAL_ACCESS = "a personal access token"
    ACCESS = "a short-lived access token"


def credential_kind(api_key: str | None) -> Credential:
    """Tell the kinds of API key apart; a JWT names its own kind."""
    if not api_key:
        return Credential.NONE
    claims = _jwt_claims(api_key)
    if claims is None:
        return Credential.LEGACY
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
    except (binascii.Error, ValueError):
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
