"""Runs and what became of their tasks, beside the tracks in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from backend.runs.prompt_sources import Prompts
from backend.runs.run_request import RunRequest, read_run_request
from backend.tracking.database import Database

_RUN = "id, project, request, state, message, model, total, created, updated, begun, ended"
_TASK = "position, task, state, message, score, prediction, starts, mark, found"
_INSERTED_AT_ONCE = 5_000
_UNFINISHED = "state NOT IN ('done', 'failed', 'cancelled')"


class RunState(StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for something that is not there; its message says for what
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come, unless it is resumed."""
        return self in (RunState.DONE, RunState.FAILED, RunState.CANCELLED)

    @property
    def at_work(self) -> bool:
        return self in (RunState.RUNNING, RunState.WAITING)


class TaskState(StrEnum):
    """What became of a task of a run."""

    QUEUED = "queued"
    STORED = "stored"
    PLANNED = "planned"  # in a dry run: would be worked on
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """A run as it stands.

    Attributes:
        model: the model version whose predictions it makes; "" before it begins.
        total: how many tasks it has; None until they are listed.
        begun, ended: seconds since 1970; None as long as it has not.
    """

    id: str
    request: RunRequest
    state: RunState
    message: str
    model: str
    total: int | None
    created: float
    updated: float
    begun: float | None
    ended: float | None


@dataclass(frozen=True)
class Mark:
    """Written before a prediction is sent to Label Studio, which may take it without being able to
    say so.

    Attributes:
        before: the predictions of this model that the task had until then.
        digests: name the regions that were sent, or are about to be.
        doubtful: an attempt ended without an answer, so another one may yet arrive.
    """

    before: tuple[int, ...]
    digests: tuple[str, ...]
    doubtful: bool = False


@dataclass(frozen=True)
class TaskResult:
    """What a run found on a task.

    Attributes:
        objects: by label: how many, the sum of their worst stretches, and the worst of these.
        looks: object, label, page or frame (None on an image), reason; of the first ones.
        more_looks: how many are left out.
        pictures, frames: how many the model looked at, or would.
        left_out: what the source found and left out, in words.
    """

    objects: Mapping[str, tuple[int, float, float]] = field(default_factory=dict)
    looks: Sequence[tuple[str, str, int | None, str]] = ()
    more_looks: int = 0
    pictures: int = 0
    frames: int = 0
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class RunTask:
    """A task of a run as it stands.

    Attributes:
        starts: of the work on it, since it last got on: one that ends the process is given up.
    """

    position: int
    task: int
    state: TaskState
    message: str = ""
    score: float | None = None
    prediction: int | None = None
    starts: int = 0
    mark: Mark | None = None
    found: TaskResult = field(default_factory=TaskResult)


