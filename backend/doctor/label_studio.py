"""Label Studio itself: is it there, which one, does it take the key, does its clock agree."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from backend.doctor.findings import Finding, broken, ok, warning
from backend.labelstudio.client import ConnectionCheck, LabelStudioClient, LabelStudioError
from backend.labelstudio.connection import Credential

SUBJECT = "Label Studio"
TESTED = (1, 23)  # of Label Studio; earlier ones speak the same contract, untested
SOON_SECONDS = 7 * 86400.0
SKEW_SECONDS = 60.0
MAX_SKEW_SECONDS = 900.0  # S3 refuses signatures that are older, and Azure likewise


def server_findings(
    client: LabelStudioClient, *, now: Callable[[], float] = time.time
) -> tuple[list[Finding], bool]:
    """What there is to say about a Label Studio.

    Returns:
        The findings, and whether its API can be used for further checks.
    """
    check = client.check()
    if not check.reachable:
        return [broken(SUBJECT, check.message)], False
    found = [_version(client, check), *_key(client, check, now())]
    if check.accepted:
        found += _clock(client, now)
    return found, check.accepted


def _version(client: LabelStudioClient, check: ConnectionCheck) -> Finding:
    if check.version is None:
        return warning(
            SUBJECT,
            f"{client.url} answers, but does not say which version it is",
            "check that LABEL_STUDIO_URL is Label Studio's own address, with the sub-path if any",
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", check.version)[:2])
    if numbers < TESTED:
        return warning(
            SUBJECT,
            f"{check.version} at {client.url}; the backend is tested with 1.23",
            "update Label Studio if something does not work",
        )
    return ok(SUBJECT, f"{check.version} at {client.url}")


def _key(client: LabelStudioClient, check: ConnectionCheck, now: float) -> Iterator[Finding]:
    subject = "API key"
    if not check.accepted:
        yield broken(subject, check.message)
        return
    kind = client.credential
    left = None if client.expires is None else client.expires - now
    if kind is Credential.ACCESS:
        minutes = "soon" if left is None else f"in {max(left, 0.0) / 60:.0f} minutes"
        yield warning(
            subject,
            f"{kind.value} of {check.user} is accepted and expires {minutes}",
            "create a personal access token under Account & Settings and use that",
        )
    elif kind is Credential.LEGACY:
        yield warning(
            subject,
            f"{kind.value} of {check.user} is accepted, but a default Label Studio 1.23 refuses "
            "such tokens",
            "create a personal access token before they are switched off",
        )
    elif left is not None and left < SOON_SECONDS:
        day = datetime.fromtimestamp(now + left, UTC).date()
        yield warning(
            subject,
            f"{kind.value} of {check.user} expires on {day}",
            "create a new one under Account & Settings",
        )
    else:
        yield ok(subject, f"{kind.value} of {check.user} is accepted")


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
