"""What an export folder holds, by task, so that the next run writes only what has changed."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.export.outlets import Outlet
from backend.files import is_damage, set_aside
from backend.runs.command_line import CommandError

PATIENCE_S = 5.0  # with another export to the same folder
# Kept for this process alone, and not waited for: what a power cut takes is written again.
_TABLES = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS about (settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS classes (number INTEGER PRIMARY KEY, label TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    task INTEGER PRIMARY KEY, print TEXT NOT NULL, summary TEXT NOT NULL,
    position INTEGER NOT NULL, run INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, task INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_task ON files (task);
CREATE TABLE IF NOT EXISTS entries (
    task INTEGER NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (task, number)
) WITHOUT ROWID;
"""


@dataclass
class Pages:
    """What becomes of the pages of one task; kept when all of them are written.

    Attributes:
        summary: counts, by name.
        files: the names of those that were written.
    """

    ledger: Ledger
    task: int
    summary: Counter[str] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    _entries: int = 0

    def file(self, name: str, content: bytes | Path) -> None:
        """Write a file: its content, or a copy of another."""
        self.files.add(name)
        self.ledger.outlet.stage(name, content)

    def entry(self, kind: str, content: Mapping[str, Any]) -> None:
        """Note something for the files over all tasks."""
        self._entries += 1
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        row = self.task, self._entries, kind, text
        self.ledger.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)

    def class_of(self, label: str) -> int:
        """See ``Ledger``."""
        return self.ledger.class_of(label)


class Ledger:
    """The tasks of one export, with what the files over all of them are made of.

    Args:
        path: of the SQLite file.
        outlet: where the files go.
        settings: what all files depend on; where it is not what the folder was written with,
            everything is written anew.

    Attributes:
        changed: whether anything in the folder differs from what was there before.
        unchanged: tasks that were found as they had been written.

    Raises:
        CommandError: the file cannot be used, here and in every method.
    """

    def __init__(self, path: Path, outlet: Outlet, settings: str, labels: Sequence[str]) -> None:
        self.outlet = outlet
        self.changed = False
        self.unchanged = 0
        self._path = path
        self._position = 0
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise self._unusable(error) from error
            set_aside(path, error, "-journal")
            self._connection = self._open()
        found = self.execute("SELECT settings FROM about").fetchone()
        if found is None or found[0] != settings:
            self._begin_anew(settings, labels)
        (latest,) = self.execute("SELECT COALESCE(MAX(run), 0) FROM tasks").fetchone()
        self._run = latest + 1

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, row: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        try:
            return self._connection.execute(statement, row)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def find(self, task: int, print_: str) -> Counter[str] | None:
        """The summary of a task that is there as it would be written; None where it is not."""
        row = self.execute(
            "SELECT summary FROM tasks WHERE task = ? AND print = ?", (task, print_)
        ).fetchone()
        if row is None:
            return None
        self.keep(task)
        self.unchanged += 1
        return Counter(json.loads(row[0]))

    def keep(self, task: int) -> bool:
        """Leave what was written of a task; says whether there is anything, of these settings."""
        row = self.execute(
            "SELECT position FROM tasks WHERE task = ? AND print != ''", (task,)
        ).fetchone()
        if row is None:
            return False
        self._position += 1
        self.changed |= row[0] != self._position
        place = self._position, self._run, task
        self.execute("UPDATE tasks SET position = ?, run = ? WHERE task = ?", place)
        return True

    @contextmanager
    def writing(self, task: int, print_: str) -> Iterator[Pages]:
        """Write a task, in place of what was written of it before: wholly, or not at all."""
        pages = Pages(self, task)
        self.execute("BEGIN")
        try:
            before = {
                str(name)
                for (name,) in self.execute("SELECT name FROM files WHERE task = ?", (task,))
            }
            self.execute("DELETE FROM entries WHERE task = ?", (task,))
            self.execute("DELETE FROM files WHERE task = ?", (task,))
            yield pages
            for name in pages.files:
                self.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (name, task))
            row = task, print_, json.dumps(pages.summary), self._position + 1, self._run
            self.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?)", row)
            self.outlet.commit()
            self.execute("COMMIT")
        except BaseException:
            self.outlet.discard()
            self._connection.rollback()
            raise
        self._position += 1
        self.changed = True
        for name in before - pages.files:
            self.outlet.remove(name)

    def leave_out_others(self) -> None:
        """Remove the tasks that this run has not seen, and their files."""
        others = "SELECT task FROM tasks WHERE run < ?"
        run = (self._run,)
        names = self.execute(
            f"SELECT name FROM files WHERE task IN ({others})",  # noqa: S608 - of our own words
            run,
        ).fetchall()
        gone = self.execute("SELECT COUNT(*) FROM tasks WHERE run < ?", run).fetchone()[0]
        if not gone:
            return
        self.changed = True
        for (name,) in names:
            self.outlet.remove(name)
        self.execute("BEGIN")
        for table in ("files", "entries", "tasks"):
            self.execute(f"DELETE FROM {table} WHERE task IN ({others})", run)  # noqa: S608
        self.execute("COMMIT")

    def entries(self, *kinds: str) -> Iterator[tuple[str, Any]]:
        """Kind and content of what was noted, in the order of tasks and pages."""
        marks = ", ".join("?" * len(kinds))
        found = self.execute(
            "SELECT kind, content FROM entries JOIN tasks USING (task) "  # noqa: S608
            f"WHERE kind IN ({marks}) ORDER BY position, number",
            kinds,
        )
        for kind, content in found:
            yield str(kind), json.loads(content)

    def class_of(self, label: str) -> int:
        """The number of a label, from 0: first those of the label config, others as they come."""
        found = self.execute("SELECT number FROM classes WHERE label = ?", (label,)).fetchone()
        if found is not None:
            return int(found[0])
        number = int(self.execute("SELECT COUNT(*) FROM classes").fetchone()[0])
        self.execute("INSERT INTO classes VALUES (?, ?)", (number, label))
        return number

    def classes(self) -> list[str]:
        """All labels, by number."""
        return [
            str(label) for (label,) in self.execute("SELECT label FROM classes ORDER BY number")
        ]

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.executescript(_TABLES)
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_anew(self, settings: str, labels: Sequence[str]) -> None:
        self.execute("BEGIN")
        self.execute("DELETE FROM about")
        self.execute("DELETE FROM classes")
        self.execute("UPDATE tasks SET print = ''")  # their files go when they are written anew
        self.execute("INSERT INTO about VALUES (?)", (settings,))
        for label in labels:
            self.class_of(label)
        self.execute("COMMIT")

    def _unusable(self, error: sqlite3.Error) -> CommandError:
        return CommandError(f"{self._path} cannot be used ({error}): is another export at work?")
