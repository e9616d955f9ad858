"""When to ask a server again: the same for Label Studio, for other servers of media and for S3.

The libraries' own ways do less: urllib3's logs addresses with their signatures, and reads to its
end whatever comes with a 503; botocore's takes no notice of Retry-After.
"""

from __future__ import annotations

import email.utils
import itertools
import math
import random
import time
from collections.abc import Callable

import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError

WORTH_RETRYING = (429, 500, 502, 503, 504)
"""The statuses after which asking again may help."""

_ATTEMPTS = 3
_BACKOFF_S = 0.25
_LONGEST_PAUSE_S = 10.0


def send_with_retries(
    send: Callable[[], requests.Response], *, idempotent: bool = True, until: float = math.inf
) -> requests.Response:
    """The answer to a request, its body unread: the first that is not one of ``WORTH_RETRYING``,
    or that of the last attempt.

    Args:
        send: sends the request.
        idempotent: whether it may arrive twice; if not, it is sent again only where nothing could
            be connected to.
        until: when the last attempt may begin, on ``time.monotonic``.

    Raises:
        requests.RequestException: the last attempt was not answered.
    """
    for attempt in itertools.count(1):
        try:
            response = send()
        except requests.RequestException as error:
            passing = idempotent and not isinstance(error, requests.exceptions.SSLError)
            again = passing or _not_connected(error)
            pause = pause_before_retry(attempt, until=until) if again else None
            if pause is None:
                raise
        else:
            again = idempotent and response.status_code in WORTH_RETRYING
            asked = response.headers.get("Retry-After", "")
            pause = pause_before_retry(attempt, asked, until=until) if again else None
            if pause is None:
                return response
            response.close()
        time.sleep(pause)
    raise AssertionError("unreachable")


def pause_before_retry(
    attempt: int, retry_after: str = "", *, until: float = math.inf
) -> float | None:
    """How many seconds to wait after failed attempt number ``attempt`` (from 1).

    Args:
        retry_after: what the server's Retry-After header says; "" without one.
        until: when the last attempt may begin, on ``time.monotonic``.

    Returns:
        None where it is not worth waiting: the attempts are used up, or the server asks for more
        patience than there is.
    """
    pause = _asked_pause(retry_after) or _backoff(attempt)
    if attempt >= _ATTEMPTS or pause > min(_LONGEST_PAUSE_S, until - time.monotonic()):
        return None
    return pause


def _not_connected(error: requests.RequestException) -> bool:
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)


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
