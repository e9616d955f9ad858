"""One Label Studio, one backend and one browser for the whole session."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from benchmarks.support.chromium import new_context
from demo.projects import PHOTO_PROJECT
from tests.e2e.editor import Editor
from tests.e2e.services import ACCOUNT, STATE, Services

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The running servers."""
    running = Services(tmp_path_factory.mktemp("e2e"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def browser_context(services: Services, browser: Browser) -> Iterator[BrowserContext]:
    """A logged-in browser that can reach this machine and nothing else."""
    context = new_context(browser, width=1500, height=1100)
    page = context.new_page()
    Editor(page, services.label_studio.url).log_in(ACCOUNT.email, ACCOUNT.password)
    page.close()
    yield context
    context.close()


@pytest.fixture
def editor(
    services: Services, browser_context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Editor]:
    """The labeling view in a page of its own; what is on it is kept if the test fails."""
    page = browser_context.new_page()
    log: list[str] = []
    _listen(page, log)
    yield Editor(page, services.label_studio.url)
    if request.node.stash.get(FAILED, False):
        _keep(request.node.name, page, log, services.logs())
    page.close()


@pytest.fixture(scope="session")
def label_config() -> str:
    """The demo's label config."""
    return PHOTO_PROJECT.label_config


@pytest.fixture(scope="session")
def config_without_status(label_config: str) -> str:
    """The demo's label config without its text box and answers."""
    root = ElementTree.fromstring(label_config)
    for parent in [*root.iter()]:
        for area in parent.findall("TextArea"):
            parent.remove(area)
    return ElementTree.tostring(root, encoding="unicode")


def _listen(page: Page, log: list[str]) -> None:
    page.on("console", lambda message: log.append(f"{message.type}: {message.text[:400]}"))
    page.on("pageerror", lambda error: log.append(f"page error: {str(error)[:400]}"))
    page.on(
        "response",
        lambda response: log.append(
            f"{response.status} {response.request.method} {response.url} "
            f"{(response.request.post_data or '')[:2000]}"
            if "/api/" in response.url or response.status >= 400
            else ""
        ),
    )


def _keep(name: str, page: Page, log: list[str], files: list[Path]) -> None:
    """Screenshot, page log and server logs of a failed test, under ``.e2e/failures``."""
    directory = STATE / "failures" / re.sub(r"[^\w.-]+", "_", name)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    page.screenshot(path=directory / "page.png")
    (directory / "page.log").write_text("\n".join(filter(None, log)), encoding="utf-8")
    for file in files:
        shutil.copy(file, directory)
