"""The disk cache: a folder of files with an index, and how they come into it.

Files that are stored whole are named by the SHA-256 of their content, so that the same picture
under two addresses is stored once; files of which only some blocks are stored, by what they are a
part of (``blocks.py``). The index and the folder change together in one transaction, so several
processes can share the folder and a restart finds everything again. A file that somebody uses
carries a shared ``flock``; only files on which an exclusive one can be had are removed. The
kernel drops the locks of a process that dies.
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
from typing import TypeVar

from backend.files import is_full, lacks_room
from backend.media.cache_index import CacheIndex, Entry, identity_key
from backend.media.errors import MediaError, Reason
from backend.media.sources import Download, RemoteObject, Restart
from backend.recent_values import Recent

logger = logging.getLogger(__name__)

KEPT_PROOFS = 10_000
_FREED_AT_ONCE = 16 << 20  # bytes, on a full disk
_LOOK_FOR_OLD_EVERY_S = 3600.0
Result = TypeVar("Result")


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


@dataclass
class CacheStats:
    """Counters since the start of the process.

    Attributes:
        hits: answered from disk without a request.
        revalidations: answered from disk after the source said that nothing changed.
        fetches: objects downloaded whole.
        streams: objects begun to be read in ranges.
        ranges: requests for ranges.
        bytes_fetched: bytes read from sources, also of downloads that failed.
        evictions: files removed to make room, or because nobody wanted them for long.
    """

    hits: int = 0
    revalidations: int = 0
    fetches: int = 0
    streams: int = 0
    ranges: int = 0
    bytes_fetched: int = 0
    evictions: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, counter: str, amount: int = 1) -> None:
        with self._lock:
            setattr(self, counter, getattr(self, counter) + amount)


class MediaCache:
    """The files, their index, and one download per object, however many ask; safe to share between
    threads.

    Args:
        directory: the folder; made where it does not exist, readable by this user only.
        max_bytes: how much may be stored. Files in use are never removed, so that they, and
            downloads under way, may exceed it for a while.
        max_object_bytes: larger objects are refused.
        fresh_seconds: for how long an object is served without asking its source again.
        max_age: seconds after which files that nobody used are removed; None for no limit.
        clock: seconds since the epoch; survives a restart.

    Raises:
        MediaError: the folder or its index cannot be used. Where the disk is full, that is what
            those who ask get until there is room, see ``index``.
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
        self.max_bytes = max_bytes
        self.stats = CacheStats()
        self.now = clock
        self._directory = directory
        self._objects = directory / "objects"
        self._incoming = directory / "incoming"
        self._max_object_bytes = min(max_object_bytes, max_bytes)
        self._fresh_seconds = fresh_seconds
        self._max_age = max_age
        self._look_for_old_at = 0.0
        self._under_way_lock = threading.Lock()
        self._under_way: dict[tuple[str, str], Future[MediaFile]] = {}
        self._proven: Recent[bool] = Recent(entries=KEPT_PROOFS, seconds=fresh_seconds, clock=clock)
        self._opening = threading.Lock()
        self._index: CacheIndex | None = None
        try:
            self._index = self._open_index()
        except (sqlite3.Error, OSError) as error:
            if not lacks_room(directory, error):
                raise unusable(error) from error
            logger.error("%s Until there is room, only what needs none is read.", unusable(error))

    @property
    def index(self) -> CacheIndex:
        """Opened anew where the disk was too full for it at the start.

        Raises:
            sqlite3.Error: it cannot be opened.
        """
        with self._opening:
            if self._index is None:
                try:
                    self._index = self._open_index()
                except OSError as error:
                    raise sqlite3.OperationalError(error.strerror) from error
            return self._index

    @property
    def stored_bytes(self) -> int:
        """How much the index says is stored; 0 where it cannot be read."""
        try:
            return self.index.stored_bytes()
        except sqlite3.Error:
            return 0

    def close(self) -> None:
        if self._index is not None:
            self._index.close()

    def using_index(self, work: Callable[[], Result]) -> Result:
        """Do work; where the index is unusable (somebody emptied the folder), open it anew and
        do it again; where the disk is full, remove files and do it again.

        Raises:
            MediaError: the folder or its index cannot be used; or as ``work`` does.
        """
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            cause = error
        try:
            if not self.make_room_on_disk(cause):
                if isinstance(cause, OSError):
                    raise cause
                logger.warning("Media cache: opening the index anew, because: %s", cause)
                with self._opening:
                    self._index = self._open_index()
            return work()
        except (sqlite3.Error, OSError) as error:
            raise unusable(error) from error

    # --- files ---------------------------------------------------------------------------------

    def path(self, content_key: str) -> Path:
        """Where the file of a content is."""
        return self._objects / content_key[:2] / content_key

    @contextmanager
    def incoming_file(self) -> Iterator[tuple[int, Path]]:
        """A locked file to write to, open, and its path; removed where it was not moved away."""
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        file, path, lease = -1, Path(), None
        while lease is None or not os.fstat(file).st_nlink:
            # Again where a process that just started removed it before it was locked.
            file, name = tempfile.mkstemp(dir=self._incoming)
            path, lease = Path(name), Lease(file, fcntl.LOCK_EX)
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)

    def lease(self, entry: Entry) -> MediaFile | None:
        """Take a whole file into use; None where it is gone or not what was stored."""
        found = self.open(entry)
        if found:
            with self.index.writing() as index:
                index.note_used(entry.content_key, self.now())
                self._remove_old(index)
        return found

    def open(self, entry: Entry) -> MediaFile | None:
        """``lease`` without noting that it is used."""
        if entry.is_partial:
            return None
        path = self.path(entry.content_key)
        lease = Lease.of(path, os.O_RDONLY)
        # The file may have been cut short by a crash of the machine.
        if lease is None or os.fstat(lease.file).st_size != entry.size:
            return None
        return MediaFile(path, entry.content_key, entry.size, lease)

    def open_checked(self, entry: Entry) -> MediaFile | None:
        """``open`` for a file that is to be kept in favour of another: all of it is read, and None
        is returned where it is not what was stored."""
        found = self.open(entry)
        return found if found and _has_its_content(found) else None

    def drop_damaged(self, file: MediaFile) -> bool:
        """Remove a file, also while it is used, if its bytes are not those that were stored; False
        where they are, and where it is not a file of the cache.

        Raises:
            MediaError: the folder or its index cannot be used.
        """
        if file.path != self.path(file.content_key):
            return False
        if isinstance(file.lease, Lease) and not os.fstat(file.lease.file).st_nlink:
            return True  # somebody else who reads it has found out
        if _has_its_content(file):
            return False

        def drop() -> None:
            with self.index.writing() as index:
                index.forget(file.content_key)
                file.path.unlink(missing_ok=True)

        logger.warning("Media cache: %s is damaged and fetched again", file.content_key)
        self.using_index(drop)
        return True

    # --- room ----------------------------------------------------------------------------------

    def make_room(self, index: CacheIndex, size: int) -> bool:
        """Remove files until ``size`` more bytes fit; within ``index.writing()``.

        Returns:
            Whether they fit.
        """
        self._remove_old(index)
        excess = index.stored_bytes() + size - self.max_bytes
        return self._evict(index, excess) >= excess

    def make_room_on_disk(self, error: Exception, size: int = 0) -> bool:
        """Remove the files that nobody used for longest, where ``error`` says that the disk is
        full; not within ``index.writing()``.

        Args:
            size: bytes that are wanted; at least 16 MiB are tried.

        Returns:
            Whether something was removed, so that it may go on.

        Raises:
            sqlite3.Error: the index cannot be used.
        """
        if not is_full(error):
            return False
        with self.index.writing() as index:
            return self._evict(index, max(size, _FREED_AT_ONCE)) > 0

    def _evict(self, index: CacheIndex, wanted: int) -> int:
        """Remove files until so many bytes are free, or none is left that nobody uses; returns
        how many bytes they had."""
        freed = 0
        for content_key, stored in index.least_recently_used() if wanted > 0 else ():
            if self.remove(index, content_key):
                self.stats.add("evictions")
                freed += stored
            if freed >= wanted:
                break
        return freed

    def note_answer(self, source: RemoteObject) -> None:
        """Note that the source answered, so that its proof is good."""
        if source.proof:
            self._proven.put(identity_key(f"{source.identity} {source.proof}"), True)

    def note_unchanged(self, key: str) -> None:
        """Note that the source confirmed what is stored of an object."""
        self.index.note_checked(key, self.now())
        self.stats.add("revalidations")

    def remove(self, index: CacheIndex, content_key: str) -> bool:
        """Remove a file and what the index knows of it, unless somebody uses it."""
        if not _unlink_unused(self.path(content_key)):
            return False
        index.forget(content_key)
        return True

    def _remove_old(self, index: CacheIndex) -> None:
        """Remove the files that nobody used for too long; looks at most once an hour."""
        if self._max_age is None or self.now() < self._look_for_old_at:
            return
        self._look_for_old_at = self.now() + _LOOK_FOR_OLD_EVERY_S
        for content_key in index.unused_since(self.now() - self._max_age):
            if self.remove(index, content_key):
                self.stats.add("evictions")

    def _open_index(self) -> CacheIndex:
        """Open the index and bring it and the folder together after whatever happened; where the
        disk is full, with fewer files."""
        try:
            return self._opened_index()
        except (sqlite3.Error, OSError) as error:
            if not (lacks_room(self._directory, error) and self._remove_unknown()):
                raise
            return self._opened_index()

    def _remove_unknown(self) -> bool:
        """Remove some files, the oldest first, without an index that knew when they were used;
        returns whether there were any."""
        freed = 0
        ages = sorted((path.stat().st_mtime, path) for path in self._objects.glob("*/*"))
        for _, path in ages:
            size = path.stat().st_size
            if _unlink_unused(path):
                freed += size
                self.stats.add("evictions")
            if freed >= _FREED_AT_ONCE:
                break
        return freed > 0

    def _opened_index(self) -> CacheIndex:
        for folder in (self._directory, self._objects, self._incoming):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One process at a time: SQLite does not wait for its turn when it sets up a new database,
        # and a damaged one must not be thrown away twice.
        turn = Lease(os.open(self._directory, os.O_RDONLY), fcntl.LOCK_EX)
        try:
            opened = CacheIndex(self._directory / "index.sqlite")
        finally:
            del turn  # an error's traceback would keep it
        with opened.writing() as index:
            known = {content_key for content_key, _ in index.least_recently_used()}
            present = {path.name: path for path in self._objects.glob("*/*")}
            for content_key in known - present.keys():
                index.forget(content_key)
            for content_key in present.keys() - known:
                _unlink_unused(present[content_key])
            for path in self._incoming.iterdir():
                _unlink_unused(path)
            self.make_room(index, 0)
        return opened

    # --- remote objects ---

    def fresh(self, source: RemoteObject) -> MediaFile | None:
        """The file, where it is stored and its source need not be asked; makes no request."""
        try:
            entry = self.index.find(identity_key(source.identity))
            found = self.lease(entry) if entry and self.is_fresh(entry, source) else None
        except sqlite3.Error:
            return None  # ``fetch`` will see to it
        if found:
            self.stats.add("hits")
        return found

    def is_fresh(self, entry: Entry, source: RemoteObject) -> bool:
        """Whether the source need not be asked about an entry: it was lately, and also whether
        it lets whoever comes with this proof read it."""
        age = self.now() - entry.checked_at
        if not (entry.validators.immutable or 0 <= age < self._fresh_seconds):
            return False
        key = identity_key(f"{source.identity} {source.proof}")
        return not source.proof or self._proven.get(key) is not None

    def fetch(self, source: RemoteObject) -> MediaFile:
        """The file; asks the source where it must. Callers that come together, with the same
        proof, share one answer.

        Raises:
            MediaError: the source cannot deliver it, or there is no room for it.
        """
        key = identity_key(source.identity)
        with self._under_way_lock:
            another = self._under_way.get((key, source.proof))
            flight = self._under_way.setdefault((key, source.proof), Future())
        if another is not None:
            return another.result()
        try:
            flight.set_result(self.using_index(lambda: self._fetch(key, source)))
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._under_way_lock:
                del self._under_way[key, source.proof]
        return flight.result()

    def keep(self, source: RemoteObject, download: Download) -> MediaFile:
        """Store a body that is already on its way.

        Raises:
            MediaError: it does not come whole, or there is no room for it.
            Restart: it changed meanwhile.
        """
        try:
            with self.incoming_file() as (file, path):
                digest, size = self._write(file, download)
                os.fdatasync(file)  # else it might have its size, but not its bytes, after a crash
                entry = Entry(digest, size, download.validators, self.now())
                return self._move_in(identity_key(source.identity), file, path, entry)
        finally:
            close = getattr(download.chunks, "close", None)
            if close:
                close()

    def _fetch(self, key: str, source: RemoteObject) -> MediaFile:
        entry = self.index.find(key)
        cached = self.lease(entry) if entry else None
        if entry and cached and self.is_fresh(entry, source):
            self.stats.add("hits")
            return cached
        known = entry.validators if entry and cached else None
        problem = "The media changes while it is being read."
        for _ in range(2):
            answer = source.download(known)
            self.note_answer(source)
            if isinstance(answer, Download):
                try:
                    return self.keep(source, answer)
                except Restart as restart:
                    known, problem = None, str(restart) or problem
            elif cached:
                self.note_unchanged(key)
                return cached
        raise MediaError(problem, "Try again.", reason=Reason.FAILED)

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
                view = view[self._write_some(file, view) :]
        if expected is not None and size != expected:
            raise MediaError(
                f"The media has {size} bytes where its server announced {expected}.",
                "Try again.",
                reason=Reason.TRUNCATED,
            )
        self.stats.add("fetches")
        return digest.hexdigest(), size

    def _write_some(self, file: int, view: memoryview) -> int:
        """How much was written; other files make room for it where the disk is full."""
        while True:
            try:
                return os.write(file, view)
            except OSError as error:
                if not self.make_room_on_disk(error):
                    raise

    def _refuse_beyond_limit(self, size: int) -> None:
        if size > self._max_object_bytes:
            raise MediaError(
                f"The media is larger than the {self._max_object_bytes / 2**20:.0f} MiB that "
                "the backend accepts.",
                "Raise MAX_MEDIA_MB (and MEDIA_CACHE_MB) of the backend if it has the room; "
                "larger videos can only be read from a server that answers ranges.",
                reason=Reason.TOO_LARGE,
            )

    def _move_in(self, key: str, file: int, incoming: Path, entry: Entry) -> MediaFile:
        """Move the file to its place and take it into use, in one transaction."""
        path = self.path(entry.content_key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.index.writing() as index:
            kept = self.open_checked(entry)
            if kept is None:
                if not self.make_room(index, entry.size):
                    logger.warning("Media cache: over its limit, all files are in use")
                fcntl.flock(file, fcntl.LOCK_SH)
                incoming.replace(path)
                kept = self.open(entry)
            index.put(key, entry, self.now())
        if kept is None:
            raise OSError(errno.ENOENT, "a file vanished from it")
        return kept


class Lease:
    """An open file with a lock, if one of ``fcntl`` is named; both go when this object goes."""

    def __init__(self, file: int, lock: int | None = None) -> None:
        self.file = file
        weakref.finalize(self, os.close, file)
        if lock is not None:
            fcntl.flock(file, lock)

    @classmethod
    def of(cls, path: Path, flags: int) -> Lease | None:
        """Open and lock a file; None where it is not there (any more)."""
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None
        lease = cls(file, fcntl.LOCK_SH)
        # It may have been unlinked between open and lock.
        return lease if os.fstat(file).st_nlink else None


def unusable(error: Exception) -> MediaError:
    """What to say when the disk or the index fails."""
    cause = error.strerror if isinstance(error, OSError) else error
    return MediaError(
        f"The backend's media cache cannot be used: {cause}.",
        "Check the disk space and permissions of CACHE_DIR.",
        reason=Reason.STORAGE,
    )


def _has_its_content(file: MediaFile) -> bool:
    try:
        with file.path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.content_key
    except OSError:
        return False


def _unlink_unused(path: Path) -> bool:
    """Remove a file unless somebody uses it."""
    try:
        _lease = Lease(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
