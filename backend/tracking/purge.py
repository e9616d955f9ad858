"""What leaves the store: old jobs with their masks, projects on demand, and the room they took."""

from __future__ import annotations

import json
import logging
import threading
import time

from backend.tracking.database import Database, StoreError
from backend.tracking.requests import move_requests

logger = logging.getLogger(__name__)

TABLES_OF_TRACKS = ("masks", "earlier_masks", "objects", "generations", "owners", "delivered")
_AT_ONCE = 50  # jobs, so that nobody waits long to write
_ENDED = "state NOT IN ('queued', 'running')"
_RUN_ENDED = "state IN ('done', 'failed', 'cancelled')"
_TASKS_AT_ONCE = 2_000
_SETTLED = f"{_ENDED} AND id NOT IN (SELECT job FROM due)"  # noqa: S608
_PAUSE_S = 6 * 3600.0
_STEP_S = 0.05  # between two steps


def forget_old_jobs(database: Database, before: float) -> int:
    """Drop the jobs that ended before a moment (seconds since 1970), but not those whose result is
    still to be delivered; and what was found on tracks that no job is left of. Returns how many."""
    query = f"SELECT id, track FROM jobs WHERE updated < ? AND {_SETTLED} LIMIT {_AT_ONCE}"  # noqa: S608
    return _forget(database, query, before)


def forget_old_runs(database: Database, before: float) -> int:
    """Drop the runs that ended before a moment, with what became of their tasks; returns how many.
    What they tracked leaves with its jobs."""
    query = f"SELECT id FROM runs WHERE COALESCE(ended, updated) < ? AND {_RUN_ENDED}"  # noqa: S608
    return _forget_runs(database, query, before)


def forget_project(database: Database, project: int) -> tuple[int, int]:
    """Drop the ended jobs and runs of a project of Label Studio, delivered or not, and what they
    found.

    Returns:
        How many jobs left, and how many jobs and runs stay, as they have not ended.
    """
    while move_requests(database):
        pass  # only then all jobs say whose they are
    of_project = "(project = ? OR project LIKE ? || '.%')"
    query = f"SELECT id, track FROM jobs WHERE {of_project} AND {_ENDED} LIMIT {_AT_ONCE}"  # noqa: S608
    name = str(project)
    gone = _forget(database, query, name, name)
    runs = f"SELECT id FROM runs WHERE project = ? AND {_RUN_ENDED}"  # noqa: S608
    _forget_runs(database, runs, project)
    left = (
        f"SELECT (SELECT COUNT(*) FROM jobs WHERE {of_project}) "  # noqa: S608
        "+ (SELECT COUNT(*) FROM runs WHERE project = ?)"
    )
    return gone, int(database.read(left, name, name, project)[0][0])


def _forget_runs(database: Database, query: str, value: float) -> int:
    runs = [row["id"] for row in database.read(query, value)]
    for run in runs:
        for table in ("run_answers", "run_tasks"):
            some = f"SELECT position FROM {table} WHERE run = ? ORDER BY position LIMIT ?"  # noqa: S608
            while rows := database.read(some, run, _TASKS_AT_ONCE):
                with database.transaction(wait_for_disk=False) as connection:
                    connection.execute(
                        f"DELETE FROM {table} WHERE run = ? AND position <= ?",  # noqa: S608
                        (run, rows[-1]["position"]),
                    )
        database.write("DELETE FROM runs WHERE id = ?", run)
    return len(runs)


def _forget(database: Database, query: str, *values: str | float) -> int:
    gone = 0
    while jobs := database.read(query, *values):
        tracks = sorted({row["track"] for row in jobs})
        with database.transaction(wait_for_disk=False) as connection:
            for row in jobs:
                for table, column in (("jobs", "id"), ("requests", "job"), ("due", "job")):
                    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (row["id"],))  # noqa: S608
            of_none = connection.execute(
                "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT track FROM jobs)",
                (json.dumps(tracks),),
            ).fetchall()
        for row in of_none:
            _forget_track(database, row["value"])
        gone += len(jobs)
    if gone:
        database.write(
            "DELETE FROM shared WHERE digest NOT IN (SELECT task FROM requests WHERE task NOTNULL "
            "UNION SELECT label_config FROM requests WHERE label_config NOTNULL)"
        )
    return gone


def _forget_track(database: Database, track: str) -> None:
    with database.transaction(wait_for_disk=False) as connection:
        if connection.execute("SELECT 1 FROM jobs WHERE track = ?", (track,)).fetchone():
            return  # asked for again meanwhile
        for table in TABLES_OF_TRACKS:
            connection.execute(f"DELETE FROM {table} WHERE track = ?", (track,))  # noqa: S608


class Housekeeping:
    """Keeps the store small while the service runs, in steps between which others write.

    Args:
        keep_seconds: how long jobs stay after they ended.
    """

    def __init__(self, database: Database, keep_seconds: float) -> None:
        self._database, self._keep = database, keep_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin, now and every few hours, in the background."""
        self._thread.start()

    def close(self) -> None:
        """End after the step under way."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def tidy(self) -> int:
        """Do all that is to be done now; returns how many jobs left.

        Raises:
            StoreError: the store cannot be read or written.
        """
        while move_requests(self._database) and not self._stopping.wait(_STEP_S):
            pass
        gone = forget_old_jobs(self._database, time.time() - self._keep)
        forget_old_runs(self._database, time.time() - self._keep)
        while self._database.give_back() and not self._stopping.wait(_STEP_S):
            pass
        return gone

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if gone := self.tidy():
                    logger.info("%d jobs that ended long ago left the store", gone)
            except StoreError as error:
                logger.error("the store could not be tidied: %s", error)
            except Exception:  # thread boundary: the next time may go better
                logger.exception("the store could not be tidied")
            self._stopping.wait(_PAUSE_S)
