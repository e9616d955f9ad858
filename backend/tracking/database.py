"""The SQLite file of the store of tracks: its connections and transactions."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from backend.expected import ExpectedError
from backend.files import is_damage, lacks_room, look_for_damage, set_aside
from backend.tracking.schema import check_schema, migrate

logger = logging.getLogger(__name__)

Value = str | int | float | bytes | None

_STEP_PAGES = 2_000  # given back at once
_STOPPING_SECONDS = 10.0  # within which a service that is told to stop has ended
_WORTH_REWRITING = 64 << 20  # bytes that are free in a file of an earlier version


class StoreError(ExpectedError):
    """The store cannot be used: a full disk, a folder that cannot be written to. ``str()`` is a
    sentence for whoever waits."""


class DamagedStoreError(StoreError):
    """The file of the store is damaged."""


class Database:
    """One file, of the newest schema; safe to share between threads, and with other processes.

    Whoever writes waits for the one that writes. Whoever reads waits for nobody: readers have
    connections of their own, and see what was committed when their query began. Beside the file
    lies another one that is locked while this one is in use, so that nobody replaces it.

    Every method raises ``StoreError`` where the file cannot be read or written.

    Args:
        patient: where the disk is too full to open the file, try again when it is used.
    """

    def __init__(self, path: Path, *, patient: bool = False) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._lending = threading.Lock()
        self._opening = threading.Lock()
        self._idle: list[sqlite3.Connection] = []  # for readers
        self._closed = False
        self._opened: tuple[sqlite3.Connection, BinaryIO] | None = None
        try:
            self._open()
        except StoreError as error:
            if not (patient and lacks_room(path.parent, error.__cause__)):
                raise
            logger.error("nothing can be tracked until there is room: %s", error)

    def _open(self) -> sqlite3.Connection:
        """The connection of whoever writes; the file is opened where it is not yet."""
        with self._opening:
            if self._opened is not None:
                return self._opened[0]
            if self._closed:
                raise sqlite3.ProgrammingError("the store is closed")
            self._opened = _opened(self._path)
            return self._opened[0]

    def close(self) -> None:
        """Close the file; everything is written already."""
        with self._writing, self._lending:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            if self._opened is not None:
                for each in self._opened:
                    each.close()

    def read(self, query: str, *values: Value) -> list[sqlite3.Row]:
        """All rows that a query finds."""
        with _explained(), self._reader() as connection:
            return connection.execute(query, values).fetchall()

    def rows(self, query: str, *values: Value) -> Iterator[sqlite3.Row]:
        """Those rows one by one, where they are many."""
        with _explained(), self._reader() as connection:
            yield from connection.execute(query, values)

    def write(self, query: str, *values: Value) -> None:
        """Carry out one statement."""
        with self.transaction() as connection:
            connection.execute(query, values)

    @contextmanager
    def transaction(self, *, wait_for_disk: bool = True) -> Iterator[sqlite3.Connection]:
        """Several statements: all of them or none."""
        # With a write-ahead log, NORMAL leaves writing to the system; the next FULL one waits for
        # everything before it too (sqlite.org/pragma.html#pragma_synchronous).
        mode = "FULL" if wait_for_disk else "NORMAL"
        with _explained(), self._writing:
            connection = self._open()
            connection.execute(f"PRAGMA synchronous = {mode}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has ended it already
                    connection.execute("ROLLBACK")
                raise

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes on the disk, and those of them that are free in the file."""
        with _explained(), self._reader() as connection:
            free, page = (_number(connection, name) for name in ("freelist_count", "page_size"))
        files = (self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm"))
        stored = sum(each.stat().st_size for each in files if each.exists())
        return {"tracks": stored, "tracks_free": free * page}

    def give_back(self) -> bool:
        """Give some of the file's free room back to the disk; False where none is left to give.

        A file of an earlier version is rewritten for that, once and where it is worth it.
        """
        with _explained(), self._writing:
            connection = self._open()
            free = _number(connection, "freelist_count")
            connection.execute("PRAGMA synchronous = NORMAL")
            if _number(connection, "auto_vacuum") == 0:
                if free * _number(connection, "page_size") < _WORTH_REWRITING:
                    return False
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("VACUUM")
            elif free:
                # Not ``execute``, which would take one step of the statement: one page.
                connection.executescript(f"PRAGMA incremental_vacuum({_STEP_PAGES})")
            left = _number(connection, "freelist_count")
            if not left:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return 0 < left < free

    def back_up(self, target: Path) -> None:
        """Copy the file, as it is at one moment, while others read and write it. Pages are
        copied as they are, so the copy is looked at for damage."""
        with _explained(), self._reader() as connection, closing(sqlite3.connect(target)) as copy:
            connection.backup(copy)
            look_for_damage(copy)

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        self._open()
        with self._lending:
            if self._closed:
                raise sqlite3.ProgrammingError("the store is closed")
            connection = self._idle.pop() if self._idle else _connect(self._path)
        try:
            yield connection
        finally:
            with self._lending:
                if self._closed:
                    connection.close()
                else:
                    self._idle.append(connection)


def _opened(path: Path) -> tuple[sqlite3.Connection, BinaryIO]:
    """A connection to a store of the newest schema, and what locks it."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lease = stack.enter_context(lock(path, fcntl.LOCK_SH))
            connection = stack.enter_context(closing(_connect(path)))
        except BlockingIOError as error:
            raise StoreError(f"{path.parent} (STATE_DIR) is being restored: wait.") from error
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error
        with _explained():
            if check_schema(connection) == 0:  # as fresh files are
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        stack.pop_all()
    return connection, lease


def lock(path: Path, kind: int) -> BinaryIO:
    """Lock the store at ``path`` until the file that this returns is closed, or the process ends.

    Args:
        kind: ``fcntl.LOCK_SH`` to use it, ``LOCK_EX`` to replace it.

    Raises:
        BlockingIOError: somebody else holds it in another way.
        OSError: there can be no such file.
    """
    file = path.with_suffix(".lock").open("ab")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


@contextmanager
def lock_jobs(path: Path) -> Iterator[None]:
    """Lock the jobs of the store at ``path``, by locking its folder, for which a full disk has
    room: no other process may take up what a stopped one left unfinished. A process that is about
    to end is waited for.

    Raises:
        StoreError: another process has them, or there can be no such folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        give_up = time.monotonic() + _STOPPING_SECONDS
        while not _locked(folder):
            if time.monotonic() > give_up:
                raise StoreError(
                    f"STATE_DIR: another backend runs on {path.parent}; stop it, or "
                    "give each backend a STATE_DIR of its own."
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(folder)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unusable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path.parent} (STATE_DIR) cannot be used: {error}.")


def set_aside_damaged(path: Path) -> None:
    """Make place for a store where the file of the one at ``path`` is damaged: it, and what
    belongs to it, get names that say when. Only for whoever holds its jobs, see ``lock_jobs``."""
    if not path.exists():
        return
    try:
        with closing(_connect(path)) as connection:
            check_schema(connection)
            look_for_damage(connection)
    except sqlite3.Error as error:
        if is_damage(error):
            set_aside(path, error, "-wal", "-shm")
            logger.error("tracks and their masks are missing: restore a backup of STATE_DIR")


def check_file(path: Path) -> None:
    """Look whether a store can be used, without changing it; one that is not there yet can.

    Raises:
        SchemaError: it is of a later version.
        DamagedStoreError, StoreError: it cannot be read.
    """
    if path.exists():
        with _explained():
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                check_schema(connection)
            finally:
                connection.close()


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise DamagedStoreError(
                f"The file of the tracks in STATE_DIR is damaged: {error}. The next start of the "
                "service sets it aside and begins a new one; or restore a backup."
            ) from error
        raise StoreError(
            f"The backend cannot store tracks: {error}. "
            "Check the disk space and permissions of STATE_DIR."
        ) from error
