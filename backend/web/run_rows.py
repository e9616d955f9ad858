"""Runs as the pages list them."""

from __future__ import annotations

from typing import Any

from backend.runs.run_store import RunState, TaskState

_PAUSES = (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)


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
