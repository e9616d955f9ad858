"""The index of the disk cache: which object has which content, and when it was used."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backend.files import is_damage, look_for_damage
from backend.media.sources import Validators

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contents (
    content_key TEXT PRIMARY KEY, size INTEGER NOT NULL, used_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS contents_used_at ON contents (used_at);
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY,
    content_key TEXT NOT NULL REFERENCES contents ON DELETE CASCADE,
    validators TEXT NOT NULL,
    checked_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS entries_content_key ON entries (content_key);
CREATE TABLE IF NOT EXISTS blocks (
    content_key TEXT NOT NULL REFERENCES contents ON DELETE CASCADE,
    block INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (content_key, block)) WITHOUT ROWID;
"""
_PARTIAL = ".part"
_LOCK_TIMEOUT_S = 10.0
_USE_RESOLUTION_S = 1.0
_WAL_PAGES = 250  # 1 MB; four times that is usual, and counts where the cache is small


@dataclass(frozen=True)
class Entry:
    """What is known of one object.

    Attributes:
        content_key: SHA-256 of its content; of an object that is stored in part, of its
            identity and version, and a suffix.
        size: of what is stored of it, in bytes.
        validators: what its source said about this version.
        checked_at: when the source last confirmed it, in seconds since the epoch.
    """

    content_key: str
    size: int
    validators: Validators
    checked_at: float

    @property
    def is_partial(self) -> bool:
        """Whether only some blocks of the object may be stored."""
        return self.content_key.endswith(_PARTIAL)


def identity_key(identity: str) -> str:
    """Hashed, as an identity may hold an address that is nobody's business."""
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def partial_key(identity_and_version: str) -> str:
    """The content key of an object that is stored in part."""
    return identity_key(identity_and_version) + _PARTIAL


class CacheIndex:
    """A small SQLite database, shared by threads and processes.

    It holds nothing that could not be fetched again, so writes are not forced to the disk,
    and a damaged file is thrown away. All methods raise ``sqlite3.Error`` where the database
    cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            logger.warning("Media cache: the index is damaged (%s) and begun anew", error)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._database = _open(path)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextmanager
    def writing(self) -> Iterator[CacheIndex]:
        """One transaction; no other thread or process writes meanwhile."""
        with self._lock, self._database:  # which commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            yield self

    def find(self, key: str) -> Entry | None:
        """The entry of an object, if there is one."""
        rows = self._rows(
            "SELECT content_key, size, validators, checked_at"
            " FROM entries JOIN contents USING (content_key) WHERE key = ?",
            key,
        )
        for content_key, size, validators, checked_at in rows:
            try:
                return Entry(content_key, size, Validators(**json.loads(validators)), checked_at)
            except (TypeError, ValueError):  # damaged where SQLite does not look
                self._change("DELETE FROM entries WHERE key = ?", key)
        return None

    def put(self, key: str, entry: Entry, now: float) -> None:
        """Add or replace the entry of an object."""
        self._change(
            "INSERT INTO contents VALUES (?, ?, ?)"
            " ON CONFLICT (content_key) DO UPDATE SET used_at = excluded.used_at",
            *(entry.content_key, entry.size, now),
        )
        self._change(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
            *(key, entry.content_key, json.dumps(asdict(entry.validators)), entry.checked_at),
        )

    def blocks(self, content_key: str) -> dict[int, int]:
        """The blocks that are stored of a partial content, with their checksums."""
        return dict(
            self._rows("SELECT block, checksum FROM blocks WHERE content_key = ?", content_key)
        )

    def add_block(self, content_key: str, block: int, checksum: int, size: int) -> None:
        """Note that a block is stored. Raises ``sqlite3.IntegrityError`` if the content is gone."""
        if self._change(
            "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?)", content_key, block, checksum
        ):
            self._grow(content_key, size)

    def drop_block(self, content_key: str, block: int, size: int) -> None:
        """Note that a block is not what was stored."""
        if self._change(
            "DELETE FROM blocks WHERE content_key = ? AND block = ?", content_key, block
        ):
            self._grow(content_key, -size)

    def complete(self, content_key: str, content: str, size: int, now: float) -> bool:
        """Note that all of a partial content is stored, and is ``content`` (its SHA-256). Returns
        False where the partial one is not known any more."""
        if not self._rows("SELECT 1 FROM contents WHERE content_key = ?", content_key):
            return False
        self._change("INSERT OR IGNORE INTO contents VALUES (?, ?, ?)", content, size, now)
        self._change(
            "UPDATE entries SET content_key = ? WHERE content_key = ?", content, content_key
        )
        self.forget(content_key)
        return True

    def unused_since(self, moment: float) -> list[str]:
        """The contents that were last used before ``moment``."""
        rows = self._rows("SELECT content_key FROM contents WHERE used_at < ?", moment)
        return [content_key for (content_key,) in rows]

    def note_checked(self, key: str, now: float) -> None:
        """Note that the source confirmed an object."""
        self._change("UPDATE entries SET checked_at = ? WHERE key = ?", now, key)

    def note_used(self, content_key: str, now: float) -> None:
        """Note that a content was used; uses within a second count as one."""
        self._change(
            "UPDATE contents SET used_at = ? WHERE content_key = ? AND used_at < ?",
            *(now, content_key, now - _USE_RESOLUTION_S),
        )

    def forget(self, content_key: str) -> None:
        """Drop a content and all objects that have it."""
        self._change("DELETE FROM contents WHERE content_key = ?", content_key)

    def least_recently_used(self) -> list[tuple[str, int]]:
        """All contents with their sizes, the longest unused first."""
        return self._rows("SELECT content_key, size FROM contents ORDER BY used_at, content_key")

    def stored_bytes(self) -> int:
        """The sum of all sizes."""
        [(total,)] = self._rows("SELECT COALESCE(SUM(size), 0) FROM contents")
        return int(total)

    def _grow(self, content_key: str, size: int) -> None:
        self._change("UPDATE contents SET size = size + ? WHERE content_key = ?", size, content_key)

    def _rows(self, statement: str, *values: str | float) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    def _change(self, statement: str, *values: str | float) -> int:
        """How many rows a statement changed."""
        with self._lock:
            return self._database.execute(statement, values).rowcount


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        database.execute("PRAGMA foreign_keys = ON")
        database.executescript(_SCHEMA)
        look_for_damage(database)
        database.text_factory = partial(str, encoding="utf-8", errors="replace")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
