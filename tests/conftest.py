"""What tests of several folders share: the browser, and patience with properties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# How long an example of a property takes says nothing of the code where others use the machine.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, one for the whole session: a process can drive no two."""
    from benchmarks.support.chromium import chromium  # most tests need none

    with chromium() as running:
        yield running
