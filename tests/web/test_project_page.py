"""The page of a project: its tasks by their worst stretch, some at a time, and what can be done."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from backend.engine.packed_masks import PackedMask
from backend.runs.run_request import RunRequest
from backend.runs.run_store import RunState, TaskResult, TaskState
from backend.tracking.store import TrackedMask
from backend.web.run_routes import run_row
from backend.web.task_rows import PAGE
from tests.waiting import until
from tests.web.browsing import WebPages, is_too_wide, serious_findings
from tests.web.test_pictures import add_track

WHOLE = PackedMask.pack(np.ones((20, 30), bool))
MANY = 10_000


def add(bench: Any, task: int, ious: list[float], *, project: str = "1.100") -> None:
    """An ended job on a task, of one object with a predicted IoU on every frame."""
    name = f"{project}-{task}"
    bench.store.add_job(name, name, name, {"project": project, "task": {"id": task}})
    masks = [TrackedMask("a", at, "x", WHOLE, iou, 5.0) for at, iou in enumerate(ious)]
    bench.store.put_masks(name, masks, job_id=name, done=len(ious))
    bench.store.update_job(name, state="done", total=len(ious))


def listed(bench: Any, query: str = "", *, project: int = 1) -> list[Any]:
    reply = bench.client.get(f"/projects/{project}/tasks{query}")
    assert reply.status_code == 200, reply.text
    return [each["task"] for each in reply.json["tasks"]]


class TestTasks:
    def test_one_bad_stretch_does_not_drown_in_a_mean(self, bench: Any) -> None:
        add(bench, 1, [0.8] * 100)
        add(bench, 2, [0.95] * 75 + [0.3] * 25)
        add(bench, 3, [0.99] * 100)
        assert listed(bench) == [2, 1, 3]
        assert listed(bench, "?sort=mean") == [2, 1, 3]
        add(bench, 4, [0.95] * 475 + [0.3] * 25)
        until(lambda: listed(bench) == [2, 4, 1, 3] or listed(bench) == [4, 2, 1, 3])
        assert listed(bench, "?sort=mean") == [2, 1, 4, 3]
        [worst] = bench.client.get("/projects/1/tasks?task=4").json["tasks"]
        assert (worst["worst"], worst["looks"], worst["frame"]) == (pytest.approx(0.3), 25, 475)
        assert listed(bench, "?doubtful=1&sort=task") == [2, 4]

    def test_only_the_projects_own_and_of_each_task_the_newest(self, bench: Any) -> None:
        add(bench, 1, [0.8])
        add(bench, 5, [0.8], project="11.100")
        bench.store.add_job("again", "t", "d", {"project": "1.100", "task": {"id": 1}})
        assert listed(bench, project=11) == [5]
        [row] = bench.client.get("/projects/1/tasks").json["tasks"]
        assert (row["job"], row["state"], row["objects"]) == ("again", "queued", 0)
        assert listed(bench, "?state=done") == []
        assert listed(bench, project=2) == []

    @pytest.mark.parametrize(
        "query",
        ["sort=price", "state=x", "task=x", "page=x", "page=99999999999999999999", "task=-1"],
    )
    def test_what_is_not_understood_is_refused(self, bench: Any, query: str) -> None:
        for path in ("", "/tasks", "/moving"):
            assert bench.client.get(f"/projects/1{path}?{query}").status_code == 400

    def test_forgetting_leaves_what_has_not_ended(self, bench: Any) -> None:
        add(bench, 1, [0.8])
        add(bench, 2, [0.8], project="2.100")
        bench.store.add_job("runs", "t", "d", {"project": "1.100", "task": {"id": 9}})
        said = bench.client.post("/projects/1/forget").json["detail"]
        assert said.startswith("1 job of project 1 forgotten")
        assert said.endswith("1 job has not ended: cancel first")
        assert listed(bench) == [9]
        assert listed(bench, project=2) == [2]
        assert bench.store.masks("1.100-1") == []
        assert len(bench.store.masks("2.100-2")) == 1

    @pytest.mark.slow
    def test_ten_thousand_tasks_come_some_at_a_time(self, bench: Any) -> None:
        """However many there are, a page shows some, and reads the masks of a few at a time."""
        now = time.time()
        with bench.store.database.transaction(wait_for_disk=False) as connection:
            connection.executemany(
                "INSERT INTO jobs (id, track, digest, request, state, created, updated, project, "
                "task, kind) VALUES (?, ?, ?, '', 'done', ?, ?, '1.100', ?, 'video')",
                [(f"j{n}", f"t{n}", f"d{n}", now, now, str(n)) for n in range(MANY)],
            )
        reply = bench.client.get("/projects/1/tasks?sort=task&page=2")
        assert [each["task"] for each in reply.json["tasks"]] == [*range(PAGE, 2 * PAGE)]
        assert (reply.json["found"], reply.json["pages"]) == (MANY, MANY // PAGE)
        assert listed(bench, "?sort=task&page=999999") == [*range(MANY - PAGE, MANY)]
        assert len(bench.client.get("/projects/1").text) < 300_000


class TestRuns:
    def test_tasks_of_a_run_are_listed_with_those_that_are_tracked(self, bench: Any) -> None:
        add(bench, 1, [0.9])
        add_run(bench, scores={1: 0.2, 2: 0.5, 3: 0.95})
        rows = bench.client.get("/projects/1/tasks").json["tasks"]
        assert [(row["task"], row["job"] != "") for row in rows] == [
            (2, False),
            (1, True),
            (3, False),
        ]
        assert (rows[0]["state"], rows[0]["objects"], rows[0]["mean"]) == ("stored", 2, 0.75)
        assert (rows[0]["looks"], rows[2]["looks"]) == (3, 3)
        assert listed(bench, "?state=stored") == [2, 3]

    def test_what_may_be_done_with_a_run(self, bench: Any) -> None:
        run = {"state": "running", "options": {"project": 1, "dry_run": False, "view": None},
               "total": 10, "counts": {"queued": 4, "failed": 0}}  # fmt: skip
        row = run_row(run)
        assert (row["ended_tasks"], row["may"], row["dry"]) == (6, ["pause", "cancel"], False)
        assert run_row({**run, "state": "paused"})["may"] == ["resume", "cancel"]
        assert run_row({**run, "state": "cancelled"})["may"] == ["resume"]
        done = run_row({**run, "state": "done", "counts": {"queued": 0, "failed": 0}})
        assert done["may"] == []
        dry = run_row({**run, "options": {"project": 1, "dry_run": True, "view": None}})
        assert (dry["dry"], dry["asked"]) == (True, {"project": 1, "dry_run": False})

    def test_an_estimate_has_the_button_that_starts(self, bench: Any) -> None:
        run = add_run(bench, scores={1: 0.2}, dry_run=True)
        text = bench.client.get("/projects/1/runs").text
        assert "1 picture and 0 pages or frames" in text
        assert "Start it" in text
        assert bench.client.get("/overview").json["runs"] == []
        bench.runs.store.turn(run, ["done"], RunState.WAITING, "the detector does not answer")
        [shown] = bench.client.get("/overview").json["runs"]
        assert (shown["id"], shown["may"]) == (run, ["pause", "cancel"])
        assert "the detector does not answer" in bench.client.get("/overview/moving").text
        until(lambda: "Start it" not in bench.client.get("/projects/1/runs").text)


def add_run(bench: Any, scores: dict[int, float], **options: Any) -> str:
    """An ended run on project 1 with a score for each of its tasks."""
    store = bench.runs.store
    run = store.add(f"run-{len(store.runs())}", RunRequest(project=1, **options))
    store.put_tasks(run.id, [*scores])
    looks = [("a", "Cat", None, "unsure")]
    found = TaskResult({"Cat": (2, 1.5, 0.5)}, looks, 2, pictures=1)
    for position, score in enumerate(scores.values()):
        state = TaskState.PLANNED if options.get("dry_run") else TaskState.STORED
        store.end_task(run.id, position, state, "", score=score, found=found)
    assert store.turn(run.id, list(RunState), RunState.DONE)
    return str(run.id)


@pytest.mark.slow
@pytest.mark.xdist_group("e2e")
class TestInChromium:
    @pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1400, "dark")])
    def test_it_shows_pictures_with_masks_to_everybody(
        self, web_pages: WebPages, width: int, scheme: str
    ) -> None:
        bench = web_pages.bench
        add_track(bench)
        bench.store.update_job("job", state="failed", message="<b>it</b> was \"cut\" 'off'")
        page = web_pages.open("/projects/1", width=width, color_scheme=scheme)
        picture = page.get_by_role("img", name="Task 7 with its masks")
        until(lambda: picture.evaluate("each => each.complete && each.naturalWidth") == 160)
        assert page.get_by_text("<b>it</b> was \"cut\" 'off'").is_visible()
        assert serious_findings(page) == []
        assert not is_too_wide(page)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Forget the ended tracks").click()
        page.get_by_text("There is none").wait_for()
        assert bench.store.jobs() == []
        assert web_pages.complaints == []
