"""Label Studio itself, and how a project of it is set up for this backend."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from backend.doctor.findings import Finding, broken, ok, warning
from backend.expected import counted
from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.connection import Credential
from backend.labelstudio.json_values import mappings
from backend.labelstudio.label_config import labels_without_answer
from backend.labelstudio.model_names import model_of
from backend.labelstudio.tags import LabelConfig
from backend.settings import Settings

SUBJECT = "Label Studio"
SUPPORTED = (1, 20)  # make compat tries it and later ones
SOON_SECONDS = 7 * 86400.0
SKEW_SECONDS = 60.0
MAX_SKEW_SECONDS = 900.0  # S3 refuses signatures that are older, and Azure likewise
PROBE_SECONDS = (3.0, 5.0)  # to connect, to answer
MAX_PROBE_BYTES = 65536
CONNECT = "in the project open Settings > Model > Connect Model"


def server_findings(
    client: LabelStudioClient, *, now: Callable[[], float] = time.time
) -> tuple[list[Finding], bool]:
    """What there is to say about a Label Studio.

    Returns:
        The findings, and whether its API can be used for further checks.
    """
    version = client.version()
    try:
        user = client.whoami().get("email")
    except LabelStudioError as error:
        if error.status is None:
            return [broken(SUBJECT, str(error))], False
        return [_version(client, version), broken("API key", str(error))], False
    return [_version(client, version), _key(client, user, now()), *_clock(client, now)], True


def _version(client: LabelStudioClient, version: str | None) -> Finding:
    if version is None:
        text = f"{client.url} answers, but does not say which version it is"
        fix = "check that LABEL_STUDIO_URL is Label Studio's own address, with the sub-path if any"
        return warning(SUBJECT, text, fix)
    found = f"{version} at {client.url}"
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < SUPPORTED:
        fix = "update Label Studio if something does not work"
        return warning(SUBJECT, f"{found}; the backend is tested with 1.20 to 1.23", fix)
    return ok(SUBJECT, found)


def _key(client: LabelStudioClient, user: object, now: float) -> Finding:
    """What there is to say about an API key that was accepted."""
    key = f"{client.credential.value} of {user}"
    left = None if client.expires is None else client.expires - now
    if client.credential is Credential.ACCESS:
        minutes = "soon" if left is None else f"in {counted(round(max(left, 0.0) / 60), 'minute')}"
        text = f"{key} is accepted and expires {minutes}"
        fix = "create a personal access token under Account & Settings and use that"
    elif client.credential is Credential.LEGACY:
        text = f"{key} is accepted, but a default Label Studio 1.23 refuses such tokens"
        fix = "create a personal access token before they are switched off"
    elif left is not None and left < SOON_SECONDS:
        text = f"{key} expires on {datetime.fromtimestamp(now + left, UTC).date()}"
        fix = "create a new one under Account & Settings"
    else:
        return ok("API key", f"{key} is accepted")
    return warning("API key", text, fix)


def _clock(client: LabelStudioClient, now: Callable[[], float]) -> Iterator[Finding]:
    try:
        written = client.request("GET", "/api/current-user/whoami").headers.get("Date", "")
        theirs = parsedate_to_datetime(written).timestamp()
    except (LabelStudioError, ValueError):
        return  # no clock to compare with
    skew = now() - theirs
    if abs(skew) < SKEW_SECONDS:
        yield ok("clock", f"within {SKEW_SECONDS:.0f} s of Label Studio's")
        return
    way = "ahead of" if skew > 0 else "behind"
    text = f"this machine's clock is {abs(skew):.0f} s {way} Label Studio's"
    fix = "set both by NTP; signed addresses and tokens are valid for minutes only"
    yield (broken if abs(skew) > MAX_SKEW_SECONDS else warning)("clock", text, fix)


def config_findings(number: int, config: LabelConfig) -> Iterator[Finding]:
    """What is wrong with a label config, labels of prompts that no mask can have first."""
    subject = f"label config of project {number}"
    costly = list(labels_without_answer(config))
    for problem in (*costly, *(each for each in config.problems if each not in costly)):
        level = broken if problem in costly or not config.usable else warning
        yield level(subject, problem)
    if not config.problems:
        objects = ", ".join(each.tag for each in (*config.images, *config.videos))
        yield ok(subject, f"{objects} can be answered; all labels match")


def connection_findings(
    client: LabelStudioClient, settings: Settings, number: int, model_version: str
) -> Iterator[Finding]:
    """Whether the project asks this backend, and for clicks too.

    Asking Label Studio for the backends of a project makes it try each of them anew.
    """
    subject = f"connection of project {number}"
    connect = f"{CONNECT} and give http://<this machine>:{settings.port}"
    try:
        answer = client.request("GET", "/api/ml/", params={"project": number}).json()
    except LabelStudioError as error:
        yield broken(subject, f"the ML backends cannot be listed: {error}")
        return
    except ValueError:
        yield broken(subject, "Label Studio's list of ML backends cannot be read")
        return
    backends = list(mappings(answer))
    if not backends:
        yield broken(subject, "no ML backend is connected", connect)
        return
    others = []
    for backend in backends:
        found = health(str(backend.get("url") or ""))
        if isinstance(found, str):
            others.append(f"{backend.get('url')} {found}")
        else:
            yield from _one_connection(subject, settings, backend, found, model_version)
    if len(others) == len(backends):
        yield broken(
            subject,
            "none of the connected ML backends is a SAM 2 backend that answers here: "
            + "; ".join(others),
            f"start it (python -m backend serve), or correct the address: {connect}",
        )


def health(url: str) -> Mapping[str, Any] | str:
    """What a SAM 2 backend at ``url`` says of itself; else why there is none, in words."""
    if not url.startswith(("http://", "https://")):
        return "is no address"
    try:
        with requests.get(
            f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS, allow_redirects=False, stream=True
        ) as response:
            body = response.raw.read(MAX_PROBE_BYTES, decode_content=True)
            status = response.status_code
        found = json.loads(body)
    except requests.RequestException as error:
        return f"does not answer from this machine ({type(error).__name__})"
    except (ValueError, OSError):
        return "answers, but is another program"
    if not isinstance(found, dict) or found.get("model_class") != "SAM2":
        return f"answers {status}, but is another ML backend"
    return found


def _one_connection(
    subject: str,
    settings: Settings,
    backend: Mapping[str, object],
    health: Mapping[str, Any],
    model_version: str,
) -> Iterator[Finding]:
    url = backend.get("url")
    problems = list(_connection_problems(subject, settings, backend))
    yield from problems
    if health.get("model_state") == "failed":
        yield broken(subject, f"{url}: {health.get('detail')}", "its log says why")
    elif (runs := model_of(health.get("model_version"))) != model_version:
        text = f"{url} runs {runs}, these settings say {model_version}"
        yield warning(subject, text, "run the doctor with the environment of the service")
    if not problems:
        yield ok(subject, f"{url} is connected, and answers clicks")


def _connection_problems(
    subject: str, settings: Settings, backend: Mapping[str, object]
) -> Iterator[Finding]:
    url = backend.get("url")
    if settings.basic_auth_user is not None and backend.get("auth_method") != "BASIC_AUTH":
        yield broken(
            subject,
            f"{url} wants a user name and a password, and Label Studio sends none",
            "edit the model in Settings > Model and choose basic authentication, or unset "
            "BASIC_AUTH_USER and BASIC_AUTH_PASS",
        )
    elif backend.get("state") == "ER":
        yield broken(subject, f"{url} refused the project: {backend.get('error_message')}")
    elif backend.get("state") == "DI":
        yield broken(
            subject,
            f"{url} answers here, but Label Studio cannot reach it, or its user name and password "
            "are wrong",
            "give an address that the machine of Label Studio can reach; for private ones start "
            "Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false",
        )
    if not backend.get("is_interactive"):
        fix = "edit the model in Settings > Model and switch Interactive preannotations on"
        yield broken(subject, f"{url} is not used for clicks and boxes", fix)
