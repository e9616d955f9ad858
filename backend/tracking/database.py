"""The SQLite file of the store of tracks: its connections and transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.expected import ExpectedError
from backend.tracking.schema import check_schema, migrate

Value = str | int | float | bytes | None


class StoreError(ExpectedError):
    """The store cannot be used: a full disk, a folder that cannot be written to. ``str()`` is a
    sentence for whoever waits."""


class Database:
    """One file, of the newest schema; safe to share between threads, and with other processes.

    Whoever writes waits for the one that writes. Whoever reads waits for nobody: readers have
    connections of their own, and see what was committed when their query began.

    Every method raises ``StoreError`` where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._lending = threading.Lock()
        self._idle: list[sqlite3.Connection] = []  # for readers
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path.parent} (STATE_DIR) cannot be used: {error}.") from error
        try:
            with _explained():
                self._connection.execute("PRAGMA journal_mode = WAL")
                migrate(self._connection)
        except ExpectedError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; everything is written already."""
        with self._writing, self._lending:
            self._closed = True
            self._connection.close()
            while self._idle:
                self._idle.pop().close()

    def read(self, query: str, *values: Value) -> list[sqlite3.Row]:
        """All rows that a query finds."""
        with _explained(), self._reader() as connection:
            return connection.execute(query, values).fetchall()

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
            connection = self._connection
            connection.execute(f"PRAGMA synchronous = {mode}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has ended it already
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
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


def check_file(path: Path) -> None:
    """Look whether a store can be used, without changing it; one that is not there yet can.

    Raises:
        SchemaError: it is of a later version.
        StoreError: it cannot be read.
    """
    if path.exists():
        with _explained():
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                check_schema(connection)
            finally:
                connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"The backend cannot store tracks: {error}. "
            "Check the disk space and permissions of STATE_DIR."
        ) from error
