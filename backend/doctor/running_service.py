"""The service that runs at the address of these settings, asked what it finds out about itself."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import requests

from backend.doctor.findings import Finding, Level, ok, warning
from backend.doctor.label_studio import health
from backend.settings import Settings

SUBJECT = "service"
ANSWER_SECONDS = 180.0  # it asks Label Studio and media hosts in turn
MAX_BYTES = 4 * 1024 * 1024
ENV = "run the doctor with the settings of the service, for instance with --env-file"


def ask_service(
    settings: Settings, *, project: int | None, task: int | None
) -> tuple[Finding, list[Finding] | None]:
    """What a service at the address of ``settings`` finds out about itself, by its own settings.

    Returns:
        A finding about the service, and its findings; None where it gave none.
    """
    url = _address(settings)
    found = health(url)
    if isinstance(found, str):
        return ok(SUBJECT, f"none runs at {url}, so the settings of this command are judged"), None
    query = {name: n for name, n in (("project", project), ("task", task)) if n is not None}
    try:
        status, body = _get(f"{url}/diagnostics", settings, query)
    except requests.RequestException as error:
        name = type(error).__name__
        text = f"{url} did not tell its findings ({name}), so the settings of this command are"
        return warning(SUBJECT, f"{text} judged", "look at its log"), None
    if status == HTTPStatus.OK and (findings := _findings(body)) is not None:
        return ok(SUBJECT, f"{url} runs; what follows is judged by its own settings"), findings
    refusals: dict[int, tuple[str, str]] = {
        HTTPStatus.FORBIDDEN: (
            "asks for no credentials, so it tells nobody its settings",
            f"set BASIC_AUTH_USER and BASIC_AUTH_PASS for it, or {ENV}",
        ),
        HTTPStatus.UNAUTHORIZED: ("has other credentials than these settings", ENV),
        HTTPStatus.TOO_MANY_REQUESTS: ("is being examined by somebody else", "try again"),
    }
    other = f"answered {status} instead of its findings", "look at its log"
    text, fix = refusals.get(status, other)
    return warning(SUBJECT, f"{url} {text}; the settings of this command are judged", fix), None


def _address(settings: Settings) -> str:
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _get(url: str, settings: Settings, query: dict[str, int]) -> tuple[int, bytes]:
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor a .netrc has business with it
        if settings.basic_auth_user is not None:
            session.auth = (settings.basic_auth_user, settings.basic_auth_pass or "")
        elif settings.auth_token is not None:
            session.headers["Authorization"] = f"Bearer {settings.auth_token}"
        timeout = (5.0, ANSWER_SECONDS)
        with session.get(
            url, params=query, timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            return response.status_code, response.raw.read(MAX_BYTES, decode_content=True)


def _findings(body: bytes) -> list[Finding] | None:
    """What ``diagnose`` wrote; None where that is something else."""
    try:
        return [_finding(each) for each in json.loads(body)["findings"]]
    except (ValueError, KeyError, TypeError):
        return None


def _finding(item: dict[str, Any]) -> Finding:
    return Finding(Level(item["level"]), str(item["subject"]), str(item["text"]), str(item["fix"]))
