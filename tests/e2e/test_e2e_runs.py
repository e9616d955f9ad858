"""A run through a project of a real Label Studio, and what its Data Manager makes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import pytest
import requests
from playwright.sync_api import BrowserContext

from backend import __version__
from backend.predict.retrieve import NEXT
from benchmarks.load.runs import box_around_disc, box_result
from benchmarks.support.server import CONFIG, body, disc
from tests.e2e.services import Services
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

MODEL = f"demo@{__version__}"
PICTURES = 6
DOUBTFUL = 3
# What stands in the cells of the Data Manager's rows, and in which of them the score does.
CELLS = "rows => rows.map(row => [...row.children].slice(1).map(cell => cell.innerText.trim()))"
SCORE = 9


def ask(services: Services, method: str, path: str, **keywords: Any) -> Any:
    reply = requests.request(method, services.backend.url + path, timeout=PATIENCE, **keywords)
    assert reply.ok, reply.text
    return reply.json()


@pytest.fixture
def project(services: Services, tmp_path: Path) -> tuple[int, list[int]]:
    """Pictures with a detector's boxes, one of them on nothing, and the scores of the detector,
    which is sure of all."""
    number = services.project("A run", CONFIG)
    tasks = []
    for seed in range(PICTURES):
        file = tmp_path / f"{seed}.png"
        cv2.imwrite(str(file), disc(seed))
        result = box_result(2, 2, 30, 30) if seed == DOUBTFUL else box_around_disc(seed)
        prediction = {"model_version": "a detector", "score": 0.99, "result": [result]}
        data = {"image": services.api.upload(number, file)}
        tasks.append({"data": data, "predictions": [prediction]})
    return number, services.api.import_tasks(number, tasks)


def test_killed_on_the_way_each_task_has_one_prediction_and_the_doubtful_come_first(
    services: Services, project: tuple[int, list[int]], browser_context: BrowserContext
) -> None:
    number, tasks = project
    encodes_what_is_opened_next(services, number, tasks)
    run = ask(services, "POST", "/runs", json={"project": number, "concurrency": 1})["id"]
    until(lambda: ask(services, "GET", f"/runs/{run}")["counts"]["stored"] >= 1)
    services.kill_backend()
    services.start_backend()
    until(lambda: ask(services, "GET", f"/runs/{run}")["state"] == "done")

    found = ask(services, "GET", f"/runs/{run}")
    assert found["counts"]["stored"] == PICTURES
    for task in tasks:
        versions = [each["model_version"] for each in services.api.predictions(task)]
        assert sorted(versions) == ["a detector", MODEL]
    report = ask(services, "GET", f"/runs/{run}/report")
    assert report["look_first"][0]["task"] == tasks[DOUBTFUL]

    # Label Studio chose the connected model by its title, which no prediction has.
    assert f"choose {MODEL}" in found["message"]
    assert shown_scores(services, browser_context, number) == dict.fromkeys(tasks)
    services.api.request("PATCH", f"/api/projects/{number}", json={"model_version": MODEL})
    # The detector's scores, which would make all alike, do not count.
    scores = {each["task"]: each["score"] for each in report["look_first"]}
    shown = shown_scores(services, browser_context, number)
    assert next(iter(shown)) == tasks[DOUBTFUL]
    assert shown == pytest.approx(scores, abs=0.006)


def encodes_what_is_opened_next(services: Services, project: int, tasks: list[int]) -> None:
    """Opening a task has its picture encoded, and those of the next ones in the order in which
    Label Studio shows tasks."""
    listed = services.api.request("GET", f"/api/tasks/?project={project}")["tasks"]
    assert [each["id"] for each in listed] == tasks

    def opens(number: int, expected: int) -> None:
        task = {"id": listed[number]["id"], "data": listed[number]["data"]}
        ask(services, "POST", "/predict", json=body(task, None, project=f"{project}.100"))
        until(lambda: encoded(services) >= expected)
        assert encoded(services) == expected

    before = encoded(services)
    opens(1, before + 1 + NEXT)
    opens(2, before + 2 + NEXT)  # all but the last one are there already


def encoded(services: Services) -> int:
    """Pictures that the backend has encoded since its start."""
    text = requests.get(services.backend.url + "/metrics", timeout=PATIENCE).text
    counts = re.findall(r'^sam2_stage_seconds_count\{stage="encode"\} (\d+)', text, re.MULTILINE)
    return int(counts[0]) if counts else 0


def shown_scores(
    services: Services, browser_context: BrowserContext, project: int
) -> dict[int, float | None]:
    """The tasks in the Data Manager, sorted by prediction score, with what it shows of that."""
    tab = {"title": "Doubtful first", "ordering": ["tasks:predictions_score"]}
    tab |= {"hiddenColumns": {"explore": [], "labeling": []}}
    view = services.api.request("POST", "/api/dm/views/", json={"project": project, "data": tab})
    page = browser_context.new_page()
    page.goto(f"{services.label_studio.url}/projects/{project}/data?tab={view['id']}")
    page.wait_for_selector("[data-testid=table-row]", timeout=PATIENCE * 1000)
    rows = page.locator("[data-testid=table-row]").evaluate_all(CELLS)
    page.close()
    assert len(rows) == PICTURES, rows
    return {int(cells[0]): float(cells[SCORE]) if cells[SCORE] else None for cells in rows}
