"""``/projects/<id>``: its tasks with their worst stretches, its runs, and what can be done."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request

from backend.expected import counted
from backend.export.formats import WRITERS
from backend.labelstudio.json_values import whole_number
from backend.predict.dispatch import BadRequest
from backend.recent_values import Recent
from backend.runs.run_request import DIRECTIONS
from backend.runs.run_store import RunState
from backend.runs.runs import Runs
from backend.settings import Settings
from backend.tracking.database import StoreError
from backend.tracking.purge import forget_project
from backend.tracking.tracking import Tracking
from backend.web.guard import refuse
from backend.web.run_routes import run_row
from backend.web.site import SharedParts, site_blueprint, web_page
from backend.web.task_rows import SORTS, STATES, TaskPage, TaskQuery, TaskRows

MAX_RUNS = 8
_MOST = 2**31 - 1
_ESTIMATE_SECONDS = 600.0


class ProjectPage:
    """Gathers what the page shows."""

    def __init__(self, tracking: Tracking, runs: Runs, settings: Settings) -> None:
        self._store = tracking.store
        self._runs = runs
        self._settings = settings
        self._parts = SharedParts()
        self._rows = TaskRows(tracking.store, runs.store)
        self._estimates: Recent[str] = Recent(entries=200, seconds=_ESTIMATE_SECONDS)

    def page(self, project: int) -> Response:
        """The whole page."""
        return web_page("project.html", **self._values(project))

    def moving_part(self, project: int) -> Response:
        key = project, read_query(), request.query_string
        return self._parts.web_page(key, "project_moving.html", partial(self._values, project))

    def runs_part(self, project: int) -> Response:
        return self._parts.web_page(
            project, "project_runs.html", partial(self._values_of_runs, project)
        )

    def _values_of_runs(self, project: int) -> dict[str, Any]:
        runs = [self._run(run) for run in self._runs.newest(project=project, limit=MAX_RUNS)]
        return {"runs": runs, "label_studio": self._settings.label_studio_url or ""}

    def tasks(self, project: int) -> Response:
        """The tasks that a query asks for, as JSON."""
        found = self._rows.page(project, read_query())
        return jsonify(
            tasks=[row.as_json() for row in found.rows],
            found=found.found,
            page=found.page,
            pages=found.pages,
            unread=found.unread,
        )

    def forget(self, project: int) -> Response:
        """Drop what ended jobs of the project found; see ``forget_project``."""
        gone, left = forget_project(self._store.database, project)
        self._rows.forget(project)
        jobs = counted(gone, "job")
        said = f"{jobs} of project {project} forgotten, with the masks that nothing else had"
        if left:
            said += f"; {counted(left, 'job has', 'jobs have')} not ended: cancel first"
        return jsonify(detail=said)

    def _values(self, project: int) -> dict[str, Any]:
        query = read_query()
        trouble, runs = "", []
        try:
            found = self._rows.page(project, query)
            runs = [self._run(run) for run in self._runs.newest(project=project, limit=MAX_RUNS)]
        except StoreError as error:
            found, trouble = TaskPage([], 0, 1, 1, 0), str(error)
        return {
            "runs": runs,
            "sources": self._runs.sources,
            "formats": sorted(WRITERS),
            "directions": DIRECTIONS,
            "project": project,
            "label_studio": self._settings.label_studio_url or "",
            "query": query,
            "tasks": found,
            "trouble": trouble,
            "states": STATES,
        }

    def _run(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run, and what an estimate came to: it is worked out from all tasks, once."""
        row, text = run_row(run), ""
        if row["dry"] and RunState(run["state"]).ended:
            text = self._estimates.get((run["id"], run["updated"])) or ""
            if not text:
                estimate = self._runs.report(run["id"])["estimate"]
                text = estimate["text"] if estimate else ""
                self._estimates.put((run["id"], run["updated"]), text)
        return {**row, "estimate": text}


def read_query() -> TaskQuery:
    """What the address of the page asks for.

    Raises:
        BadRequest: it cannot be understood.
    """
    given = request.args
    sort, state = given.get("sort", "worst"), given.get("state", "")
    if sort not in SORTS:
        raise BadRequest(f"sort must be one of {', '.join(SORTS)}")
    if state and state not in STATES:
        raise BadRequest(f"state must be one of {', '.join(STATES)}")
    numbers = {name: whole_number(given.get(name)) for name in ("task", "page") if given.get(name)}
    if any(number is None or number > _MOST for number in numbers.values()):
        raise BadRequest("task and page must be numbers")
    return TaskQuery(
        sort,
        state,
        given.get("doubtful") in ("1", "true", "on"),
        numbers.get("task"),
        max(1, numbers.get("page") or 1),
    )


def project_blueprint(page: ProjectPage, settings: Settings) -> Blueprint:
    """The routes of the page."""
    blueprint = site_blueprint("project", settings)
    number = f"<int(max={_MOST}):project>"
    blueprint.get(f"/projects/{number}")(page.page)
    blueprint.get(f"/projects/{number}/moving")(page.moving_part)
    blueprint.get(f"/projects/{number}/runs")(page.runs_part)
    blueprint.get(f"/projects/{number}/tasks")(page.tasks)
    blueprint.post(f"/projects/{number}/forget")(page.forget)

    @blueprint.errorhandler(StoreError)
    def not_now(error: StoreError) -> Response:
        return refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    return blueprint
