"""http and https: one object behind one URL, with redirects, retries and resuming.

Redirects are followed by hand, so that every hop is checked and gets only the headers meant
for it. A body that ends early is taken up again where it broke off, provided that the server
still has the same version.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError as Urllib3Error

from backend.media.errors import MediaError, Reason, shown
from backend.media.guarded_session import guarded_session
from backend.media.safety import AddressPolicy, parse_http_url
from backend.media.source import Download, Restart, Unchanged, Validators

_READ_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_RETRIED = (429, 500, 502, 503, 504)
_ATTEMPTS = 3
_BACKOFF_S = 0.25
_LONGEST_PAUSE_S = 10.0
_RESUMES_WITHOUT_PROGRESS = 2

_SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}
_SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|s[rivpet]|spr|sig|sk(oid|tid|t|e|s|v)"
)

# Asked for the headers of each hop, as only the hop's address says what may be sent there.
HeadersFor = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait: for a connection, for the next bytes, for the whole object."""

    connect: float = 5.0
    read: float = 15.0
    total: float = 120.0


class Deadline:
    """When to give up on an object as a whole."""

    def __init__(self, seconds: float, what: str) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self._what = what

    def check(self) -> None:
        """Raises MediaError (timeout) once the time is over."""
        if self.remaining <= 0:
            raise MediaError(
                f"{self._what} did not arrive within {self._seconds:g} s.",
                "The server or the connection to it is too slow.",
                reason=Reason.TIMEOUT,
            )

    @property
    def remaining(self) -> float:
        """Seconds left; negative when over."""
        return self._end - time.monotonic()


class HttpTransport:
    """Sends GET requests, hop by hop; safe to share between threads.

    Args:
        policy: which addresses may be connected to.
        timeouts: see ``Timeouts``.
        verify: True, False, or the path of a CA bundle.
    """

    def __init__(
        self, policy: AddressPolicy, *, timeouts: Timeouts, verify: bool | str = True
    ) -> None:
        self._session = guarded_session(
            policy, answer_seconds=timeouts.connect + timeouts.read, verify=verify
        )
        self.timeouts = timeouts

    def get(self, url: str, headers_for: HeadersFor, deadline: Deadline) -> requests.Response:
        """The first answer that is not a redirect, its body unread.

        Raises:
            MediaError: a hop is forbidden, unreachable, or there are too many of them.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            target = parse_http_url(url).url
            response = self._attempts(target, headers_for(target), deadline)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                return response
            response.close()
            url = _redirected(target, location)
        raise MediaError(
            f"{shown(url)} is redirected more than {_MAX_REDIRECTS} times.", reason=Reason.FAILED
        )

    def _attempts(
        self, url: str, headers: Mapping[str, str], deadline: Deadline
    ) -> requests.Response:
        """One hop, tried again where trying again may help."""
        for attempt in range(1, _ATTEMPTS + 1):
            deadline.check()
            last = attempt == _ATTEMPTS
            try:
                response = self._send(url, headers)
            except requests.RequestException as error:
                if last or isinstance(error, requests.exceptions.SSLError):
                    # The chain is cut: its texts hold the URL with its signature.
                    raise _no_answer(url, error, self.timeouts) from None
                pause = _backoff(attempt)
            else:
                if response.status_code not in _RETRIED or last:
                    return response
                pause = _asked_pause(response) or _backoff(attempt)
                if pause > min(_LONGEST_PAUSE_S, deadline.remaining):
                    return response
                response.close()
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _send(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        return self._session.get(
            url,
            # A compressed body could not be resumed, and pictures do not shrink.
            headers={"Accept-Encoding": "identity", **headers},
            timeout=(self.timeouts.connect, self.timeouts.read),
            stream=True,
            allow_redirects=False,
        )


class HttpObject:
    """What one http(s) URL holds; a ``RemoteObject``.

    Args:
        transport: how to get there.
        url: where it is; may carry a signature.
        identity: its name in the cache.
        what: how to call it in a message; without secrets.
    """

    def __init__(self, transport: HttpTransport, url: str, *, identity: str, what: str) -> None:
        self._transport = transport
        self._url = url
        self._identity = identity
        self._what = what

    @property
    def identity(self) -> str:
        """Its name in the cache."""
        return self._identity

    def download(self, known: Validators | None) -> Download | Unchanged:
        """See ``RemoteObject.download``."""
        deadline = Deadline(self._transport.timeouts.total, self._what)
        response = self._open(0, known, deadline)
        if response.status_code == 304 and known:
            response.close()
            return Unchanged()
        if response.status_code not in (200, 206):
            response.close()
            raise self._explain(response)
        current = self._validators(response)
        if known and known.same_object(current):
            # The server ignored the condition; what it says settles the question as well.
            response.close()
            return Unchanged()
        return Download(self._body(response, current, deadline), current)

    # --- for sources that are reached over HTTP but differ in the details --------------------

    def _open(self, start: int, known: Validators | None, deadline: Deadline) -> requests.Response:
        """Ask for the bytes from ``start`` on."""
        headers = range_header(start) or condition_headers(known)
        return self._transport.get(self._url, lambda hop: headers, deadline)

    def _validators(self, response: requests.Response) -> Validators:
        headers = response.headers
        return Validators(headers.get("ETag"), headers.get("Last-Modified"), total_size(response))

    def _explain(self, response: requests.Response) -> MediaError:
        return explain_status(response, self._what)

    # --- the body ----------------------------------------------------------------------------

    def _body(
        self, response: requests.Response, version: Validators, deadline: Deadline
    ) -> Iterator[bytes]:
        """The complete body, resumed where it breaks off."""
        position, barren = 0, 0
        try:
            while True:
                before, ended = position, False
                try:
                    for chunk in _read(response, deadline):
                        position += len(chunk)
                        yield chunk
                    ended = True
                except (Urllib3Error, OSError):
                    pass  # told by the position
                response.close()
                if version.size is None:
                    # Headers cut short look complete, and announce no size: an empty body is
                    # one that never came. Nor can such a body be taken up in its middle.
                    if not ended or position == 0:
                        raise self._broke_off(position, version)
                    return
                if position >= version.size:
                    return
                barren = 0 if position > before else barren + 1
                if barren > _RESUMES_WITHOUT_PROGRESS:
                    raise self._broke_off(position, version)
                deadline.check()
                response = self._resume(position, version, deadline)
        finally:
            response.close()

    def _resume(self, position: int, version: Validators, deadline: Deadline) -> requests.Response:
        response = self._open(position, None, deadline)
        if response.status_code not in (200, 206):
            response.close()
            raise self._explain(response)
        current = self._validators(response)
        changed = current.size != version.size or current.etag != version.etag
        if changed or range_start(response) != position:
            response.close()
            raise Restart
        return response

    def _broke_off(self, position: int, version: Validators) -> MediaError:
        expected = f" of {version.size}" if version.size is not None else ""
        return MediaError(
            f"{self._what} broke off after {position}{expected} bytes.",
            "Try again; if it stays, the stored file or the connection is damaged.",
            reason=Reason.TRUNCATED,
        )


def unsigned_url(url: str) -> str:
    """A URL without its signature, if it has one: what stays the same when it is signed anew.

    Knows the query signatures of S3 (versions 2 and 4), Google Cloud Storage, CloudFront and
    Azure's shared access signatures.
    """
    address, _, query = url.partition("#")[0].partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    names = {pair.partition("=")[0].lower() for pair in pairs}
    if not names & _SIGNATURES:
        return f"{address}?{query}" if query else address
    kept = [pair for pair in pairs if not _SIGNING.fullmatch(pair.partition("=")[0].lower())]
    return f"{address}?{'&'.join(kept)}" if kept else address


def range_header(start: int, length: int | None = None) -> dict[str, str]:
    """The Range header for ``length`` bytes from ``start`` on; none for the whole object."""
    if start == 0 and length is None:
        return {}
    end = "" if length is None else str(start + length - 1)
    return {"Range": f"bytes={start}-{end}"}


def condition_headers(known: Validators | None) -> dict[str, str]:
    """Headers that let a server answer 304 where the version is still current."""
    if known and known.etag:
        return {"If-None-Match": known.etag}
    if known and known.last_modified:
        return {"If-Modified-Since": known.last_modified}
    return {}


def total_size(response: requests.Response) -> int | None:
    """The length of the complete object, where the answer says; None for a packed body."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isascii() and total.isdigit() else None


