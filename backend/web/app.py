"""The HTTP routes of a Label Studio ML backend, and nothing else.

The contract is the one Label Studio 1.23 speaks (``label_studio/ml/api_connector.py``):
``/health``, ``/setup``, ``/predict``, ``/versions``, ``/webhook``, and ``/validate``, which it
defines but does not call.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge

from backend import __version__
from backend.doctor.doctor import diagnose
from backend.engine.engine import Engine, State
from backend.expected import LONGEST_SENTENCE, cut
from backend.files import found_aside
from backend.finetune.finetune_jobs import FinetuneJob
from backend.finetune.finetuning import Finetuning
from backend.job_state import iso_time
from backend.labelstudio.json_values import parse_json, whole_number
from backend.labelstudio.model_names import shown_version
from backend.metrics import Metrics
from backend.predict.dispatch import MAX_PROJECT, BadRequest, Dispatcher
from backend.predict.find import OfferedPictures
from backend.runs.runs import Runs
from backend.tracking.store import Job
from backend.web.door import wants_html
from backend.web.exports import Exports, exports_blueprint
from backend.web.guard import guard, refuse
from backend.web.overview import Overview, overview_blueprint
from backend.web.pictures import Pictures, pictures_blueprint
from backend.web.project_page import ProjectPage, project_blueprint
from backend.web.run_routes import run_blueprint
from backend.web.site import add_site
from backend.web.track_page import TrackPage, track_blueprint
from backend.web.training_page import training_blueprint
from backend.wiring import Wiring

logger = logging.getLogger(__name__)

DESCRIPTION = Path(__file__).with_name("openapi.json")  # tests/operate compares it with the routes
MAX_JOBS = 500  # listed at once, the newest first
MAX_OBJECTS = 2_000_000  # lists and objects of a body; MAX_BODY_MB of keyframes holds about as many
MAX_VALUES = 32_000_000  # of all kinds; most are run lengths of masks
MAX_PROBLEMS = 20  # of a label config that are told
STUCK_SECONDS = 600.0  # no single run of the model takes so long


def create_app(wiring: Wiring, service: Dispatcher, finetuning: Finetuning, runs: Runs) -> Flask:
    """The WSGI application over ``service``."""
    app, metrics = Flask(__name__, static_folder=None), wiring.metrics
    overview = Overview(wiring, service, runs)
    missing = [str(path) for path in found_aside(wiring.settings.state_dir.expanduser())]
    _add_probes(app, service, metrics, overview if wiring.settings.has_pages else None, missing)
    _add_contract(app, service, finetuning, metrics)
    _add_jobs(app, service)
    app.register_blueprint(run_blueprint(runs, _body))
    _add_training(app, finetuning)
    _add_pictures(app, service.finder.pictures)
    _add_diagnostics(app, wiring, service.engine)
    add_site(app)
    app.register_blueprint(overview_blueprint(overview, wiring))
    pictures = Pictures(service.tracking, wiring.settings.threads, wiring.label_studio)
    app.register_blueprint(pictures_blueprint(pictures, wiring.settings))
    project = ProjectPage(service.tracking, runs, wiring.settings)
    app.register_blueprint(project_blueprint(project, wiring.settings))
    app.register_blueprint(training_blueprint(finetuning, wiring.settings, _body))
    app.register_blueprint(exports_blueprint(Exports(wiring), wiring.settings))
    track_page = TrackPage(service.tracking, wiring.settings.label_studio_url)
    app.register_blueprint(track_blueprint(track_page, wiring.settings))
    guard(app, wiring.settings, metrics)
    return app


def _add_probes(
    app: Flask,
    service: Dispatcher,
    metrics: Metrics,
    overview: Overview | None,
    set_aside: list[str],
) -> None:
    @app.get("/health")
    def health() -> tuple[Response, int]:
        status = service.engine.status()
        # "UP" while loading and after a failed load too: Label Studio only asks whether to talk
        # to this address, and a restart would not help. It would where the device hangs.
        stuck = status.state is State.READY and service.engine.busy_seconds > STUCK_SECONDS
        hung = f"the model has not answered for {STUCK_SECONDS:.0f} s"
        shown = jsonify(
            status="DOWN" if stuck else "UP",
            model_class="SAM2",
            version=__version__,
            model_version=shown_version(service.engine.model_version),
            model_state=status.state,
            detail=hung if stuck else status.detail,
            set_aside=set_aside,
        )
        return shown, HTTPStatus.SERVICE_UNAVAILABLE if stuck else HTTPStatus.OK

    @app.get("/")
    def root() -> Response | tuple[Response, int]:
        if overview is not None and wants_html(request.headers.get("Accept")):
            return overview.page()
        return health()

    @app.get("/ready")
    def ready() -> tuple[Response, int]:
        status = service.engine.status()
        code = HTTPStatus.OK if status.state is State.READY else HTTPStatus.SERVICE_UNAVAILABLE
        return jsonify(status=status.state, detail=status.detail), code

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.exposition(), mimetype="text/plain; version=0.0.4")

    description = DESCRIPTION.read_bytes()

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(description, mimetype="application/json")


def _add_contract(
    app: Flask, service: Dispatcher, finetuning: Finetuning, metrics: Metrics
) -> None:
    @app.post("/setup")
    def setup() -> Response:
        status = service.engine.status()
        if status.state is State.FAILED:
            return refuse(HTTPStatus.SERVICE_UNAVAILABLE, status.detail)
        body = _body()
        fields = body if isinstance(body, dict) else {}
        config = service.config(fields.get("schema"))
        if not config.usable:
            problems = "; ".join(config.problems[:MAX_PROBLEMS])
            return refuse(HTTPStatus.BAD_REQUEST, cut(problems, LONGEST_SENTENCE))
        for problem in config.problems[:MAX_PROBLEMS]:
            logger.warning("project %s: %s", str(fields.get("project"))[:MAX_PROJECT], problem)
        version = shown_version(service.engine.model_version)
        return jsonify(model_version=version, problems=list(config.problems))

    @app.post("/predict")
    def predict() -> Response:
        return jsonify(service.predict(_body()))

    @app.post("/validate")
    def validate() -> Response:
        body = _body()
        config = service.config(body.get("config") if isinstance(body, dict) else None)
        return jsonify(valid=config.usable, problems=list(config.problems))

    @app.get("/versions")
    def versions() -> Response:
        return jsonify(versions=finetuning.versions())

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        try:
            body = _json() if request.is_json else None
        except BadRequest:
            body = None  # nothing of Label Studio's is nested like that
        action = body.get("action") if isinstance(body, dict) else None
        known = isinstance(action, str) and action.isupper() and len(action) < 40
        metrics.webhooks.labels(action if known else "unknown").inc()
        return jsonify(status="ok", detail=finetuning.webhook(body) or ""), HTTPStatus.CREATED


def _add_jobs(app: Flask, service: Dispatcher) -> None:
    store, runner = service.tracking.store, service.tracking.jobs

    @app.get("/jobs")
    def jobs() -> Response:
        unfinished = request.args.get("unfinished") in ("1", "true")
        return jsonify(
            jobs=[_job(job) for job in store.jobs(unfinished=unfinished, limit=MAX_JOBS)]
        )

    @app.get("/jobs/<job_id>")
    def one_job(job_id: str) -> Response:
        job = store.job(job_id)
        return jsonify(_job(job)) if job else refuse(HTTPStatus.NOT_FOUND, f"no job {job_id}")

    @app.post("/jobs/<job_id>/cancel")
    def cancel_job(job_id: str) -> Response:
        if store.job(job_id) is None:
            return refuse(HTTPStatus.NOT_FOUND, f"no job {job_id}")
        return jsonify(_job(runner.cancel(job_id)))


def _add_training(app: Flask, finetuning: Finetuning) -> None:
    def one(project: str, find: Callable[[int], FinetuneJob | None]) -> Response:
        job = find(int(project)) if re.fullmatch(r"[0-9]{1,9}", project) else None
        if job is None:
            return refuse(HTTPStatus.NOT_FOUND, "there was no fine-tuning on this project")
        return jsonify(finetuning.shown(job))

    @app.get("/train")
    def trainings() -> Response:
        return jsonify(jobs=[finetuning.shown(job) for job in finetuning.jobs.jobs()])

    @app.get("/train/<project>")
    def one_training(project: str) -> Response:
        return one(project, finetuning.jobs.job)

    @app.post("/train/<project>/cancel")
    def cancel_training(project: str) -> Response:
        return one(project, finetuning.jobs.cancel)


def _add_pictures(app: Flask, pictures: OfferedPictures) -> None:
    """``GET /pictures/<name>.jpg``: what the detector is asked about, for as long as it is asked.
    It comes without credentials: nobody else knows the name."""

    @app.get("/pictures/<name>.jpg")
    def picture(name: str) -> Response:
        file = pictures.get(name)
        if file is None:
            return refuse(HTTPStatus.NOT_FOUND, "no such picture is offered now")
        return Response(file, mimetype="image/jpeg")


def _add_diagnostics(app: Flask, wiring: Wiring, engine: Engine) -> None:
    """``GET /diagnostics``: the doctor over HTTP.

    The answer names hosts, folders and a user, and makes the backend ask other machines, so a
    service that anybody may use does not give it: not to this machine either, for behind a proxy
    on it everybody comes from here.
    """
    is_open = wiring.settings.is_open
    one_at_a_time = threading.Lock()

    @app.get("/diagnostics")
    def diagnostics() -> Response:
        if is_open:
            return refuse(
                HTTPStatus.FORBIDDEN,
                "diagnostics are given only where credentials are asked for: set BASIC_AUTH_USER "
                "and BASIC_AUTH_PASS or AUTH_TOKEN, or run python -m backend doctor",
            )
        wanted = {name: whole_number(request.args.get(name)) for name in ("project", "task")}
        for name, number in wanted.items():
            if number is None and name in request.args:
                raise BadRequest(f"{name} must be a number")
        if not one_at_a_time.acquire(blocking=False):
            return refuse(HTTPStatus.TOO_MANY_REQUESTS, "the doctor is at work; ask again later")
        try:
            return jsonify(diagnose(wiring, engine, **wanted))
        finally:
            one_at_a_time.release()


def _job(job: Job) -> dict[str, Any]:
    """What a job looks like from outside."""
    return {
        "id": job.id,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "message": job.message,
        "project": job.project,
        "task": job.task,
        "created": iso_time(job.created),
        "updated": iso_time(job.updated),
    }


def _body() -> Any:
    body = _json()
    if body is None:
        raise BadRequest("the body must be JSON")
    return body


def _json() -> Any:
    """The body as JSON, whatever it says it is; None where it is none.

    Raises:
        RequestEntityTooLarge: it is longer than is read.
        BadRequest: it is nested too deeply to be Label Studio's, or would take many times its own
            size in memory.
    """
    data = request.get_data()
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(data) >= limit:
        raise RequestEntityTooLarge  # Werkzeug cuts a body without a length at the limit
    if data.count(b"[") + data.count(b"{") > MAX_OBJECTS or data.count(b",") > MAX_VALUES:
        raise BadRequest(
            f"the body holds more than {MAX_OBJECTS} lists and objects or {MAX_VALUES} values; "
            "send fewer tasks at once"
        )
    try:
        return parse_json(data)
    except ValueError:
        return None
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
