"""The other ML backend that is asked where objects are."""

from __future__ import annotations

from collections.abc import Iterator

from backend.doctor.findings import Finding, broken, ok
from backend.labelstudio.detector_client import DetectorError
from backend.wiring import Wiring

SUBJECT = "detector"


def detector_findings(wiring: Wiring) -> Iterator[Finding]:
    """Whether the detector answers; nothing where the settings name none."""
    client = wiring.detector()
    if client is None:
        return
    try:
        kind = client.check()
    except DetectorError as error:
        yield broken(SUBJECT, str(error))
        return
    fetched = wiring.settings.detector_fetch_url
    way = f"pictures are fetched from {fetched}" if fetched else "pictures are sent along"
    yield ok(SUBJECT, f"{client.name} answers{f' as {kind}' if kind else ''}; {way}")
