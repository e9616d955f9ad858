"""Pages of the service in Chromium, and what axe-core finds on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from benchmarks.support.chromium import new_context
from tests.backend.conftest import Bench

AXE = Path(__file__).with_name("axe") / "axe-4.14.1.min.js"


@dataclass
class WebPages:
    """A service whose pages are looked at.

    Attributes:
        bench: the service, within reach.
        url: where it listens.
        complaints: what the browser's console said: a policy that was broken, a script that failed.
    """

    bench: Bench
    url: str
    browser: Browser
    options: dict[str, Any]
    complaints: list[str] = field(default_factory=list)
    _pages: list[Page] = field(default_factory=list)

    def open(self, path: str, *, width: int = 1200, **options: Any) -> Page:
        """A page in a browser of its own, loaded."""
        context = new_context(self.browser, width=width, height=900, **{**self.options, **options})
        page = context.new_page()
        self._pages.append(page)
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url + path)
        return page

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        """Close the browser's windows."""
        for page in self._pages:
            page.context.close()


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds on a page that keeps people out: one line for each, with its place."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: "
        + json.dumps([node["target"] for node in each["nodes"]][:5])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def is_too_wide(page: Page) -> bool:
    """Whether a page has to be scrolled sideways."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth > innerWidth"))
