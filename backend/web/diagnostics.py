"""``GET /diagnostics``: the doctor over HTTP."""

from __future__ import annotations

import threading
from http import HTTPStatus

from flask import Flask, Response, jsonify, request

from backend.doctor.findings import Finding, any_broken
from backend.doctor.model import engine_findings
from backend.labelstudio.json_values import whole_number
from backend.predict.dispatch import BadRequest, Dispatcher
from backend.settings import Settings
from backend.web.guard import refuse


def add_diagnostics(app: Flask, settings: Settings, service: Dispatcher) -> None:
    """Add the route.

    The answer names hosts, folders and a user, and makes the backend ask other machines, so a
    service that anybody may use does not give it: not to this machine either, for behind a proxy
    on it everybody comes from here.
    """
    is_open = settings.basic_auth_user is None and settings.auth_token is None
    one_at_a_time = threading.Lock()

    def model(checked: Settings) -> list[Finding]:
        return engine_findings(service.engine.status(), service.engine.model_version)

    @app.get("/diagnostics")
    def diagnostics() -> Response:
        if is_open:
            return refuse(
                HTTPStatus.FORBIDDEN,
                "diagnostics are given only where credentials are asked for: set BASIC_AUTH_USER "
                "and BASIC_AUTH_PASS or AUTH_TOKEN, or run python -m backend doctor",
            )
        wanted = {name: _number(name) for name in ("project", "task")}
        if not one_at_a_time.acquire(blocking=False):
            return refuse(HTTPStatus.TOO_MANY_REQUESTS, "the doctor is at work; ask again later")
        try:
            from backend.doctor.examine import examine  # which needs the wiring, and that the app

            findings = list(examine(settings, model, **wanted))
        finally:
            one_at_a_time.release()
        return jsonify(
            ok=not any_broken(findings), findings=[finding.as_json for finding in findings]
        )


def _number(name: str) -> int | None:
    written = request.args.get(name)
    if written is None:
        return None
    number = whole_number(written)
    if number is None:
        raise BadRequest(f"{name} must be a number")
    return number
