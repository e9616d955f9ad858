"""``/`` in a browser: what the service is doing, and whether clicks arrive."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from backend.job_state import iso_time
from backend.labelstudio.model_names import shown_version
from backend.predict.dispatch import Dispatcher
from backend.settings import Settings
from backend.tracking.store import Job
from backend.web.site import site_blueprint, web_page

_MAX_RUNNING = 50


class Overview:
    """Gathers what the page shows."""

    def __init__(self, service: Dispatcher) -> None:
        self._service = service

    def page(self) -> Response:
        """The whole page."""
        return web_page("overview.html", **self._moving())

    def moving(self) -> Response:
        """The part of it that moves."""
        return web_page("overview_moving.html", **self._moving())

    def _moving(self) -> dict[str, Any]:
        engine = self._service.engine
        store = self._service.tracking.store
        return {
            "status": engine.status(),
            "model_version": shown_version(engine.model_version),
            "jobs": [_job(job) for job in store.jobs(unfinished=True, limit=_MAX_RUNNING)],
        }


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "task": job.task,
        "begun": iso_time(job.created),
    }


def overview_blueprint(overview: Overview, settings: Settings) -> Blueprint:
    """The route of the part that moves; ``/`` itself is a probe too (``app.py``)."""
    blueprint = site_blueprint("overview", settings)
    blueprint.get("/overview/moving")(overview.moving)
    return blueprint
