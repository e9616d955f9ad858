"""``GET /diagnostics``: the doctor over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus

from flask import Flask, Response, jsonify, request

from backend.labelstudio.json_values import whole_number
from backend.predict.dispatch import BadRequest
from backend.settings import Settings
from backend.web.guard import refuse

Diagnose = Callable[..., Mapping[str, object]]
"""Looks at the set-up, and at a ``project`` or ``task`` where one is given; gives JSON."""


def add_diagnostics(app: Flask, settings: Settings, diagnose: Diagnose) -> None:
    """Add the route.

    The answer names hosts, folders and a user, and makes the backend ask other machines, so a
    service that anybody may use does not give it: not to this machine either, for behind a proxy
    on it everybody comes from here.
    """
    is_open = settings.basic_auth_user is None and settings.auth_token is None
    one_at_a_time = threading.Lock()

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
            return jsonify(diagnose(**wanted))
        finally:
            one_at_a_time.release()


def _number(name: str) -> int | None:
    written = request.args.get(name)
    if written is None:
        return None
    number = whole_number(written)
    if number is None:
        raise BadRequest(f"{name} must be a number")
    return number
