"""A client of Label Studio's ML-backend contract: asks another backend where objects are.

It is called as Label Studio would call it (``label_studio/ml/api_connector.py``), with one task at
a time and without any token: neither Label Studio's nor one of ours. Its address is the operator's;
what it answers is taken for hostile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import requests
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.exceptions import TimeoutError as Urllib3Timeout

from backend.expected import ExpectedError
from backend.labelstudio.connection import shown_origin
from backend.labelstudio.json_values import mappings, parse_json, text
from backend.labelstudio.session import new_session, timed_adapter
from backend.recent_values import Recent
from backend.retries import send_with_retries

MAX_ANSWER_BYTES = 16 * 2**20
MAX_OBJECTS = 100_000  # lists and objects of an answer
CONNECT_SECONDS = 5.0
PROBE_SECONDS = 5.0  # Label Studio gives a backend one
SETUP_SECONDS = 10.0
SET_UP_FOR = 600.0  # seconds; Label Studio calls /setup with every page that it loads
SAMPLE_CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="Person"/></RectangleLabels>
<BrushLabels name="mask" toName="image"><Label value="Person"/></BrushLabels></View>"""
_PASSING = (429, 502, 503, 504)  # statuses that say nothing of what was asked
_PIECE = 1 << 16
_LONGEST_REASON = 200


class DetectorError(ExpectedError):
    """Why the detector did not answer, and what to do.

    Attributes:
        passing: it may answer later, whatever it is asked: it is not there, or not in time.
        late: it did not answer in time; it may be what it was asked about.
    """

    def __init__(self, message: str, *, passing: bool = False, late: bool = False) -> None:
        super().__init__(message)
        self.passing, self.late = passing, late


