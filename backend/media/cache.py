"""The disk cache of whole files: one download per object, however many ask."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from backend.media.cache_index import Entry
from backend.media.cache_store import (
    CacheStats,
    CacheStore,
    Incoming,
    MediaFile,
    identity_key,
)
from backend.media.errors import MediaError, Reason
from backend.media.sources import Download, RemoteObject, Restart

__all__ = ["CacheStats", "MediaCache", "MediaFile"]

logger = logging.getLogger(__name__)


class MediaCache:
    """Fetches remote objects through a folder on disk; safe to share between threads, and the
    folder between processes.

    Args:
        directory, max_bytes, max_age, clock: see ``CacheStore``.
        max_object_bytes: larger objects are refused.
        fresh_seconds: for how long an object is served without asking its source again.

    Attributes:
        store: the folder.
        fresh_seconds: as given.

    Raises:
        MediaError: the folder or its index cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        max_object_bytes: int,
        fresh_seconds: float = 300.0,
        max_age: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = CacheStore(directory, max_bytes=max_bytes, max_age=max_age, clock=clock)
        self.fresh_seconds = fresh_seconds
        self._max_object_bytes = min(max_object_bytes, max_bytes)
        self._flights_lock = threading.Lock()
        self._flights: dict[str, Future[MediaFile]] = {}

    @property
    def stats(self) -> CacheStats:
        """What was fetched and what came from disk."""
        return self.store.stats

    @property
    def stored_bytes(self) -> int:
        """How much the index says is stored; 0 where it cannot be read."""
        return self.store.stored_bytes

    def close(self) -> None:
        """Let go of the index; nothing can be fetched afterwards."""
        self.store.close()

    def fresh(self, source: RemoteObject) -> MediaFile | None:
        """The file, where it is here and need not be asked about; without any request."""
        try:
            entry = self.store.index.find(identity_key(source.identity))
            found = self.store.lease(entry) if entry and self.is_fresh(entry) else None
        except sqlite3.Error:
            return None  # ``fetch`` will see to it
        if found:
            self.stats.add("hits")
        return found

    def is_fresh(self, entry: Entry) -> bool:
        """Whether the source need not be asked about an entry."""
        age = self.store.now() - entry.checked_at
        return entry.validators.immutable or 0 <= age < self.fresh_seconds

    def fetch(self, source: RemoteObject) -> MediaFile:
        """The file; asks the source where it must. Callers that come together share one answer.

        Raises:
            MediaError: the source cannot deliver it, or there is no room for it.
        """
        key = identity_key(source.identity)
        with self._flights_lock:
            flight = self._flights.get(key)
            leader = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leader:
            return flight.result()
        try:
            flight.set_result(self.store.using_index(lambda: self._fetch(key, source)))
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._flights_lock:
                del self._flights[key]
        return flight.result()

    def keep(self, source: RemoteObject, download: Download) -> MediaFile:
        """Store a body that is already on its way.

        Raises:
            MediaError: it does not come whole, or there is no room for it.
            Restart: it changed meanwhile.
        """
        return self._store(identity_key(source.identity), download)

    # --- one fetch -----------------------------------------------------------------------------

    def _fetch(self, key: str, source: RemoteObject) -> MediaFile:
        entry = self.store.index.find(key)
        at_hand = self.store.lease(entry) if entry else None
        if entry and at_hand and self.is_fresh(entry):
            self.stats.add("hits")
            return at_hand
        told = "The media changes while it is being read."
        for _ in range(2):
            answer = source.download(entry.validators if entry and at_hand else None)
            if not isinstance(answer, Download):
                if entry is None or at_hand is None:
                    break
                self.store.index.checked(key, self.store.now())
                self.stats.add("revalidations")
                return at_hand
            try:
                return self._store(key, answer)
            except Restart as restart:
                entry, told = None, str(restart) or told
        raise MediaError(told, "Try again.", reason=Reason.FAILED)

    def _store(self, key: str, download: Download) -> MediaFile:
        try:
            with self.store.incoming_file() as incoming:
                digest, size = self._write(incoming.file, download)
                entry = Entry(digest, size, download.validators, self.store.now())
                return self._keep(key, incoming, entry)
        finally:
            close = getattr(download.chunks, "close", None)
            if close:
                close()

    def _write(self, file: int, download: Download) -> tuple[str, int]:
        """Write the body; returns its SHA-256 and size."""
        expected = download.validators.size
        self._refuse_beyond_limit(expected or 0)
        digest, size = hashlib.sha256(), 0
        for chunk in download.chunks:
            size += len(chunk)
            self.stats.add("bytes_fetched", len(chunk))
            self._refuse_beyond_limit(size)
            digest.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
        if expected is not None and size != expected:
            raise MediaError(
                f"The media has {size} bytes where its server announced {expected}.",
                "Try again.",
                reason=Reason.TRUNCATED,
            )
        self.stats.add("fetches")
        return digest.hexdigest(), size

    def _refuse_beyond_limit(self, size: int) -> None:
        if size > self._max_object_bytes:
            raise MediaError(
                f"The media is larger than the {self._max_object_bytes / 2**20:.0f} MiB that "
                "the backend accepts.",
                "Raise MAX_MEDIA_MB (and MEDIA_CACHE_MB) of the backend if it has the room; "
                "larger videos can only be read from a server that answers ranges.",
                reason=Reason.TOO_LARGE,
            )

    def _keep(self, key: str, incoming: Incoming, entry: Entry) -> MediaFile:
        """Move the file to its place and take it into use, in one transaction."""
        path = self.store.path(entry.content_key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.store.index.writing() as index:
            kept = self.store.open(entry)
            if kept is None:
                if not self.store.make_room(index, entry.size):
                    logger.warning("Media cache: over its limit, all files are in use")
                fcntl.flock(incoming.file, fcntl.LOCK_SH)
                incoming.path.replace(path)
                kept = self.store.open(entry)
            index.put(key, entry, self.store.now())
        if kept is None:
            raise OSError(errno.ENOENT, "a file vanished from it")
        return kept
