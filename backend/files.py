"""Files that whoever reads them finds whole, and what becomes of those that are not."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Content = TypeVar("Content")

logger = logging.getLogger(__name__)

ASIDE = ".damaged-"
"""In the names of files that were set aside."""

_LEAST_ROOM = 1 << 20  # bytes, to open a file and write to it
_SQLITE_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# What reading a file that somebody else's bytes got into may raise.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError,
           ValueError)  # fmt: skip


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` for a new version of the file, which takes its place at the end.

    A reader, or a kill, finds the old file or the new one, which is on the disk before it is
    seen. Where the block fails, nothing is left of the new one.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, see ``replacing``."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def set_aside(path: Path, why: object, *with_it: str) -> None:
    """Give a damaged file a name beside its own that says when, and say so in the log.

    Args:
        why: what is wrong with it.
        with_it: what the names of files have at the end that go where it goes.
    """
    moment = time.strftime(f"{ASIDE}%Y%m%d-%H%M%S")
    aside, number = path.with_name(path.name + moment), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}{moment}-{number}")
    try:
        for end in (*with_it, ""):
            part = path.with_name(path.name + end)
            if os.path.lexists(part):
                part.rename(aside.with_name(aside.name + end))
    except OSError as error:
        logger.error("%s is damaged (%s) and cannot be set aside: %s", path, why, error)
    else:
        logger.error("%s is damaged (%s) and was set aside as %s", path, why, aside.name)


def found_aside(state: Path) -> list[Path]:
    """What lies in a STATE_DIR that was set aside, relative to it."""
    found = [path for depth in ("*", "models/*/*", "finetune/*/*")
             for path in sorted(state.glob(f"{depth}{ASIDE}*"))]  # fmt: skip
    return [path.relative_to(state) for path in found if not path.name.endswith(("-wal", "-shm"))]


def read_json(path: Path, parse: Callable[[Any], Content]) -> Content | None:
    """What a JSON file says; None where there is none, or where it is damaged, which sets it
    aside.

    Args:
        parse: makes something of it, or raises what wrong types and values raise.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        set_aside(path, f"{type(error).__name__}: {error}")
        return None


def is_full(error: Exception) -> bool:
    """Whether an error of the system or of SQLite says that a disk, or a share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def sync(path: Path) -> None:
    """Wait until a file that was written is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def lacks_room(folder: Path, error: BaseException | None) -> bool:
    """Whether a folder's disk is too full to open a database; SQLite has many names for that."""
    if isinstance(error, Exception) and is_full(error):
        return True
    try:
        return shutil.disk_usage(folder).free < _LEAST_ROOM
    except OSError:
        return False


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an SQLite file is damaged; else the disk is full, or somebody else writes."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in _SQLITE_DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ


def look_for_damage(connection: sqlite3.Connection) -> None:
    """Read all pages of an SQLite file.

    Raises:
        sqlite3.DatabaseError: it is damaged, see ``is_damage``, or cannot be read.
    """
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
