"""What every request passes before and after its route: identity, credentials, limits, headers."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Flask, Response, g, jsonify, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from backend.labelstudio.label_config import LabelConfigError
from backend.logs import request_id
from backend.metrics import Metrics
from backend.predict.dispatch import BadRequest
from backend.settings import Settings
from backend.threads.caller import caller, serving
from backend.web.door import ARRIVED, REFUSAL, Door, Refusal, wants_html

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)
access = logging.getLogger("backend.access")

# Asked every few seconds, as are the parts of pages that move: logged at DEBUG.
QUIET = {"root", "health", "ready", "prometheus", "static_file"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
REQUEST_ID = "X-Request-ID"
PAGE_WORD = "X-CSRF-Token"
"""What the backend's own pages send with what they ask for: a word that only they can read."""


def guard(app: Flask, settings: Settings, metrics: Metrics) -> None:
    """Put the guard around every route of ``app``."""
    door = Door(settings)
    app.jinja_env.globals["csrf_token"] = secrets.token_urlsafe(24)
    app.wsgi_app = _identified(app.wsgi_app)  # type: ignore[assignment,method-assign]  # Flask's own advice
    _add_checks(app, door, metrics)
    _add_errors(app, door)


def refuse(code: HTTPStatus, reason: str) -> Response:
    """An error with its reason in the status line too: when a backend is connected, Label
    Studio shows that line and not the body, as HTML: a tag in angle brackets would vanish."""
    if wants_html(request.headers.get("Accept")):
        response = Response(render_template("refusal.html", reason=reason), mimetype="text/html")
        response.headers["Content-Security-Policy"] = PAGE_POLICY
    else:
        response = jsonify(error=reason, detail=reason)
    tags = re.sub(r"</?([^<>]*?)/?>", r"[\1]", reason)
    shown = "".join(char if char.isprintable() else " " for char in tags)
    line = " ".join(shown.split()).encode("latin-1", "replace").decode("latin-1")[:400]
    response.status = f"{code.value} SAM2 backend: {line}"
    return response


def _identified(inner: WSGIApplication) -> WSGIApplication:
    """Everything that is done for a request, in whatever thread, is done under its id."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_" + REQUEST_ID.upper().replace("-", "_"))
        begun = environ.get(ARRIVED) or time.monotonic()
        with serving(request_id=request_id(given), begun=begun):
            return inner(environ, start_response)

    return answer


def _add_checks(app: Flask, door: Door, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> Response | None:
        g.start = time.perf_counter()
        request.max_content_length = door.limit(request.path)
        refusal = request.environ.get(REFUSAL) or door.refusal(request.path, request.headers.get)
        refusal = refusal or _unknown_page(app)
        if refusal is None:
            return None
        response = refuse(*refusal)
        if refusal.code is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Basic realm="SAM2 backend"'
        return response

    @app.after_request
    def end(response: Response) -> Response:
        route = request.endpoint or "unknown"
        seconds = time.perf_counter() - g.get("start", time.perf_counter())
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers[REQUEST_ID] = caller().request_id
        access.log(
            logging.DEBUG if route in QUIET or "HX-Request" in request.headers else logging.INFO,
            "%s %s answered %d",
            request.method,
            route,  # and not the path, which may hold anything
            response.status_code,
            extra={"fields": {"seconds": round(seconds, 3)}},
        )
        return response


def _unknown_page(app: Flask) -> Refusal | None:
    """Why a page that asks from this address is not answered: it is not one of the backend's."""
    known = str(app.jinja_env.globals["csrf_token"]).encode()
    given = request.headers.get(PAGE_WORD, "").encode("utf-8", "replace")
    if request.headers.get("Origin") is None or hmac.compare_digest(given, known):
        return None
    reason = "the Origin is this backend's, but the page is of an earlier start: load it again"
    return Refusal(HTTPStatus.FORBIDDEN, reason)


def _add_errors(app: Flask, door: Door) -> None:
    @app.errorhandler(BadRequest)
    @app.errorhandler(LabelConfigError)
    def bad_request(error: Exception) -> Response:
        return refuse(HTTPStatus.BAD_REQUEST, str(error))

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        return refuse(*door.too_large(request.path))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = refuse(HTTPStatus(error.code or 500), error.name)
        if isinstance(error, MethodNotAllowed):
            response.allow.update(error.valid_methods or ())
        return response

    @app.errorhandler(Exception)
    def defect(error: Exception) -> Response:
        logger.exception("%s failed", request.endpoint)
        reason = f"internal error; the backend's log has it under {caller().request_id}"
        return refuse(HTTPStatus.INTERNAL_SERVER_ERROR, reason)