class DetectorClient:
    """One detector; safe to share between threads.

    Args:
        url: its address, with the path that it is served under.
        user, password: of HTTP's basic authentication, as Label Studio offers it for backends;
            None where it asks for none.
        verify: True, False, or the path of a CA bundle.
    """

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        *,
        verify: bool | str = True,
    ) -> None:
        self._url = url
        self.name = f"the detector at {shown_origin(url)}"
        self._credentials = None if user is None else (user, password or "")
        self._session = new_session(verify, timed_adapter())
        self._set_up: Recent[bool] = Recent(entries=256, seconds=SET_UP_FOR)

    def check(self) -> str:
        """What it says that it is: its kind of model, "" where it does not say. It is asked what
        Label Studio asks where a backend is connected, as many answer probes without credentials.

        Raises:
            DetectorError: it is not there, does not let us in, or is something else.
        """
        answer = self._ask("GET", "/health", None, PROBE_SECONDS)
        self._ask_setup("0.0", SAMPLE_CONFIG, SETUP_SECONDS)
        return _printable(text(answer.get("model_class")) or "")

    def predict(
        self,
        task: Mapping[str, Any],
        project: str,
        label_config: str,
        words: str | None,
        seconds: float,
    ) -> object:
        """What ``/predict`` answers for one task: its entry of ``results``, whatever that is.

        Args:
            project: as Label Studio names it to backends, ``<id>.<creation time>``.
            words: what to look for, as a text area of the editor would send it; None to ask as
                *Retrieve predictions* does.
            seconds: for everything.

        Raises:
            DetectorError: there is no answer.
        """
        end = time.monotonic() + seconds
        known = (project, label_config)
        if self._set_up.get(known) is None:
            self._ask_setup(project, label_config, min(SETUP_SECONDS, seconds))
            self._set_up.put(known, True)
        asked: dict[str, Any] = {
            "tasks": [{"annotations": [], "predictions": [], "drafts": [], **task}],
            "project": project,
            "label_config": label_config,
            "params": {"login": None, "password": None, "context": _context(words)},
        }
        answer = self._ask("POST", "/predict", asked, end - time.monotonic())
        results = answer.get("results")
        if not isinstance(results, list):
            raise DetectorError(
                f"{self.name} answered without a list of results; check that DETECTOR_URL is an ML "
                "backend."
            )
        return results[0] if results else []

    def _ask_setup(self, project: str, label_config: str, seconds: float) -> None:
        # What Label Studio fills in beside these is its own address and the token of the project's
        # creator.
        schema = {"project": project, "schema": label_config, "hostname": ""}
        body = {**schema, "access_token": "", "extra_params": ""}
        self._ask("POST", "/setup", body, seconds)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Mapping[str, Any]:
        """The JSON object that it answers with. Raises DetectorError."""
        if seconds <= 0:
            raise DetectorError(f"there was no time left to ask {self.name}; try again")
        end = time.monotonic() + seconds
        send = partial(
            self._session.request,
            method,
            self._url + path,
            json=body,
            auth=self._credentials,
            headers={"Accept-Encoding": "identity"},  # nothing to unpack
            timeout=(min(CONNECT_SECONDS, seconds), seconds),
            allow_redirects=False,
            stream=True,
        )
        try:
            with send_with_retries(send, idempotent=False, until=end) as response:
                data = self._body(response, end)
        except (requests.RequestException, Urllib3Error, OSError) as error:
            # The chain is cut: these exceptions carry the request, and with it the password.
            raise self._no_answer(error, seconds) from None
        if response.status_code != 200:
            raise self._refused(response)
        return self._object(data)

    def _body(self, response: requests.Response, end: float) -> bytes:
        """The body as it arrives, within bounds of bytes and time."""
        pieces: list[bytes] = []
        left = MAX_ANSWER_BYTES
        while piece := response.raw.read1(_PIECE):
            left -= len(piece)
            if left < 0:
                raise DetectorError(
                    f"{self.name} answered with more than {MAX_ANSWER_BYTES >> 20} MiB; have it "
                    "find less at once."
                )
            pieces.append(piece)
            if time.monotonic() > end:
                raise requests.Timeout
        return b"".join(pieces)

    def _object(self, data: bytes) -> Mapping[str, Any]:
        try:
            if data.count(b"[") + data.count(b"{") > MAX_OBJECTS:
                raise ValueError("too many lists and objects")
            found = parse_json(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise DetectorError(
                f"{self.name} answered with something other than an ML backend does; check that "
                "DETECTOR_URL is its address, with the path if there is one."
            )
        return found

    def _refused(self, response: requests.Response) -> DetectorError:
        status = response.status_code
        if status in (401, 403):
            advice = (
                "it wants a user name and password: set DETECTOR_USER and DETECTOR_PASS"
                if self._credentials is None
                else "check DETECTOR_USER and DETECTOR_PASS"
            )
            return DetectorError(f"{self.name} answered {status}: {advice}.")
        if 300 <= status < 400:
            return DetectorError(
                f"{self.name} answered {status}, a redirect, which is not followed; set "
                "DETECTOR_URL to the address that it is really served at."
            )
        if status == 404:
            return DetectorError(
                f"{self.name} answered 404; check DETECTOR_URL, with the path if there is one."
            )
        reason = _printable(response.reason or "")
        said = f"{self.name} answered {status} {reason}: its own log says why."
        return DetectorError(said, passing=status in _PASSING)

    def _no_answer(self, error: Exception, seconds: float) -> DetectorError:
        if isinstance(error, requests.exceptions.SSLError):
            return DetectorError(
                f"The TLS certificate of {self.name} was not accepted; set CA_BUNDLE to the "
                "certificates of whoever signed it."
            )
        if _is_timeout(error):
            return DetectorError(
                f"{self.name} did not answer within {math.ceil(seconds)} s; try again, or give it "
                "a faster machine.",
                passing=True,
                late=True,
            )
        return DetectorError(
            f"{self.name} cannot be reached ({type(error).__name__}); check DETECTOR_URL and that "
            "it runs.",
            passing=True,
        )


def _is_timeout(error: object, depth: int = 4) -> bool:
    """Whether an error is one of time, or was made of one: headers that come too slowly come out as
    a connection that broke."""
    if isinstance(error, requests.Timeout | Urllib3Timeout | TimeoutError):
        return True
    inside = error.args if isinstance(error, Exception) and depth else ()
    return any(_is_timeout(each, depth - 1) for each in inside)


def _context(words: str | None) -> Mapping[str, Any] | None:
    """What the editor sends when somebody has typed into a text area: backends that look for what
    they are told read the first text of the first result."""
    if words is None:
        return None
    return {"result": [{"type": "textarea", "value": {"text": [words]}}]}


def found_items(entry: object) -> list[Mapping[str, object]]:
    """The result items in an entry of ``results``: a prediction, a list of them, or, from some
    backends, the items themselves."""
    predictions = list(mappings([entry] if isinstance(entry, Mapping) else entry))
    items: list[Mapping[str, object]] = []
    for each in predictions:
        items += mappings(each.get("result")) if "result" in each else [each]
    return items


def _printable(line: str) -> str:
    """What a server says, on one line and not too long."""
    shown = "".join(char if char.isprintable() else " " for char in line[:_LONGEST_REASON])
    return " ".join(shown.split())
