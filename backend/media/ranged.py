"""Reading an object in stretches, and going on where a stretch breaks off.

What is common to every source that can be asked for a range of bytes. A source only says how one
request is made (``_request``); here the requests are put together to the whole object or to a
stretch of it, always of one version: answers of another version are never mixed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from backend.media.errors import MediaError, Reason
from backend.media.retries import Deadline, Timeouts
from backend.media.sources import Download, Restart, Unchanged, Validators

_RESUMES_WITHOUT_PROGRESS = 2


class BrokenOff(Exception):
    """The connection broke in the middle of a body."""


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        start: the first byte.
        length: how many bytes; None for all that follow.
        known: answer ``Unchanged`` if this version is still current.
        version: only this version will do: where the source can check that, let it.
    """

    start: int = 0
    length: int | None = None
    known: Validators | None = None
    version: Validators | None = None


@dataclass(frozen=True)
class Part:
    """The answer to one request.

    Attributes:
        chunks: the bytes; may end before all came, or raise ``BrokenOff``.
        start: where in the object they begin.
        validators: of this version; ``size`` is that of the complete object.
        ranged: whether the source took notice of the range.
        close: frees the connection; may be called again.
    """

    chunks: Iterator[bytes]
    start: int
    validators: Validators
    ranged: bool
    close: Callable[[], None]


class RangedObject(ABC):
    """A ``RemoteObject`` whose source may answer ranges.

    Args:
        identity: its name in the cache.
        what: how to call it in a message; without secrets.
        timeouts: ``total`` is for one download, or one stretch.
    """

    def __init__(self, *, identity: str, what: str, timeouts: Timeouts) -> None:
        self.identity = identity
        self.what = what
        self.timeouts = timeouts

    @abstractmethod
    def _request(self, asked: Asked, deadline: Deadline) -> Part | Unchanged:
        """Send one request.

        Raises:
            Restart: ``asked.version`` is not there any more.
            MediaError: it cannot be had.
        """

    def download(self, known: Validators | None) -> Download | Unchanged:
        """See ``RemoteObject.download``."""
        deadline = Deadline(self.timeouts.total, self.what)
        part = self._request(Asked(known=known), deadline)
        if isinstance(part, Unchanged):
            return part
        if known and known.same_object(part.validators):
            # The server ignored the condition; what it says settles the question as well.
            part.close()
            return Unchanged()
        return Download(self._follow(part, None, deadline), part.validators)

    def begin(self, length: int, known: Validators | None) -> Part | Unchanged:
        """The first ``length`` bytes, of whatever version is current.

        The part's ``chunks`` hold exactly these bytes (all, of a smaller object) if it is
        ``ranged``; else they are the whole object, and better left unread.

        Raises:
            MediaError: it cannot be had.
        """
        deadline = Deadline(self.timeouts.total, self.what)
        part = self._request(Asked(length=length, known=known), deadline)
        if isinstance(part, Unchanged):
            return part
        if not part.ranged or part.start != 0:
            return replace(part, ranged=False)
        if known and known.same_object(part.validators):
            part.close()
            return Unchanged()
        stop = min(length, part.validators.size or 0)
        return replace(part, chunks=self._follow(part, stop, deadline))

    def stretch(self, start: int, stop: int, version: Validators) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, of this version.

        Raises:
            Restart: the object is another one now.
            MediaError: they cannot all be had.
        """
        deadline = Deadline(self.timeouts.total, self.what)
        part = self._same(Asked(start, stop - start, version=version), deadline)
        yield from self._follow(part, stop, deadline)

    def _same(self, asked: Asked, deadline: Deadline) -> Part:
        part = self._request(asked, deadline)
        if isinstance(part, Unchanged):
            raise Restart
        same = asked.version is None or asked.version.agrees_with(part.validators)
        if not same or part.start != asked.start:
            part.close()
            if not same:
                raise Restart
            raise Restart(
                f"{self.what} broke off after {asked.start} bytes, and its server does not go on "
                "from there."
            )
        return part

    def _follow(self, part: Part, stop: int | None, deadline: Deadline) -> Iterator[bytes]:
        """The bytes of ``part`` up to ``stop`` (None: to the end), resumed where they break off."""
        version, position, barren = part.validators, part.start, 0
        to_the_end = stop is None
        stop = version.size if stop is None else stop
        try:
            while True:
                before, ended = position, False
                try:
                    for chunk in part.chunks:
                        if stop is not None and position + len(chunk) > stop:
                            chunk = chunk[: stop - position]
                        position += len(chunk)
                        if chunk:
                            yield chunk
                        if position == stop:
                            return
                    ended = True
                except BrokenOff:
                    pass
                part.close()
                if stop is None:
                    # Headers cut short look complete, and announce no size: an empty body is
                    # one that never came. Nor can such a body be taken up in its middle.
                    if not ended or position == 0:
                        raise self._broke_off(position, version)
                    return
                if position >= stop:
                    return
                barren = 0 if position > before else barren + 1
                if barren > _RESUMES_WITHOUT_PROGRESS:
                    raise self._broke_off(position, version)
                deadline.check()
                length = None if to_the_end else stop - position
                part = self._same(Asked(position, length, version=version), deadline)
        finally:
            part.close()

    def _broke_off(self, position: int, version: Validators) -> MediaError:
        expected = f" of {version.size}" if version.size is not None else ""
        return MediaError(
            f"{self.what} broke off after {position}{expected} bytes.",
            "Try again; if it stays, the stored file or the connection is damaged.",
            reason=Reason.TRUNCATED,
        )
