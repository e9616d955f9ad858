"""How long to wait for a source of media, and when to ask it again."""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass

from backend.media.errors import MediaError, Reason

ATTEMPTS = 3
RETRIED = (429, 500, 502, 503, 504)
"""The statuses after which asking again may help."""

_BACKOFF_S = 0.25
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait: for a connection, for the next bytes, for one object or stretch of it."""

    connect: float = 5.0
    read: float = 15.0
    total: float = 120.0


class Deadline:
    """When to give up on an object, or a stretch of it, as a whole."""

    def __init__(self, seconds: float, what: str) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self._what = what

    def check(self) -> None:
        """Raises MediaError (timeout) once the time is over."""
        if self.remaining <= 0:
            raise MediaError(
                f"{self._what} did not arrive within {self._seconds:g} s.",
                "The server or the connection to it is too slow.",
                reason=Reason.TIMEOUT,
            )

    @property
    def remaining(self) -> float:
        """Seconds left; negative when over."""
        return self._end - time.monotonic()


def pause_before_retry(attempt: int, retry_after: str, deadline: Deadline) -> float | None:
    """How many seconds to wait after failed attempt number ``attempt`` (from 1).

    Args:
        retry_after: what the server's Retry-After header says; "" without one.

    Returns:
        None where it is not worth waiting: the attempts are used up, or the server asks for more
        patience than there is.
    """
    pause = _asked_pause(retry_after) or _backoff(attempt)
    if attempt >= ATTEMPTS or pause > min(_LONGEST_PAUSE_S, deadline.remaining):
        return None
    return pause


def _backoff(attempt: int) -> float:
    return _BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def _asked_pause(text: str) -> float | None:
    """What Retry-After asks for, in seconds (RFC 9110, section 10.2.3)."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(moment.timestamp() - time.time(), 0.0)
