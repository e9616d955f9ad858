"""Waiting for what another thread or process is about to do.

A machine under full load may let a thread stand for seconds. So a test asserts nothing that another
thread does later, nor how soon something happens: it waits for it, with patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 180.0
"""Seconds to wait for what must happen: only a test that fails waits so long."""

LONGER = 2 * PATIENCE
"""Seconds to hold up what a test holds up: who waits for it, wrongly, is found out before."""


def until(condition: Callable[[], T], seconds: float = PATIENCE, *, pause: float = 0.01) -> T:
    """What ``condition`` returns, as soon as that is true; asked again every ``pause`` seconds.

    Raises:
        AssertionError: it is not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not happen within {seconds:g} s"
        time.sleep(pause)
    return found
