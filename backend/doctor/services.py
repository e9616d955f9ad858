"""Other programs that belong to the set-up: the running service, asked what it finds out about
itself, and the detector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import requests

from backend.doctor.findings import Finding, Level, broken, ok, warning
from backend.doctor.label_studio import health
from backend.labelstudio.detector_client import DetectorError
from backend.runs.service_client import ServiceClient
from backend.settings import Settings
from backend.wiring import Wiring

SUBJECT = "service"
DETECTOR = "detector"
ANSWER_SECONDS = 180.0  # it asks Label Studio and media hosts in turn
ENV = "run the doctor with the settings of the service, for instance with --env-file"


def ask_service(
    settings: Settings, *, project: int | None, task: int | None
) -> tuple[Finding, list[Finding] | None]:
    """What a service at the address of ``settings`` finds out about itself, by its own settings.

    Returns:
        A finding about the service, and its findings; None where it gave none.
    """
    client = ServiceClient(settings)
    url = client.url
    found = health(url)
    if isinstance(found, str):
        return ok(SUBJECT, f"none runs at {url}, so the settings of this command are judged"), None
    query = {name: n for name, n in (("project", project), ("task", task)) if n is not None}
    try:
        status, body = client.send(
            "GET", "/diagnostics", params=query, seconds=(5.0, ANSWER_SECONDS)
        )
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


def _findings(body: bytes) -> list[Finding] | None:
    """What ``diagnose`` wrote; None where that is something else."""
    try:
        return [_finding(each) for each in json.loads(body)["findings"]]
    except (ValueError, KeyError, TypeError):
        return None


def _finding(item: dict[str, Any]) -> Finding:
    return Finding(Level(item["level"]), str(item["subject"]), str(item["text"]), str(item["fix"]))


def detector_findings(wiring: Wiring) -> Iterator[Finding]:
    """Whether the detector answers; nothing where the settings name none."""
    client = wiring.detector()
    if client is None:
        return
    try:
        kind = client.check()
    except DetectorError as error:
        yield broken(DETECTOR, str(error))
        return
    fetched = wiring.settings.detector_fetch_url
    way = f"pictures are fetched from {fetched}" if fetched else "pictures are sent along"
    yield ok(DETECTOR, f"{client.name} answers{f' as {kind}' if kind else ''}; {way}")
