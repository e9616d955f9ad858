"""The disk cache: one download per object, however many ask, bounded in bytes.

Files are named by the SHA-256 of their content, so that the same picture under two addresses
is stored once; an SQLite index maps the (hashed) identity of an object to its content. Both
are written in one transaction, so several processes can share the folder and a restart finds
everything again. A file that somebody uses carries a shared ``flock``; only files on which an
exclusive one can be had are evicted. The kernel drops the locks of a process that dies.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backend.media.cache_index import CacheIndex, Entry
from backend.media.errors import MediaError, Reason
from backend.media.source import Download, RemoteObject, Restart

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MediaFile:
    """A media file on disk.

    The file stays where it is for as long as this value lives: keep it while you read.

    Attributes:
        path: where it is; read-only.
        content_key: SHA-256 of the content, in hexadecimal.
        size: length in bytes.
    """

    path: Path
    content_key: str
    size: int
    lease: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class _Incoming:
    """A download under way: open descriptor and path."""

    file: int
    path: Path


class CacheStats:
    """Counters since the start of the process.

    Attributes:
        hits: answered from disk without a request.
        revalidations: answered from disk after the source said that nothing changed.
        fetches: objects downloaded.
        bytes_fetched: bytes read from sources, also of downloads that failed.
        evictions: files removed to make room.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.hits = 0
        self.revalidations = 0
        self.fetches = 0
        self.bytes_fetched = 0
        self.evictions = 0

    def add(self, counter: str, amount: int = 1) -> None:
        """Add to one of the counters."""
        with self._lock:
            setattr(self, counter, getattr(self, counter) + amount)


