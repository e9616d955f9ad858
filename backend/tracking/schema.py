"""The tables of the store of tracks, and how a store of an earlier version becomes one of this.

A store carries the number of its schema in ``PRAGMA user_version``. The migration at position n of
``MIGRATIONS`` takes a store from n to n + 1; a fresh file is a store of version 0. All that are
missing run in one transaction when the store is opened, so they must be quick on a big store:
columns are added with a default, and what has to be worked out row by row is worked out later, in
steps. A migration that was released is never changed: the next one mends it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from backend.expected import ExpectedError

Migration = Callable[[sqlite3.Connection], None]

# Stores from before schemas had numbers may have any of these tables already.
_FIRST = (
    """CREATE TABLE IF NOT EXISTS jobs (
        id TEXT PRIMARY KEY, track TEXT NOT NULL, digest TEXT NOT NULL, request TEXT NOT NULL,
        state TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
        message TEXT NOT NULL DEFAULT '', deliver INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL, updated REAL NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS jobs_by_digest ON jobs (digest, state)",
    """CREATE TABLE IF NOT EXISTS masks (
        track TEXT NOT NULL, object TEXT NOT NULL, frame INTEGER NOT NULL, anchor TEXT NOT NULL,
        height INTEGER NOT NULL, width INTEGER NOT NULL, runs BLOB NOT NULL,
        iou REAL NOT NULL, presence REAL NOT NULL,
        prompted INTEGER NOT NULL DEFAULT 0, stride INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (track, object, frame)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS earlier_masks (
        track TEXT NOT NULL, object TEXT NOT NULL, frame INTEGER NOT NULL,
        height INTEGER NOT NULL, width INTEGER NOT NULL, runs BLOB NOT NULL,
        PRIMARY KEY (track, object, frame)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS generations (
        track TEXT NOT NULL, object TEXT NOT NULL, frame INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        PRIMARY KEY (track, object, frame)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS objects (
        track TEXT NOT NULL, object TEXT NOT NULL, description TEXT NOT NULL,
        PRIMARY KEY (track, object)
    ) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS due (job TEXT PRIMARY KEY) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS delivered (
        prediction INTEGER PRIMARY KEY, track TEXT NOT NULL, objects TEXT NOT NULL
    )""",
)


def _number_the_schema(connection: sqlite3.Connection) -> None:
    for statement in _FIRST:
        connection.execute(statement)
    present = {column["name"] for column in connection.execute("PRAGMA table_info(masks)")}
    for name, default in (("prompted", 0), ("stride", 1)):
        if name not in present:
            connection.execute(
                f"ALTER TABLE masks ADD COLUMN {name} INTEGER NOT NULL DEFAULT {default}"
            )


def _count_crashes(connection: sqlite3.Connection) -> None:
    for name in ("crashes", "under_way"):
        connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")


def _measure_masks(connection: sqlite3.Connection) -> None:
    """Columns for what a mask's runs say; those of older masks are filled when they are read."""
    numbers = ("area", "left_edge", "top_edge", "right_edge", "bottom_edge")
    kinds = {**dict.fromkeys(numbers, "INTEGER"), "centre_x": "REAL", "centre_y": "REAL"}
    for name, kind in kinds.items():
        connection.execute(f"ALTER TABLE masks ADD COLUMN {name} {kind}")


def _part_requests_from_jobs(connection: sqlite3.Connection) -> None:
    """Requests in a table of their own; those of older jobs are moved later, until when their
    ``kind`` is NULL."""
    for name in ("project", "task", "kind"):
        connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} TEXT")
    connection.execute(
        "CREATE TABLE requests "
        "(job TEXT PRIMARY KEY, own BLOB NOT NULL, task TEXT, label_config TEXT)"
    )
    connection.execute("CREATE TABLE shared (digest TEXT PRIMARY KEY, content BLOB NOT NULL)")
    for columns in ("track, created", "state, created", "created", "project", "kind"):
        name = "jobs_by_" + columns.partition(",")[0]
        connection.execute(f"CREATE INDEX {name} ON jobs ({columns})")


def _name_owners(connection: sqlite3.Connection) -> None:
    """Whose a track is; one that is not here, or has an empty owner, is the first one's who holds
    a region of it."""
    connection.execute(
        "CREATE TABLE owners (track TEXT PRIMARY KEY, base TEXT NOT NULL, owner TEXT NOT NULL)"
    )
    connection.execute("CREATE INDEX owners_by_base ON owners (base)")


def _add_runs(connection: sqlite3.Connection) -> None:
    """What was asked for whole projects, and what became of each of their tasks."""
    connection.execute(
        "CREATE TABLE runs (id TEXT PRIMARY KEY, project INTEGER NOT NULL, request TEXT NOT NULL, "
        "state TEXT NOT NULL, message TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '', "
        "total INTEGER, created REAL NOT NULL, updated REAL NOT NULL, begun REAL, ended REAL)"
    )
    connection.execute("CREATE INDEX runs_by_state ON runs (state, created)")
    connection.execute(
        "CREATE TABLE run_tasks (run TEXT NOT NULL, position INTEGER NOT NULL, "
        "task INTEGER NOT NULL, state TEXT NOT NULL, message TEXT NOT NULL DEFAULT '', "
        "score REAL, prediction INTEGER, starts INTEGER NOT NULL DEFAULT 0, mark TEXT, "
        "found TEXT, PRIMARY KEY (run, position)) WITHOUT ROWID"
    )
    connection.execute(
        "CREATE TABLE run_answers (run TEXT NOT NULL, position INTEGER NOT NULL, "
        "question TEXT NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (run, position, question)) "
        "WITHOUT ROWID"
    )
    connection.execute("CREATE INDEX run_tasks_by_state ON run_tasks (run, state, position)")


def _name_weights(connection: sqlite3.Connection) -> None:
    """The weights that a job began with; empty where it has not, or an earlier version did it."""
    connection.execute("ALTER TABLE jobs ADD COLUMN weights TEXT NOT NULL DEFAULT ''")


def _tell_scenes(connection: sqlite3.Connection) -> None:
    """Whether a frame is of another scene than the marks; older masks are taken not to be."""
    connection.execute("ALTER TABLE masks ADD COLUMN elsewhere INTEGER NOT NULL DEFAULT 0")


MIGRATIONS: tuple[Migration, ...] = (
    _number_the_schema,
    _count_crashes,
    _measure_masks,
    _part_requests_from_jobs,
    _name_owners,
    _add_runs,
    _name_weights,
    _tell_scenes,
)


class SchemaError(ExpectedError):
    """The store was written by a later version of this software."""


def check_schema(connection: sqlite3.Connection, latest: int = len(MIGRATIONS)) -> int:
    """The number of a store's schema.

    Raises:
        SchemaError: this version does not know it.
    """
    number = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if number > latest:
        raise SchemaError(
            f"The tracks in STATE_DIR were written by a later version of the backend (schema "
            f"{number}; this version knows up to {latest}): start that version again, restore a "
            "backup from before it, or set STATE_DIR to another folder."
        )
    return number


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a store to the newest schema: wholly, or not at all.

    Args:
        connection: in autocommit mode (``isolation_level=None``), with rows by name.

    Raises:
        SchemaError: see ``check_schema``.
    """
    if check_schema(connection, len(migrations)) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Again, for another process may have been first.
        for number in range(check_schema(connection, len(migrations)), len(migrations)):
            migrations[number](connection)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
