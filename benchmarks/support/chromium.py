"""The browser of tests and measurements: it can reach this machine and nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_TIMEOUT_MS = 60_000
_ELSEWHERE = re.compile(r"^https?://(?!127\.0\.0\.1[:/])")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium, until the end of the block."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    assert program, "no Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


def new_context(browser: Browser, *, width: int, height: int, **options: Any) -> BrowserContext:
    """A browser as if nothing had been visited yet."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(_TIMEOUT_MS)
    context.route(_ELSEWHERE, lambda route: route.abort())
    return context
