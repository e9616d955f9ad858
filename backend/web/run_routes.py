"""The routes of runs: start, list, pause, resume, cancel, and what came of them; and runs as the
pages list them."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request

from backend.expected import ExpectedError
from backend.labelstudio.client import LabelStudioError
from backend.labelstudio.json_values import whole_number
from backend.predict.dispatch import BadRequest
from backend.runs.command_line import CommandError
from backend.runs.run_store import RunState, TaskState
from backend.runs.runs import Runs
from backend.settings import SettingsError
from backend.tracking.database import StoreError
from backend.web.guard import refuse

MAX_RUNS = 200  # listed at once, the newest first
MAX_TASKS = 1000
_PAUSES = (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)


def run_blueprint(runs: Runs, read_body: Callable[[], Any]) -> Blueprint:
    """Args:
    read_body: the body of the request as JSON.
    """
    routes = Blueprint("runs", __name__)

    @routes.post("/runs")
    def start() -> tuple[Response, int]:
        return jsonify(runs.submit(read_body())), HTTPStatus.CREATED

    @routes.get("/runs")
    def every() -> Response:
        unfinished = request.args.get("unfinished") in ("1", "true")
        project = _number("project")
        return jsonify(runs=runs.newest(project=project, unfinished=unfinished, limit=MAX_RUNS))

    @routes.get("/runs/<run_id>")
    def one(run_id: str) -> Response:
        return jsonify(runs.get(run_id))

    @routes.get("/runs/<run_id>/tasks")
    def tasks(run_id: str) -> Response:
        state = request.args.get("state")
        if state is not None and state not in list(TaskState):
            raise BadRequest(f"state must be one of {', '.join(TaskState)}")
        after, limit = _number("after"), _number("limit") or MAX_TASKS
        found = runs.tasks(
            run_id,
            state=None if state is None else TaskState(state),
            after=-1 if after is None else after,
            limit=min(limit, MAX_TASKS),
        )
        return jsonify(tasks=found)

    @routes.get("/runs/<run_id>/report")
    def report(run_id: str) -> Response:
        found = runs.report(run_id)
        if request.args.get("format") == "text":
            return Response(found["text"], mimetype="text/plain")
        return jsonify(found)

    @routes.post("/runs/<run_id>/pause")
    def pause(run_id: str) -> Response:
        return jsonify(runs.pause(run_id))

    @routes.post("/runs/<run_id>/resume")
    def resume(run_id: str) -> Response:
        return jsonify(runs.resume(run_id))

    @routes.post("/runs/<run_id>/cancel")
    def cancel(run_id: str) -> Response:
        return jsonify(runs.cancel(run_id))

    _add_errors(routes)
    return routes


def _add_errors(routes: Blueprint) -> None:
    @routes.errorhandler(KeyError)
    def no_run(error: KeyError) -> Response:
        return refuse(HTTPStatus.NOT_FOUND, "there is no such run")

    @routes.errorhandler(ExpectedError)  # of whatever is asked before a run is queued
    @routes.errorhandler(CommandError)
    def not_possible(error: Exception) -> Response:
        return refuse(HTTPStatus.BAD_REQUEST, str(error))

    @routes.errorhandler(LabelStudioError)
    def no_label_studio(error: LabelStudioError) -> Response:
        return refuse(HTTPStatus.BAD_GATEWAY, str(error))

    @routes.errorhandler(SettingsError)
    def not_set_up(error: SettingsError) -> Response:
        return refuse(HTTPStatus.CONFLICT, str(error))

    @routes.errorhandler(StoreError)
    def not_now(error: StoreError) -> Response:
        return refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _number(name: str) -> int | None:
    """A number of the query; None where it is not there."""
    if name not in request.args:
        return None
    number = whole_number(request.args[name])
    if number is None or number >= 2**63:
        raise BadRequest(f"{name} must be a number")
    return number


def run_row(run: dict[str, Any]) -> dict[str, Any]:
    """A run as ``Runs`` gives it, with how many of its tasks have ended and what may be done.

    A dry run only finds out what would be done: what it was asked is asked again to begin.
    """
    state, options = RunState(run["state"]), run["options"]
    dry = bool(options.get("dry_run"))
    asked = {name: value for name, value in options.items() if value is not None}
    return {
        **run,
        "ended_tasks": (run["total"] or 0) - run["counts"][TaskState.QUEUED],
        "dry": dry,
        "asked": {**asked, "dry_run": False},
        "may": [
            *(["pause"] if state in _PAUSES else []),
            *(["resume"] if state is RunState.PAUSED or _may_retry(run, state) else []),
            *([] if state.ended else ["cancel"]),
        ],
    }


def _may_retry(run: dict[str, Any], state: RunState) -> bool:
    left = run["counts"][TaskState.QUEUED] + run["counts"][TaskState.FAILED]
    return state.ended and left > 0
