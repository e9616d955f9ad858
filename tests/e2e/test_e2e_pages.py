"""The web pages beside a real Label Studio: a long track and a run, seen, started and cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import BrowserContext, Page

from demo.clip import sample_clip
from demo.projects import PHOTO_PROJECT, SEQUENCE_PROJECT
from tests.documenting import Film, document_page
from tests.e2e.editor import Editor
from tests.e2e.masks import centre
from tests.e2e.services import Services
from tests.waiting import PATIENCE, until
from tests.web.browsing import serious_findings

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BUD = sample_clip().masks["bud"]
TIMES = 60  # the clip, over and over


@pytest.fixture
def web_page(browser_context: BrowserContext) -> Iterator[Page]:
    """A page beside the editor's; a script or a policy that fails is a failure."""
    complaints: list[str] = []
    page = browser_context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda each: complaints.append(each.text) if each.type == "error" else None)
    page.on("dialog", lambda dialog: dialog.accept())
    yield page
    page.close()
    assert complaints == []


@pytest.fixture
def impatient(services: Services) -> Iterator[Services]:
    """A backend that answers a track command soon, and goes on in the background."""
    services.stop_backend()
    services.start_backend(TRACK_BUDGET_SECONDS="2")
    yield services
    services.stop_backend()
    services.start_backend()


def test_a_long_track_moves_and_is_cancelled(
    editor: Editor, impatient: Services, web_page: Page, tmp_path: Path
) -> None:
    services = impatient
    project = services.project("A long track", SEQUENCE_PROJECT.label_config)
    [first, *_] = SEQUENCE_PROJECT.upload(services.api, project, tmp_path)
    pages = first["data"]["frames"] * TIMES
    [task] = services.api.import_tasks(project, [{"data": {"frames": pages}}])
    web_page.goto(services.backend.url)
    assert web_page.get_by_text("Nothing runs.").is_visible()

    editor.open(project, task, auto_accept=True)
    with editor.saved():
        editor.point(*centre(BUD[0]), "Flower")
    web_page.get_by_role("cell", name="1 click", exact=True).first.wait_for()
    editor.say("track")
    bar = web_page.get_by_role("progressbar", name=f"masks of task {task}")
    bar.wait_for()

    def done() -> int:
        return int(bar.get_attribute("value") or 0)

    before = done()
    until(lambda: done() > before, pause=0.5)
    document_page(web_page, "overview")
    assert serious_findings(web_page) == []
    web_page.get_by_role("button", name=f"Cancel the track of task {task}").click()
    web_page.get_by_text("Nothing runs.").wait_for(timeout=1000 * PATIENCE)
    [job] = [each for each in jobs(services) if each["task"] == task]
    assert job["state"] == "cancelled"
    assert before < job["done"] < job["total"] == len(pages) - 1


def test_from_a_click_to_the_review(editor: Editor, services: Services, web_page: Page) -> None:
    film = Film("click_track_review")
    project, task = services.demo_task("Click, track, review", SEQUENCE_PROJECT)
    editor.open(project, task, auto_accept=True)
    film.take(editor.page, 1.5)
    with editor.saved():
        editor.point(*centre(BUD[0]), "Flower")
        film.take(editor.page, 1.5)
    editor.say("track")
    film.take(editor.page, 1.5)
    for at in (5, 10):
        editor.go_to_page(at)
        film.take(editor.page, 1.0)
    web_page.set_viewport_size({"width": 1500, "height": 1100})
    web_page.goto(services.backend.url)
    row = web_page.get_by_role("listitem").filter(has_text=f"task {task}").first
    row.scroll_into_view_if_needed()
    film.take(web_page, 1.5)
    row.get_by_role("link", name="Track", exact=True).click()
    web_page.wait_for_url("**/tracks/*")
    picture = web_page.locator("main img").first
    until(lambda: picture.evaluate("each => each.naturalWidth") > 0, pause=0.5)
    web_page.locator("h1").click()  # the keyboard is the page's
    for _ in range(3):
        web_page.keyboard.press(".")
        web_page.keyboard.press(".")
        film.take(web_page, 1.0)
    assert web_page.locator("#number").inner_text() == "7"
    film.keep()


def test_a_run_is_estimated_started_and_looked_at(services: Services, web_page: Page) -> None:
    project, *tasks = services.demo_tasks("A run from the page", PHOTO_PROJECT)
    web_page.goto(f"{services.backend.url}/projects/{project}")
    assert web_page.get_by_text("There was no run on this project.").is_visible()
    web_page.get_by_role("button", name="Estimate first").click()
    start = web_page.get_by_role("button", name=f"Start it on project {project}")
    start.wait_for(timeout=1000 * PATIENCE)
    [detected] = services.api.predictions(tasks[-1])  # an estimate stores nothing
    assert detected["model_version"] == "detector"
    start.click()
    until(lambda: [each["state"] for each in runs(services, project)] == ["done", "done"])
    stored = web_page.get_by_role("row").filter(has_text="stored")
    until(lambda: stored.count() == 3, pause=0.5)
    for row in stored.all():
        picture = row.get_by_role("img")
        picture.scroll_into_view_if_needed()
        until(lambda one=picture: one.evaluate("each => each.naturalWidth") == 160, pause=0.5)
    link = stored.first.get_by_role("link", name="task").get_attribute("href")
    assert link is not None
    assert link.startswith(f"{services.label_studio.url}/projects/{project}/data?task=")
    web_page.evaluate("scrollTo(0, 0)")
    document_page(web_page, "project")
    assert serious_findings(web_page) == []


def jobs(services: Services) -> list[dict[str, Any]]:
    return list(requests.get(f"{services.backend.url}/jobs", timeout=PATIENCE).json()["jobs"])


def runs(services: Services, project: int) -> list[dict[str, Any]]:
    address = f"{services.backend.url}/runs?project={project}"
    return list(requests.get(address, timeout=PATIENCE).json()["runs"])
