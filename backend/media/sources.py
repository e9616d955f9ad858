"""What every source of media offers, whatever is behind it, and how one is read in stretches.

A resolver turns a URI into a ``RemoteObject``; the cache asks that object for its bytes, or
whether the bytes it already has are still right. Of a ``RangedObject`` stretches can be had as
well. Its source only says how one request is made (``_send``); here the requests are put
together to the whole object or to a stretch of it, taken up again where they break off, and
always of one version: answers of another version are never mixed in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from backend.media.errors import MediaError, Reason

AVERAGED_S = 10.0
_RESUMES_WITHOUT_PROGRESS = 2


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a server.

    Attributes:
        connect, read, total: seconds, for a connection, for the next bytes, for one object or
            stretch of it.
        least: bytes a second that must arrive, averaged over ``AVERAGED_S`` of waiting; 0: any.
        clock: seconds, counted as by ``time.monotonic``.
    """

    connect: float = 5.0
    read: float = 15.0
    total: float = 120.0
    least: float = 16 * 1024.0
    clock: Callable[[], float] = time.monotonic


class Deadline:
    """When to give up on an object, or a stretch of it: after its time, and before that where too
    little of it arrives.

    Attributes:
        end: on ``time.monotonic``.
    """

    def __init__(self, timeouts: Timeouts, name: str) -> None:
        self._timeouts, self._name = timeouts, name
        self.end = timeouts.clock() + timeouts.total
        self._waited, self._arrived, self._forgiven = 0.0, 0, False

    def check(self) -> None:
        """Raises MediaError (timeout) once the time is over, or too little has arrived."""
        timeouts = self._timeouts
        if timeouts.clock() >= self.end:
            raise self._too_slow(f"did not arrive within {timeouts.total:g} s")
        if self._waited < AVERAGED_S:
            return
        if self._arrived < timeouts.least * self._waited:
            rate = self._arrived / self._waited / 1024
            raise self._too_slow(
                f"arrives too slowly: {rate:.1f} KiB/s over {self._waited:.0f} s; the backend "
                f"waits for at least {timeouts.least / 1024:g} KiB/s"
            )
        self._waited, self._arrived, self._forgiven = 0.0, 0, False

    def receive(self, read: Callable[[], bytes]) -> bytes:
        """What ``read`` returns; the time it takes is waited for the server, and no other is."""
        began = self._timeouts.clock()
        try:
            chunk = read()
        finally:
            self._waited += self._timeouts.clock() - began
        self._arrived += len(chunk)
        return chunk

    def note_break(self) -> None:
        """Forgive a stall that a new connection may end, but not one after the other."""
        if not self._forgiven:
            self._waited, self._forgiven = min(self._waited, AVERAGED_S / 2), True

    def _too_slow(self, how: str) -> MediaError:
        hint = "The server or the connection to it is too slow."
        return MediaError(f"{self._name} {how}.", hint, reason=Reason.TIMEOUT)


@dataclass(frozen=True)
class Validators:
    """What a source says about a version of an object.

    Attributes:
        etag: the entity tag as sent, quotes included (RFC 9110, section 8.8.3).
        last_modified: the Last-Modified date as sent.
        size: length in bytes of the complete object.
        immutable: the object under this address never changes, so it need not be asked about.
    """

    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None
    immutable: bool = False

    def same_object(self, other: Validators) -> bool:
        """Whether both describe the same bytes. Equal size and date are taken as proof only
        where neither has an entity tag; equal size alone never is."""
        if self.size is not None and other.size is not None and self.size != other.size:
            return False
        if self.etag or other.etag:
            return _opaque(self.etag) == _opaque(other.etag)
        return self.last_modified is not None and self.last_modified == other.last_modified

    def agrees_with(self, other: Validators) -> bool:
        """Whether nothing speaks against both describing the same bytes: enough to go on with
        a body that broke off a moment ago, not enough to keep one."""
        if self.size != other.size or _opaque(self.etag) != _opaque(other.etag):
            return False
        return self.last_modified == other.last_modified

    @property
    def tell_versions_apart(self) -> bool:
        """Whether a changed object would be noticed: what may be read piece by piece."""
        return bool(self.etag or self.last_modified or self.immutable)

    @property
    def if_match(self) -> str | None:
        """The entity tag for an If-Match header; weak ones never match there (RFC 9110, 13.1.1)."""
        return None if self.etag is None or self.etag.startswith("W/") else self.etag


