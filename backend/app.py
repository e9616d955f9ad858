"""The HTTP routes of a Label Studio ML backend, and nothing else.

The contract is the one Label Studio 1.23 speaks (``label_studio/ml/api_connector.py``):
``/health``, ``/setup``, ``/predict``, ``/versions``, ``/webhook``, and ``/validate``, which it
defines but does not call.
"""

from __future__ import annotations

import logging
import secrets
import time
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from backend.engine.engine import State
from backend.labelstudio.label_config import LabelConfigError
from backend.labelstudio.setup import SetupError, parse_setup
from backend.metrics import Metrics
from backend.service import BadRequest, Service
from backend.settings import Settings
from backend.tracking.store import Job

logger = logging.getLogger(__name__)

# Probes carry no credentials, and Label Studio sends none with its webhooks.
OPEN_ROUTES = {"root", "health", "ready", "webhook"}
MAX_JOBS = 500  # listed at once, the newest first
MAX_BODY_BYTES = 256 * 1024 * 1024  # Label Studio's own limit for a request


def create_app(settings: Settings, service: Service, metrics: Metrics) -> Flask:
    """The WSGI application over ``service``."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    _add_probes(app, service, metrics)
    _add_contract(app, service, metrics)
    _add_jobs(app, service)
    _add_hooks(app, settings, metrics)
    return app


def _add_probes(app: Flask, service: Service, metrics: Metrics) -> None:
    @app.get("/", endpoint="root")
    @app.get("/health")
    def health() -> Response:
        status = service.engine.status()
        # "UP" while loading too: Label Studio only asks whether to talk to this address.
        return jsonify(
            status="UP",
            model_class="SAM2",
            model_version=service.engine.model_version,
            model_state=status.state,
            detail=status.detail,
        )

    @app.get("/ready")
    def ready() -> tuple[Response, int]:
        status = service.engine.status()
        code = HTTPStatus.OK if status.state is State.READY else HTTPStatus.SERVICE_UNAVAILABLE
        return jsonify(status=status.state, detail=status.detail), code

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.exposition(), mimetype="text/plain; version=0.0.4")


def _add_contract(app: Flask, service: Service, metrics: Metrics) -> None:
    @app.post("/setup")
    def setup() -> Response:
        status = service.engine.status()
        if status.state is State.FAILED:
            return _refuse(HTTPStatus.SERVICE_UNAVAILABLE, status.detail)
        wanted = parse_setup(_body())
        config = service.config(wanted.schema)
        if not config.usable:
            return _refuse(HTTPStatus.BAD_REQUEST, "; ".join(config.problems))
        for problem in config.problems:
            logger.warning("project %s: %s", wanted.project, problem)
        return jsonify(model_version=service.engine.model_version, problems=list(config.problems))

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
        return jsonify(versions=[service.engine.model_version])

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        try:
            body = request.get_json(silent=True)
        except RecursionError:
            body = None  # nothing of Label Studio's is nested like that
        action = body.get("action") if isinstance(body, dict) else None
        known = isinstance(action, str) and action.isupper() and len(action) < 40
        metrics.webhooks.labels(action if known else "unknown").inc()
        return jsonify(status="ok"), HTTPStatus.CREATED


def _add_jobs(app: Flask, service: Service) -> None:
    store, runner = service.tracking.store, service.tracking.jobs

    @app.get("/jobs")
    def jobs() -> Response:
        unfinished = request.args.get("unfinished") in ("1", "true")
        return jsonify(jobs=[_job(job) for job in store.jobs(unfinished=unfinished)[:MAX_JOBS]])

    @app.get("/jobs/<job_id>")
    def one_job(job_id: str) -> Response:
        job = store.job(job_id)
        return jsonify(_job(job)) if job else _refuse(HTTPStatus.NOT_FOUND, f"no job {job_id}")

    @app.post("/jobs/<job_id>/cancel")
    def cancel_job(job_id: str) -> Response:
        if store.job(job_id) is None:
            return _refuse(HTTPStatus.NOT_FOUND, f"no job {job_id}")
        return jsonify(_job(runner.cancel(job_id)))


def _job(job: Job) -> dict[str, Any]:
    """What a job looks like from outside; times in seconds since 1970."""
    return {
        "id": job.id,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "message": job.message,
        "project": job.request.get("project"),
        "task": job.request.get("task", {}).get("id"),
        "created": job.created,
        "updated": job.updated,
    }


def _add_hooks(app: Flask, settings: Settings, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> Response | None:
        g.start = time.perf_counter()
        if request.endpoint in OPEN_ROUTES or settings.basic_auth_user is None:
            return None
        return None if _authorised(settings) else _unauthorised()

    @app.after_request
    def end(response: Response) -> Response:
        route = request.endpoint or "unknown"
        seconds = time.perf_counter() - g.get("start", time.perf_counter())
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        return response

    @app.errorhandler(BadRequest)
    @app.errorhandler(LabelConfigError)
    @app.errorhandler(SetupError)
    def bad_request(error: Exception) -> Response:
        return _refuse(HTTPStatus.BAD_REQUEST, str(error))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        code = HTTPStatus(error.code or 500)
        return _refuse(code, error.name)

    @app.errorhandler(Exception)
    def defect(error: Exception) -> Response:
        logger.exception("%s failed", request.path)
        return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the backend's log")


def _body() -> Any:
    try:
        body = request.get_json(force=True, silent=True)
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    if body is None:
        raise BadRequest("the body must be JSON")
    return body


def _refuse(code: HTTPStatus, reason: str) -> Response:
    """An error whose reason stands in the status line too: when a backend is connected, Label
    Studio shows that line and not the body."""
    response = jsonify(error=reason, detail=reason)
    line = " ".join(reason.split()).encode("latin-1", "replace").decode("latin-1")[:400]
    response.status = f"{code.value} SAM2 backend: {line}"
    return response


def _authorised(settings: Settings) -> bool:
    given = request.authorization
    if given is None or given.type != "basic":
        return False
    user = secrets.compare_digest((given.username or "").encode(), _bytes(settings.basic_auth_user))
    word = secrets.compare_digest((given.password or "").encode(), _bytes(settings.basic_auth_pass))
    return user and word


def _bytes(text: str | None) -> bytes:
    return (text or "").encode()


def _unauthorised() -> Response:
    response = _refuse(HTTPStatus.UNAUTHORIZED, "user name or password missing or wrong")
    response.headers["WWW-Authenticate"] = 'Basic realm="SAM2 backend"'
    return response