def range_start(response: requests.Response) -> int | None:
    """Where in the object the body begins; None where the answer does not say."""
    if response.status_code == 200:
        return 0
    text = response.headers.get("Content-Range", "")
    start = text.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isascii() and start.isdigit() else None


def explain_status(response: requests.Response, what: str) -> MediaError:
    """What a status of 400 or more means for whoever waits for the picture."""
    status = response.status_code
    if status in (401, 403):
        return MediaError(
            f"{what} is not open to the backend (HTTP {status}).",
            "A presigned URL may have expired; otherwise connect the storage to Label Studio "
            "or give the backend credentials of its own.",
            reason=Reason.UNAUTHORIZED,
        )
    if status in (404, 410):
        return MediaError(
            f"{what} does not exist (HTTP {status}).",
            "Check the address in the task's data.",
            reason=Reason.NOT_FOUND,
        )
    if status == 429:
        return MediaError(
            f"The server of {what} asks for fewer requests (HTTP 429).",
            "Try again later.",
            reason=Reason.FAILED,
        )
    return MediaError(f"The server of {what} answered HTTP {status}.", reason=Reason.FAILED)


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. Header bytes arrive as Latin-1, and raw UTF-8 in them exists."""
    try:
        return urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
    except ValueError:
        raise MediaError(
            f"{shown(url)} redirects to something that is not a URL.", reason=Reason.REFUSED
        ) from None


def _read(response: requests.Response, deadline: Deadline) -> Iterator[bytes]:
    """The body as it arrives. ``read1`` returns what is there, so that a server that sends a
    byte now and then cannot get round the deadline."""
    while chunk := response.raw.read1(_READ_BYTES, decode_content=True):
        yield chunk
        deadline.check()


def _backoff(attempt: int) -> float:
    return _BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def _asked_pause(response: requests.Response) -> float | None:
    """What Retry-After asks for, in seconds (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(moment.timestamp() - time.time(), 0.0)


def _no_answer(url: str, error: requests.RequestException, timeouts: Timeouts) -> MediaError:
    parsed = parse_http_url(url)
    host = f"{parsed.host}:{parsed.port}" if parsed.port else parsed.host
    if isinstance(error, requests.exceptions.SSLError):
        return MediaError(
            f"The TLS certificate of {host} was not accepted.",
            "Give the backend the CA bundle that signed it.",
            reason=Reason.UNREACHABLE,
        )
    if isinstance(error, requests.Timeout):
        return MediaError(
            f"{host} did not answer within {timeouts.read:g} s.", reason=Reason.TIMEOUT
        )
    return MediaError(
        f"{host} cannot be reached from the backend.",
        "Check that the backend's network reaches it; inside a container localhost is the "
        "container itself.",
        reason=Reason.UNREACHABLE,
    )