@dataclass(frozen=True)
class Download:
    """A body on its way: of an object, or of a stretch of it.

    Attributes:
        chunks: the bytes in order. Where they cannot all be had, those of one request raise
            ``BodyBrokeOff``, or end early; all others raise MediaError, or ``Restart`` where the
            object changed under the reader. Closing it (or running it to the end) frees the
            connection.
        validators: of this version; ``size`` is that of the complete object.
        start: where in the object the bytes begin.
        ranged: whether the source took notice of the range.
        close: frees the connection; may be called again.
    """

    chunks: Iterator[bytes]
    validators: Validators
    start: int = 0
    ranged: bool = False
    close: Callable[[], None] = lambda: None


class Restart(Exception):
    """The object changed, or the source cannot resume, which ``str()`` says then: read it again
    from the start."""


class RemoteObject(Protocol):
    """One object at one source."""

    @property
    def identity(self) -> str:
        """Names the object for the cache; the same for every spelling and signature."""

    @property
    def proof(self) -> str:
        """The signature, or what else shows that it may be read, where that is part of its address;
        "" for others."""

    def download(self, known: Validators | None) -> Download | None:
        """Ask for the object.

        Args:
            known: the version at hand; if it is current, the answer is None.

        Raises:
            MediaError: it cannot be had.
        """


class BodyBrokeOff(Exception):
    """The connection broke in the middle of a body."""


@dataclass(frozen=True)
class RangeRequest:
    """One request.

    Attributes:
        start: the first byte.
        length: how many bytes; None for all that follow.
        known: answer None if this version is still current.
        version: only this version will do: where the source can check that, let it.
    """

    start: int = 0
    length: int | None = None
    known: Validators | None = None
    version: Validators | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Range, and what lets a server answer 304 where the known version is still current, or
        412 where the wanted one is not."""
        headers = {}
        if self.start or self.length is not None:
            last = "" if self.length is None else self.start + self.length - 1
            headers["Range"] = f"bytes={self.start}-{last}"
        if self.version and self.version.if_match:
            headers["If-Match"] = self.version.if_match
        if self.known and self.known.etag:
            headers["If-None-Match"] = self.known.etag
        elif self.known and self.known.last_modified:
            headers["If-Modified-Since"] = self.known.last_modified
        return headers


class RangedObject(ABC):
    """A ``RemoteObject`` whose source may answer ranges.

    Args:
        identity: its name in the cache.
        name: how to call it in a message; without secrets.
        host: what its requests wait for; "" for Label Studio itself.
        timeouts: ``total`` is for one download, or one stretch.
        proof: see ``RemoteObject``.
    """

    def __init__(
        self, *, identity: str, name: str, host: str, timeouts: Timeouts, proof: str = ""
    ) -> None:
        self.identity = identity
        self.proof = proof
        self.name = name
        self.host = host
        self.timeouts = timeouts

    @abstractmethod
    def _send(self, request: RangeRequest, deadline: Deadline) -> Download | None:
        """Send one request.

        Raises:
            Restart: ``request.version`` is not there any more.
            MediaError: it cannot be had.
        """

    def download(self, known: Validators | None) -> Download | None:
        """See ``RemoteObject.download``."""
        deadline = Deadline(self.timeouts, self.name)
        part = self._send(RangeRequest(known=known), deadline)
        if part is None:
            return None
        if known and known.same_object(part.validators):
            # The server ignored the condition; what it says settles the question as well.
            part.close()
            return None
        return replace(part, chunks=self._follow(part, None, deadline))

    def begin(self, length: int, known: Validators | None) -> Download | None:
        """The first ``length`` bytes, of whatever version is current.

        The part's ``chunks`` hold exactly these bytes (all, of a smaller object) if it is
        ``ranged``; else they are the whole object, and better left unread.

        Raises:
            MediaError: it cannot be had.
        """
        deadline = Deadline(self.timeouts, self.name)
        part = self._send(RangeRequest(length=length, known=known), deadline)
        if part is None:
            return None
        if not part.ranged or part.start != 0:
            return replace(part, ranged=False)
        if known and known.same_object(part.validators):
            part.close()
            return None
        stop = min(length, part.validators.size or 0)
        return replace(part, chunks=self._follow(part, stop, deadline))

    def read_range(self, start: int, stop: int, version: Validators) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, of this version.

        Raises:
            Restart: the object is another one now.
            MediaError: they cannot all be had.
        """
        deadline = Deadline(self.timeouts, self.name)
        part = self._same(RangeRequest(start, stop - start, version=version), deadline)
        yield from self._follow(part, stop, deadline)

    def _same(self, request: RangeRequest, deadline: Deadline) -> Download:
        part = self._send(request, deadline)
        if part is None:
            raise Restart
        if request.version and not request.version.agrees_with(part.validators):
            part.close()
            raise Restart
        if part.start != request.start:
            part.close()
            raise Restart(
                f"{self.name} broke off after {request.start} bytes, and its server does not go on "
                "from there."
            )
        return part

    def _follow(self, part: Download, stop: int | None, deadline: Deadline) -> Iterator[bytes]:
        """The bytes of ``part`` up to ``stop`` (None: to the end), resumed where they break off."""
        version, position, fruitless = part.validators, part.start, 0
        to_the_end = stop is None
        stop = version.size if stop is None else stop
        try:
            while True:
                before, ended = position, False
                try:
                    for chunk in part.chunks:
                        chunk = chunk if stop is None else chunk[: stop - position]
                        position += len(chunk)
                        if chunk:
                            yield chunk
                        if position == stop:
                            return
                    ended = True
                except BodyBrokeOff:
                    pass
                deadline.note_break()
                part.close()
                if stop is None:
                    # Headers cut short look complete, and announce no size: an empty body is
                    # one that never came. Nor can such a body be taken up in its middle.
                    if not ended or position == 0:
                        raise self._broke_off(position, version)
                    return
                if position >= stop:
                    return
                fruitless = 0 if position > before else fruitless + 1
                if fruitless > _RESUMES_WITHOUT_PROGRESS:
                    raise self._broke_off(position, version)
                deadline.check()
                length = None if to_the_end else stop - position
                part = self._same(RangeRequest(position, length, version=version), deadline)
        finally:
            part.close()

    def _broke_off(self, position: int, version: Validators) -> MediaError:
        expected = f" of {version.size}" if version.size is not None else ""
        return MediaError(
            f"{self.name} broke off after {position}{expected} bytes.",
            "Try again; if it stays, the stored file or the connection is damaged.",
            reason=Reason.TRUNCATED,
        )


