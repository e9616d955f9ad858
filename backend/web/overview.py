"""``/`` in a browser: what the service is doing, and whether clicks arrive."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify

from backend.doctor.doctor import diagnose
from backend.doctor.findings import Diagnosis
from backend.job_state import iso_time
from backend.labelstudio.commands import CHEAT_SHEET
from backend.labelstudio.model_names import shown_version
from backend.metrics import Minute
from backend.predict.dispatch import Dispatcher
from backend.runs.runs import Runs
from backend.tracking.database import StoreError
from backend.tracking.store import Job
from backend.web.run_routes import run_row
from backend.web.site import SharedParts, site_blueprint, web_page
from backend.wiring import Wiring

MAX_RUNNING = 50
MAX_ENDED = 10
MAX_ASKED = 15
MAX_DELIVERIES = 20
_LOOKED_THROUGH = 60  # of the newest jobs, for those that ended


class Overview:
    """Gathers what the page shows."""

    def __init__(self, wiring: Wiring, service: Dispatcher, runs: Runs) -> None:
        self._wiring = wiring
        self._runs = runs
        self._parts = SharedParts()
        self._service = service
        self._diagnosis = Diagnosis(
            partial(diagnose, wiring, service.engine, project=None, task=None)
        )

    def page(self) -> Response:
        """The whole page."""
        return web_page("overview.html", **self.now(), commands=CHEAT_SHEET)

    def now(self) -> dict[str, Any]:
        """Everything that the page shows, as JSON."""
        return {**self.moving(), "clicks": self.clicks(), "doctor": self._doctor()}

    def moving(self) -> dict[str, Any]:
        """What changes from one moment to the next."""
        return {
            "model": self._model(),
            **self._of_the_store(),
            "asked": [
                {**asdict(each), "at": iso_time(each.at), "seconds": round(each.seconds, 2)}
                for each in self._service.asked.newest(MAX_ASKED)
            ],
            "label_studio": self._wiring.settings.label_studio_url or "",
        }

    def clicks(self) -> dict[str, Any]:
        """Clicks and boxes of the last hour, and how long their answers took."""
        clicks = self._wiring.metrics.clicks
        hour = clicks.whole()
        return {
            "count": hour.count,
            "median": _rounded(hour.median),
            "p95": _rounded(hour.p95),
            "minutes": [_minute(each) for each in clicks.minutes()],
        }

    def moving_part(self) -> Response:
        return self._parts.web_page("moving", "overview_moving.html", self.moving)

    def clicks_part(self) -> Response:
        return self._parts.web_page(
            "clicks", "overview_clicks.html", lambda: {"clicks": self.clicks()}
        )

    def doctor_part(self) -> Response:
        return web_page("overview_doctor.html", doctor=self._doctor())

    def look_again(self) -> Response:
        """Have the doctor look again."""
        self._diagnosis.look()
        return jsonify(detail="The doctor looks again; it takes some seconds.")

    def _doctor(self) -> dict[str, Any]:
        found = self._diagnosis.latest()
        return {**found, "at": found["at"] and iso_time(found["at"])}

    def _model(self) -> dict[str, Any]:
        engine, metrics = self._service.engine, self._wiring.metrics
        status = engine.status()
        memory = metrics.reading("sam2_device_memory_bytes")
        waiting = metrics.reading("sam2_queue_depth")
        return {
            "state": status.state,
            "detail": status.detail,
            "version": shown_version(engine.model_version),
            "device": metrics.device,
            "memory": {name: int(number) for name, number in memory.items()},
            "waiting": {name: int(number) for name, number in waiting.items()},
            "busy_seconds": int(engine.busy_seconds),
            "replicas": sorted(engine.replicas, key=lambda each: (each.node, each.name)),
        }

    def _of_the_store(self) -> dict[str, Any]:
        """Jobs and runs under way, what ended lately, deliveries that wait; and why these cannot
        be read."""
        tracking = self._service.tracking
        found: dict[str, Any] = {name: [] for name in ("jobs", "runs", "ended", "deliveries")}
        try:
            running = tracking.store.jobs(unfinished=True, limit=MAX_RUNNING)
            newest = tracking.store.jobs(limit=_LOOKED_THROUGH)
            ended = sorted((job for job in newest if job.state.ended), key=lambda job: -job.updated)
            deliveries = []
            for each in tracking.deliveries.waits()[:MAX_DELIVERIES]:
                job = tracking.store.job(each.job_id)
                if job is not None:
                    said = {"seconds": round(each.seconds), "reason": each.reason}
                    deliveries.append({**self._job(job), **said, "failures": each.failures})
            found["runs"] = [
                run_row(run) for run in self._runs.newest(unfinished=True, limit=MAX_RUNNING)
            ]
        except StoreError as error:
            return {**found, "trouble": str(error)}
        found["jobs"] = [self._job(job) for job in running]
        found["ended"] = [self._job(job) for job in ended[:MAX_ENDED]]
        return {**found, "deliveries": deliveries, "trouble": ""}

    def _job(self, job: Job) -> dict[str, Any]:
        left = self._service.tracking.jobs.seconds_left(job)
        pace = 60 * (job.total - job.done) / left if left else None
        return {
            "id": job.id,
            "state": job.state,
            "done": job.done,
            "total": job.total,
            "message": job.message,
            "project": job.project.partition(".")[0],
            "task": job.task,
            "created": iso_time(job.created),
            "updated": iso_time(job.updated),
            "seconds_left": None if left is None else round(left),
            "masks_a_minute": None if pace is None else round(pace),
        }


def overview_blueprint(overview: Overview, wiring: Wiring) -> Blueprint:
    """The routes beside ``/``, which is a probe too (``app.py``)."""
    blueprint = site_blueprint("overview", wiring.settings)

    @blueprint.get("/overview")
    def as_json() -> Response:
        return jsonify(overview.now())

    blueprint.get("/overview/moving")(overview.moving_part)
    blueprint.get("/overview/clicks")(overview.clicks_part)
    blueprint.get("/overview/doctor")(overview.doctor_part)
    blueprint.post("/overview/doctor")(overview.look_again)
    return blueprint


def _minute(minute: Minute) -> dict[str, Any]:
    return {
        "at": minute.at,
        "count": minute.count,
        "median": _rounded(minute.median),
        "p95": _rounded(minute.p95),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
