"""The service over a fake model on a port of this machine, and its pages in Chromium."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from backend.web.connections import Server
from tests.backend.conftest import Bench, bench, make_bench
from tests.waiting import PATIENCE
from tests.web.browsing import WebPages

__all__ = ["bench", "make_bench"]


class Serving:
    """A service on a port of this machine, in a thread."""

    def __init__(self, bench: Bench) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = Server(bench.client.application, listening, bench.settings)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._server.turn(0.2)
        self._server.stop(PATIENCE)

    def close(self) -> None:
        """Stop when all that is under way is answered."""
        self._closing.set()
        self._thread.join()


@pytest.fixture
def make_web_pages(tmp_path: Path, browser: Browser) -> Iterator[Callable[..., WebPages]]:
    """Makes services with pages; ``options`` are of the browser's context."""
    made: list[tuple[WebPages, Serving]] = []

    def make(*, options: dict[str, Any] | None = None, **settings: Any) -> WebPages:
        bench = Bench(tmp_path, **settings)
        bench.engine.wait_ready(PATIENCE)
        serving = Serving(bench)
        pages = WebPages(bench, serving.url, browser, options or {})
        made.append((pages, serving))
        return pages

    yield make
    for pages, serving in made:
        pages.close()
        serving.close()
        pages.bench.close()


@pytest.fixture
def web_pages(make_web_pages: Callable[..., WebPages]) -> WebPages:
    """A service with pages, as on a machine of one's own: without credentials."""
    return make_web_pages()