class DataUri:
    """The bytes of one ``data:`` URI; a ``RemoteObject``.

    Args:
        uri: ``data:[<type>][;base64],<data>``.
    """

    proof = ""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.identity = "data:" + hashlib.sha256(uri.encode()).hexdigest()

    def download(self, known: Validators | None) -> Download | None:
        """Decode it.

        Raises:
            MediaError: it is malformed.
        """
        if known:
            return None
        header, comma, data = self._uri.partition(",")
        raw = unquote_to_bytes(data)
        try:
            if not comma:
                raise ValueError("no comma")
            if header.lower().endswith(";base64"):
                raw = base64.b64decode(b"".join(raw.split()), validate=True)
        except (binascii.Error, ValueError):
            raise MediaError("The task's data: URI is malformed.", reason=Reason.DAMAGED) from None
        return Download(iter([raw]), Validators(size=len(raw), immutable=True))


def host_of(address: str) -> str:
    """What fetching an address waits for: a server, or a bucket; "" where that is Label Studio
    itself, or nothing."""
    parts = urlsplit(address)
    if parts.scheme in ("http", "https"):
        return parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _opaque(etag: str | None) -> str | None:
    """An entity tag without its weakness mark: we compare contents, not transfer codings."""
    return etag.removeprefix("W/") if etag else None


def parse_content_range(text: str) -> tuple[int, int | None]:
    """Where in the object a body begins (-1 where the header does not say), and the size of the
    whole object (None where it does not say)."""
    place, _, size = text.rpartition("/")
    start = parse_size(place.removeprefix("bytes ").partition("-")[0])
    return -1 if start is None else start, parse_size(size)


def parse_size(text: str) -> int | None:
    """The number of bytes that a header states; None where it states none. Python itself refuses
    to read numbers of thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