class MediaCache:
    """Fetches remote objects through a folder on disk; safe to share between threads, and the
    folder between processes.

    Args:
        directory: the folder; made where it does not exist, readable by this user only.
        max_bytes: how much may be stored. Files in use are never removed, so that they, and
            downloads under way, may exceed it for a while.
        max_object_bytes: larger objects are refused.
        fresh_seconds: for how long an object is served without asking its source again.
        clock: seconds since the epoch; survives a restart.

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = directory / "objects"
        self._incoming = directory / "incoming"
        self._max_bytes = max_bytes
        self._max_object_bytes = min(max_object_bytes, max_bytes)
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._flights_lock = threading.Lock()
        self._flights: dict[str, Future[MediaFile]] = {}
        self.stats = CacheStats()
        self._directory = directory
        try:
            self._index = self._open_index()
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from error

    @property
    def stored_bytes(self) -> int:
        """How much the index says is stored; 0 where it cannot be read."""
        try:
            return self._index.stored_bytes()
        except sqlite3.Error:
            return 0

    def close(self) -> None:
        """Let go of the index; nothing can be fetched afterwards."""
        self._index.close()

    def fresh(self, source: RemoteObject) -> MediaFile | None:
        """The file, where it is here and need not be asked about; without any request."""
        try:
            entry = self._index.find(_key(source))
            found = self._lease(entry) if entry and self._is_fresh(entry) else None
        except sqlite3.Error:
            return None  # ``fetch`` will see to it
        if found:
            self.stats.add("hits")
        return found

    def fetch(self, source: RemoteObject) -> MediaFile:
        """The file; asks the source where it must. Callers that come together share one answer.

        Raises:
            MediaError: the source cannot deliver it, or there is no room for it.
        """
        key = _key(source)
        with self._flights_lock:
            flight = self._flights.get(key)
            leader = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leader:
            return flight.result()
        try:
            flight.set_result(self._fetch_with_index(key, source))
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._flights_lock:
                del self._flights[key]
        return flight.result()

    # --- one fetch -----------------------------------------------------------------------------

    def _fetch_with_index(self, key: str, source: RemoteObject) -> MediaFile:
        """Fetch; where the index is unusable (somebody emptied the folder), open it anew."""
        try:
            return self._fetch(key, source)
        except OSError as error:
            raise _unusable(error) from error
        except sqlite3.Error as error:
            logger.warning("Media cache: opening the index anew, because: %s", error)
        try:
            self._index = self._open_index()
            return self._fetch(key, source)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from error

    def _fetch(self, key: str, source: RemoteObject) -> MediaFile:
        entry = self._index.find(key)
        at_hand = self._lease(entry) if entry else None
        if entry and at_hand and self._is_fresh(entry):
            self.stats.add("hits")
            return at_hand
        for _ in range(2):
            answer = source.download(entry.validators if entry and at_hand else None)
            if not isinstance(answer, Download):
                if entry is None or at_hand is None:
                    break
                self._index.checked(key, self._clock())
                self.stats.add("revalidations")
                return at_hand
            try:
                return self._store(key, answer)
            except Restart:
                entry = None
        raise MediaError(
            "The media changes while it is being read.", "Try again.", reason=Reason.FAILED
        )

    def _is_fresh(self, entry: Entry) -> bool:
        age = self._clock() - entry.checked_at
        return entry.validators.immutable or 0 <= age < self._fresh_seconds

    def _store(self, key: str, download: Download) -> MediaFile:
        try:
            with self._incoming_file() as incoming:
                digest, size = self._write(incoming.file, download)
                entry = Entry(digest, size, download.validators, self._clock())
                return self._keep(key, incoming, entry)
        finally:
            close = getattr(download.chunks, "close", None)
            if close:
                close()

    @contextmanager
    def _incoming_file(self) -> Iterator[_Incoming]:
        """A locked file to write to; removed where it was not moved away."""
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        file, name = tempfile.mkstemp(dir=self._incoming)
        incoming = _Incoming(file, Path(name))
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield incoming
        finally:
            incoming.path.unlink(missing_ok=True)
            os.close(file)

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
                "Raise MAX_MEDIA_MB (and MEDIA_CACHE_MB) of the backend if it has the room.",
                reason=Reason.TOO_LARGE,
            )

    def _keep(self, key: str, incoming: _Incoming, entry: Entry) -> MediaFile:
        """Move the file to its place and take it into use, in one transaction."""
        path = self._path(entry.content_key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._index.writing() as index:
            kept = self._open(entry)
            if kept is None:
                self._make_room(index, entry.size)
                fcntl.flock(incoming.file, fcntl.LOCK_SH)
                incoming.path.replace(path)
                kept = self._open(entry)
            index.put(key, entry, self._clock())
        if kept is None:
            raise OSError(errno.ENOENT, "a file vanished from it")
        return kept

    def _make_room(self, index: CacheIndex, size: int) -> None:
        excess = index.stored_bytes() + size - self._max_bytes
        if excess <= 0:
            return
        for content_key, stored in index.least_recently_used():
            if self._evict(self._path(content_key)):
                index.forget(content_key)
                self.stats.add("evictions")
                excess -= stored
            if excess <= 0:
                return
        logger.warning("Media cache: %d bytes over its limit, all files are in use", excess)

    def _evict(self, path: Path) -> bool:
        """Remove a file unless somebody uses it."""
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

    # --- files at hand -------------------------------------------------------------------------

    def _path(self, content_key: str) -> Path:
        return self._objects / content_key[:2] / content_key

    def _lease(self, entry: Entry) -> MediaFile | None:
        """Take a stored file into use; None where it is gone or not what was stored."""
        found = self._open(entry)
        if found:
            self._index.used(entry.content_key, self._clock())
        return found

    def _open(self, entry: Entry) -> MediaFile | None:
        path = self._path(entry.content_key)
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        lease = _Lease(file)
        status = os.fstat(file)
        # Unlinked between open and lock, or cut short by a crash of the machine.
        if status.st_nlink == 0 or status.st_size != entry.size:
            return None
        return MediaFile(path, entry.content_key, entry.size, lease)

    def _open_index(self) -> CacheIndex:
        """Open the index and bring it and the folder together after whatever happened."""
        for folder in (self._directory, self._objects, self._incoming):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._directory):
            opened = CacheIndex(self._directory / "index.sqlite")
        with opened.writing() as index:
            known = {content_key for content_key, _ in index.least_recently_used()}
            present = {path.name: path for path in self._objects.glob("*/*")}
            for content_key in known - present.keys():
                index.forget(content_key)
            for content_key in present.keys() - known:
                self._evict(present[content_key])
            for path in self._incoming.iterdir():
                self._evict(path)
            self._make_room(index, 0)
        return opened


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time. SQLite does not wait for its turn when it sets up a new database,
    and a damaged one must not be thrown away twice."""
    file = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


class _Lease:
    """Holds a file descriptor with a shared lock; both go when this object goes."""

    def __init__(self, file: int) -> None:
        self._finalizer = weakref.finalize(self, os.close, file)


def _unusable(error: Exception) -> MediaError:
    cause = error.strerror if isinstance(error, OSError) else error
    return MediaError(
        f"The backend's media cache cannot be used: {cause}.",
        "Check the disk space and permissions of CACHE_DIR.",
        reason=Reason.STORAGE,
    )


def _key(source: RemoteObject) -> str:
    """Hashed, as an identity may hold an address that is nobody's business."""
    return hashlib.sha256(source.identity.encode("utf-8", "surrogatepass")).hexdigest()
