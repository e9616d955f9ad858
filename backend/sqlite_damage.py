"""Telling SQLite files that are damaged from those that cannot be used for other reasons."""

from __future__ import annotations

import sqlite3

_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged; else the disk is full, somebody else writes, or the like."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in _CODES or code == sqlite3.SQLITE_IOERR_SHORT_READ


def look_for_damage(connection: sqlite3.Connection) -> None:
    """Read all pages of a file.

    Raises:
        sqlite3.DatabaseError: it is damaged, see ``is_damage``, or cannot be read.
    """
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
