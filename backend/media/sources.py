"""What every source of media offers, whatever it is behind it.

A resolver turns a URI into a ``RemoteObject``; the cache asks that object for its bytes, or
whether the bytes it already has are still right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


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
class Unchanged:
    """The source says that the version asked about is still the current one."""


@dataclass(frozen=True)
class Download:
    """A body on its way.

    Attributes:
        chunks: the bytes in order; raises MediaError where they cannot all be had, and
            ``Restart`` where the object changed under the reader. Closing it (or running it
            to the end) frees the connection.
        validators: what the source says about this version.
    """

    chunks: Iterator[bytes]
    validators: Validators


class Restart(Exception):
    """The object changed, or the source cannot resume, which ``str()`` says then: read it again
    from the start."""


class RemoteObject(Protocol):
    """One object at one source."""

    @property
    def identity(self) -> str:
        """Names the object for the cache; the same for every spelling and signature."""

    def download(self, known: Validators | None) -> Download | Unchanged:
        """Ask for the object.

        Args:
            known: the version at hand; if it is current, the answer is ``Unchanged``.

        Raises:
            MediaError: it cannot be had.
        """


def _opaque(etag: str | None) -> str | None:
    """An entity tag without its weakness mark: we compare contents, not transfer codings."""
    return etag.removeprefix("W/") if etag else None
