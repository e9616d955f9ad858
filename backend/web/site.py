"""What all web pages share: their files, how they are rendered, and the headers they go with.

A page is HTML from ``templates/`` that asks again, every few seconds, for the part of it that moves
(``fragment``): one small answer with an ETag, for which no thread is held. Scripts and styles are
files of ``static/``; nothing stands inline, so that the policy can forbid all that does.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Hashable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, render_template, request, send_from_directory, url_for

from backend import __version__
from backend.expected import counted
from backend.recent_values import Recent
from backend.settings import Settings
from backend.web.guard import PAGE_POLICY, refuse

STATIC = Path(__file__).with_name("static")
NO_PAGES = (
    "the pages are shown only where credentials are asked for, or where the backend listens on "
    "this machine alone: set BASIC_AUTH_USER and BASIC_AUTH_PASS or AUTH_TOKEN"
)
_PARTS = 100
SHARED_SECONDS = 1.0
"""For which what is made for one who looks is shown to all."""
_KEPT = "private, max-age=31536000, immutable"  # an address that changes with the content


def add_site(app: Flask) -> None:
    """Serve the files of the pages, and give templates ``asset`` and ``version``."""
    digests = {
        path.relative_to(STATIC).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in STATIC.rglob("*")
        if path.is_file()
    }

    def asset(name: str) -> str:
        return url_for("static_file", name=name, v=digests[name])

    app.jinja_env.globals.update(asset=asset, version=__version__, as_json=as_json)
    app.jinja_env.filters.update(duration=duration, size=size, counted=counted)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True

    @app.get("/static/<path:name>")
    def static_file(name: str) -> Response:
        if name not in digests:
            return refuse(HTTPStatus.NOT_FOUND, "there is no such file")
        response = send_from_directory(STATIC, name, conditional=True)
        if request.args.get("v") == digests[name]:
            response.headers["Cache-Control"] = _KEPT
        return response


def site_blueprint(name: str, settings: Settings) -> Blueprint:
    """A blueprint for pages and their pictures, which not everybody may see."""
    blueprint = Blueprint(name, __name__)

    @blueprint.before_request
    def keep_out() -> Response | None:
        return None if settings.has_pages else refuse(HTTPStatus.FORBIDDEN, NO_PAGES)

    return blueprint


class SharedParts:
    """Parts of pages, made once for all who look at them within the same second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: Recent[str] = Recent(entries=_PARTS, seconds=SHARED_SECONDS)

    def web_page(self, key: Hashable, template: str, values: Callable[[], Any]) -> Response:
        """As the function does with what ``values`` gives."""
        with self._lock:
            text = self._kept.get(key)
            if text is None:
                text = render_template(template, **values())
                self._kept.put(key, text)
        return _as_page(text)


def web_page(template: str, **values: Any) -> Response:
    """A page, or the part of one that moves, from ``templates/``; 304 where the browser has it."""
    return _as_page(render_template(template, **values))


def _as_page(text: str) -> Response:
    response = Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Cache-Control"] = "private, no-cache"
    response.vary.add("Accept")
    response.add_etag()
    response.make_conditional(request)
    return response


def as_json(value: object) -> str:
    """A value as text for an attribute, which the template escapes as any other."""
    return json.dumps(value, separators=(",", ":"))


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(number: float) -> str:
    """Bytes as people say them."""
    if number < 2**20:
        return f"{number / 2**10:.0f} KiB"
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"