class RunStore:
    """Every method raises ``StoreError`` where the file cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, run_id: str, request: RunRequest) -> Run:
        """Queue a run."""
        now = time.time()
        self._database.write(
            "INSERT INTO runs (id, project, request, state, created, updated) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *(run_id, request.project, json.dumps(request.as_json()), RunState.QUEUED, now, now),
        )
        return self.get(run_id)

    def get(self, run_id: str) -> Run:
        """The run called ``run_id``. Raises ``KeyError`` where there is none."""
        rows = self._database.read(f"SELECT {_RUN} FROM runs WHERE id = ?", run_id)  # noqa: S608
        if not rows:
            raise KeyError(run_id)
        return _run(rows[0])

    def runs(
        self, *, project: int | None = None, unfinished: bool = False, limit: int = -1
    ) -> list[Run]:
        """The newest first."""
        words = _UNFINISHED if unfinished else "TRUE"
        rows = self._database.read(
            f"SELECT {_RUN} FROM runs WHERE {words} AND project = COALESCE(?, project) "  # noqa: S608
            "ORDER BY created DESC LIMIT ?",
            *(project, limit),
        )
        return [_run(row) for row in rows]

    def name_model(self, run_id: str, model: str) -> None:
        """Whose predictions a run makes."""
        self._database.write("UPDATE runs SET model = ? WHERE id = ?", model, run_id)

    def turn(
        self, run_id: str, before: Iterable[RunState], state: RunState, message: str = ""
    ) -> bool:
        """Bring a run from one of some states to another, whoever else tries; whether it did."""
        now = time.time()
        begun, ended = (now if each else None for each in (state is RunState.RUNNING, state.ended))
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE runs SET state = ?, message = ?, updated = ?, begun = COALESCE(begun, ?), "
                "ended = ? WHERE id = ? AND state IN (SELECT value FROM json_each(?))",
                (state, message, now, begun, ended, run_id, json.dumps(list(before))),
            )
            return changed.rowcount > 0

    def say(self, run_id: str, state: RunState, message: str) -> None:
        """What a run at work does now, unless it was told otherwise meanwhile."""
        self._database.write(
            "UPDATE runs SET state = ?, message = ?, updated = ? "
            "WHERE id = ? AND state IN ('running', 'waiting')",
            *(state, message, time.time(), run_id),
        )

    def states(self) -> dict[str, int]:
        """How many runs are in each state."""
        rows = self._database.read("SELECT state, COUNT(*) AS runs FROM runs GROUP BY state")
        counted = {row["state"]: row["runs"] for row in rows}
        return {str(state): counted.get(state, 0) for state in RunState}

    # Tasks.

    def put_tasks(self, run_id: str, tasks: Sequence[int]) -> None:
        """The tasks that a run is about, in the order in which they are worked on: all or none."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM run_tasks WHERE run = ?", (run_id,))
            for start in range(0, len(tasks), _INSERTED_AT_ONCE):
                connection.executemany(
                    "INSERT INTO run_tasks (run, position, task, state) VALUES (?, ?, ?, 'queued')",
                    [
                        (run_id, start + number, task)
                        for number, task in enumerate(tasks[start : start + _INSERTED_AT_ONCE])
                    ],
                )
            connection.execute(
                "UPDATE runs SET total = ?, updated = ? WHERE id = ?",
                (len(tasks), time.time(), run_id),
            )

    def counts(self, run_id: str) -> dict[str, int]:
        """How many tasks are in each state."""
        query = "SELECT state, COUNT(*) AS tasks FROM run_tasks WHERE run = ? GROUP BY state"
        found = {row["state"]: row["tasks"] for row in self._database.read(query, run_id)}
        return {str(state): found.get(state, 0) for state in TaskState}

    def next_tasks(self, run_id: str, limit: int, skipping: Iterable[int] = ()) -> list[RunTask]:
        """The first tasks that are queued, but for those at some positions."""
        rows = self._database.read(
            f"SELECT {_TASK} FROM run_tasks WHERE run = ? AND state = 'queued' AND position "  # noqa: S608
            "NOT IN (SELECT value FROM json_each(?)) ORDER BY position LIMIT ?",
            *(run_id, json.dumps(sorted(skipping)), limit),
        )
        return [_task(row) for row in rows]

    def tasks(
        self, run_id: str, *, state: TaskState | None = None, after: int = -1, limit: int = 500
    ) -> list[RunTask]:
        """Tasks behind the position ``after``, in order."""
        rows = self._database.read(
            f"SELECT {_TASK} FROM run_tasks WHERE run = ? AND position > ? "  # noqa: S608
            "AND state = COALESCE(?, state) ORDER BY position LIMIT ?",
            *(run_id, after, state, limit),
        )
        return [_task(row) for row in rows]

    def doubtful(self, run_id: str) -> list[RunTask]:
        """Stored tasks to which an attempt without an answer may still add a prediction."""
        rows = self._database.read(
            f"SELECT {_TASK} FROM run_tasks WHERE run = ? AND state = 'stored' "  # noqa: S608
            "AND json_extract(mark, '$.doubtful')",
            run_id,
        )
        return [_task(row) for row in rows]

    def begin_task(self, run_id: str, position: int) -> None:
        """Work on a task is about to begin."""
        self._set(run_id, position, "starts = starts + 1")

    def got_on(self, run_id: str, position: int) -> None:
        """What was begun has got on, or was put down whole: it did not end the process."""
        self._set(run_id, position, "starts = 0")

    def mark_task(self, run_id: str, position: int, mark: Mark) -> None:
        """Keep what is about to be sent; it is on the disk when this returns."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE run_tasks SET mark = ? WHERE run = ? AND position = ?",
                (json.dumps(asdict(mark)), run_id, position),
            )

    def end_task(
        self,
        run_id: str,
        position: int,
        state: TaskState,
        message: str,
        *,
        score: float | None = None,
        prediction: int | None = None,
        mark: Mark | None = None,
        found: TaskResult | None = None,
    ) -> None:
        """The last word on a task; what its source answered is forgotten."""
        kept, content = (each and json.dumps(asdict(each)) for each in (mark, found))
        with self._database.transaction(wait_for_disk=False) as connection:
            connection.execute(
                "UPDATE run_tasks SET state = ?, message = ?, score = ?, prediction = ?, "
                "mark = COALESCE(?, mark), found = ? WHERE run = ? AND position = ?",
                (state, message, score, prediction, kept, content, run_id, position),
            )
            connection.execute(
                "DELETE FROM run_answers WHERE run = ? AND position = ?", (run_id, position)
            )

    def queue_again(self, run_id: str) -> int:
        """Put failed tasks among those that are queued; returns how many."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE run_tasks SET state = 'queued', message = '', starts = 0 "
                "WHERE run = ? AND state = 'failed'",
                (run_id,),
            )
            return changed.rowcount

    def _set(self, run_id: str, position: int, columns: str, *values: Any) -> None:
        with self._database.transaction(wait_for_disk=False) as connection:
            connection.execute(
                f"UPDATE run_tasks SET {columns} WHERE run = ? AND position = ?",  # noqa: S608
                (*values, run_id, position),
            )

    # What sources answered.

    def answer(self, run_id: str, position: int, question: str) -> Prompts | None:
        """What a source answered about a task that is under way."""
        query = "SELECT answer FROM run_answers WHERE run = ? AND position = ? AND question = ?"
        rows = self._database.read(query, run_id, position, question)
        return Prompts(**json.loads(zlib.decompress(rows[0]["answer"]))) if rows else None

    def keep_answer(self, run_id: str, position: int, question: str, answer: Prompts) -> None:
        """See ``answer``."""
        content = zlib.compress(json.dumps(asdict(answer)).encode(), 1)
        with self._database.transaction(wait_for_disk=False) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO run_answers VALUES (?, ?, ?, ?)",
                (run_id, position, question, content),
            )


def _run(row: sqlite3.Row) -> Run:
    read = {"request": read_run_request(json.loads(row["request"]))}
    values = {name: row[name] for name in row.keys() if name not in ("project", "request")}  # noqa: SIM118
    return Run(**{**values, **read, "state": RunState(row["state"])})


def _task(row: sqlite3.Row) -> RunTask:
    mark, found = (json.loads(row[name]) if row[name] else None for name in ("mark", "found"))
    return RunTask(
        **{name: row[name] for name in row.keys() if name not in ("mark", "found", "state")},  # noqa: SIM118
        state=TaskState(row["state"]),
        mark=Mark(tuple(mark["before"]), tuple(mark["digests"]), mark["doubtful"])
        if mark
        else None,
        found=TaskResult(**found) if found else TaskResult(),
    )
