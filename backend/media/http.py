"""http and https: one object behind one URL, with redirects and retries.

Redirects are followed by hand, so that every hop is checked and gets only the headers meant
for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError as Urllib3Error

from backend.media.addresses import AddressPolicy, guarded_session, parse_http_url
from backend.media.errors import MediaError, Reason, shown
from backend.media.proxy import Proxy
from backend.media.sources import (
    BodyBrokeOff,
    Deadline,
    Download,
    RangedObject,
    RangeRequest,
    Restart,
    Timeouts,
    Validators,
    parse_content_range,
    parse_size,
)
from backend.retries import send_with_retries

_READ_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5

_V4 = ("algorithm", "credential", "date", "expires", "signedheaders", "signature")
# What a signed address must have to be one of this kind, and what belongs to its signature besides.
_SIGNATURES: tuple[tuple[set[str], set[str]], ...] = (
    ({"x-amz-signature"}, {*(f"x-amz-{each}" for each in _V4), "x-amz-security-token"}),
    ({"x-goog-signature"}, {f"x-goog-{each}" for each in _V4}),
    ({"awsaccesskeyid", "signature", "expires"}, {"x-amz-security-token"}),
    ({"googleaccessid", "signature", "expires"}, set()),
    ({"key-pair-id", "signature"}, {"expires", "policy", "hash-algorithm"}),  # CloudFront
    (  # Azure's shared access signature
        {"sv", "sig"},
        {"ss", "srt", "sr", "sp", "st", "se", "spr", "sip", "si", "sdd", "scid", "skoid", "sktid"}
        | {"skt", "ske", "sks", "skv", "saoid", "suoid"},
    ),
)

# Asked for the headers of each hop, as only the hop's address says what may be sent there.
HeadersFor = Callable[[str], Mapping[str, str]]


class HttpTransport:
    """Sends GET requests, hop by hop; safe to share between threads.

    Args:
        policy: which addresses may be connected to.
        verify: True, False, or the path of a CA bundle.
        proxy: see ``guarded_session``.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        timeouts: Timeouts,
        verify: bool | str = True,
        proxy: Proxy | None = None,
    ) -> None:
        self._session = guarded_session(
            policy, answer_seconds=timeouts.connect + timeouts.read, verify=verify, proxy=proxy
        )
        self.timeouts = timeouts

    def get(self, url: str, headers_for: HeadersFor, deadline: Deadline) -> requests.Response:
        """The first answer that is not a redirect, its body unread.

        Raises:
            MediaError: a hop is forbidden, unreachable, or there are too many of them.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            target = parse_http_url(url).url
            response = self._answer(target, headers_for(target), deadline)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                return response
            response.close()
            url = _redirected(target, location)
        raise MediaError(
            f"{shown(url)} is redirected more than {_MAX_REDIRECTS} times.", reason=Reason.FAILED
        )

    def _answer(
        self, url: str, headers: Mapping[str, str], deadline: Deadline
    ) -> requests.Response:
        """One hop, tried again where trying again may help."""

        def send() -> requests.Response:
            deadline.check()
            return self._session.get(
                url,
                # A compressed body could not be resumed, and pictures do not shrink.
                headers={"Accept-Encoding": "identity", **headers},
                timeout=(self.timeouts.connect, self.timeouts.read),
                stream=True,
                allow_redirects=False,
            )

        try:
            return send_with_retries(send, until=deadline.end)
        except requests.RequestException as error:
            # The chain is cut: its texts hold the URL with its signature.
            raise _no_answer(url, error, self.timeouts) from None


class HttpObject(RangedObject):
    """What one http(s) URL holds.

    Args:
        transport: how to get there.
        url: where it is; may carry a signature.
        identity, name, host, proof: see ``RangedObject``.
    """

    def __init__(
        self,
        transport: HttpTransport,
        url: str,
        *,
        identity: str,
        name: str,
        host: str,
        proof: str = "",
    ) -> None:
        super().__init__(
            identity=identity, name=name, host=host, timeouts=transport.timeouts, proof=proof
        )
        self._transport = transport
        self._url = url

    def _send(self, request: RangeRequest, deadline: Deadline) -> Download | None:
        response = self._open(request, deadline)
        status = response.status_code
        if status in (200, 206):
            validators, start = self._validators(response), _start_and_size(response)[0]
            ranged = status == 206 and validators.size is not None
            return Download(_body(response, deadline), validators, start, ranged, response.close)
        response.close()
        if status == 304 and request.known:
            return None
        if status == 416 and request.start == 0:  # of an empty object no range can be had
            return Download(iter(()), Validators(size=0))
        if status in (412, 416) and request.version:
            raise Restart
        raise self._explain(response)

    # --- for sources that are reached over HTTP but differ in the details --------------------

    def _open(self, request: RangeRequest, deadline: Deadline) -> requests.Response:
        return self._transport.get(self._url, lambda hop: request.headers, deadline)

    def _validators(self, response: requests.Response) -> Validators:
        headers, (_, size) = response.headers, _start_and_size(response)
        return Validators(headers.get("ETag"), headers.get("Last-Modified"), size)

    def _explain(self, response: requests.Response) -> MediaError:
        """What a status of 400 or more means for whoever waits for the picture."""
        status = response.status_code
        if status in (401, 403):
            return MediaError(
                f"{self.name} is not open to the backend (HTTP {status}).",
                "A presigned URL may have expired; otherwise connect the storage to Label Studio "
                "or give the backend credentials of its own.",
                reason=Reason.UNAUTHORIZED,
            )
        if status in (404, 410):
            return MediaError(
                f"{self.name} does not exist (HTTP {status}).",
                "Check the address in the task's data.",
                reason=Reason.NOT_FOUND,
            )
        if status == 429:
            return MediaError(
                f"The server of {self.name} asks for fewer requests (HTTP 429).",
                "Try again later.",
                reason=Reason.FAILED,
            )
        return MediaError(
            f"The server of {self.name} answered HTTP {status}.", reason=Reason.FAILED
        )


def split_signature(url: str) -> tuple[str, str]:
    """A URL without its signature: what stays the same when it is signed anew; and the signature,
    "" where there is none.

    Taken for signatures are the parameters of the storages that are known, where they stand
    together and once each: all others may say which object is meant.
    """
    address, _, query = url.partition("#")[0].partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    names = [pair.partition("=")[0].lower() for pair in pairs]
    for needed, others in _SIGNATURES:
        signing = [name for name in names if name in needed or name in others]
        if needed.issubset(signing) and len(signing) == len(set(signing)):
            kept = [pair for pair, name in zip(pairs, names, strict=True) if name not in signing]
            signed = [pair for pair, name in zip(pairs, names, strict=True) if name in signing]
            return f"{address}?{'&'.join(kept)}" if kept else address, "&".join(signed)
    return f"{address}?{query}" if query else address, ""


def _start_and_size(response: requests.Response) -> tuple[int, int | None]:
    """Where in the object the body begins, and the length of the complete object; see
    ``parse_content_range``. A packed body says nothing about the length."""
    start, size = 0, parse_size(response.headers.get("Content-Length", ""))
    if response.status_code == 206:
        start, size = parse_content_range(response.headers.get("Content-Range", ""))
    packed = response.headers.get("Content-Encoding", "identity") != "identity"
    return start, None if packed else size


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. Header bytes arrive as Latin-1, and raw UTF-8 in them exists."""
    try:
        return urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
    except ValueError:
        raise MediaError(
            f"{shown(url)} redirects to something that is not a URL.", reason=Reason.REFUSED
        ) from None


def _body(response: requests.Response, deadline: Deadline) -> Iterator[bytes]:
    """The body as it arrives. ``read1`` returns what is there, so that a server that sends a
    byte now and then cannot get round the deadline."""
    try:
        read = partial(response.raw.read1, _READ_BYTES, decode_content=True)
        while chunk := deadline.receive(read):
            yield chunk
            deadline.check()
    except (Urllib3Error, OSError):
        raise BodyBrokeOff from None


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
