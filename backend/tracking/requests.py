"""The requests of jobs: apart from the jobs, compressed, and what they share only once.

A request says all that a rerun needs, the task's data and the label config too: up to megabytes,
and the same for every job on a task. Whoever lists jobs reads none of it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from backend.tracking.database import Database, StoreError

_SHARED = ("task", "label_config")  # kept once for all jobs
_MOVED_AT_ONCE = 20


class StoredRequest(Mapping[str, Any]):
    """A job's request, read when it is looked into.

    Raises:
        StoreError: it cannot be read, or the job was forgotten.
    """

    def __init__(self, database: Database, job_id: str) -> None:
        self._database, self._job_id = database, job_id

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    @cached_property
    def _content(self) -> dict[str, Any]:
        for read in (self._read, self._read_of_earlier_version, self._read):  # moved in between
            if (content := read()) is not None:
                return content
        raise StoreError(f"Job {self._job_id} was forgotten meanwhile.")

    def _read(self) -> dict[str, Any] | None:
        rows = self._database.read(
            "SELECT own, tasks.content AS task, configs.content AS label_config FROM requests "
            "LEFT JOIN shared AS tasks ON tasks.digest = requests.task "
            "LEFT JOIN shared AS configs ON configs.digest = requests.label_config "
            "WHERE job = ?",
            self._job_id,
        )
        for row in rows:
            shared = {name: _read(row[name]) for name in _SHARED if row[name] is not None}
            return {**_read(row["own"]), **shared}
        return None

    def _read_of_earlier_version(self) -> dict[str, Any] | None:
        query = "SELECT request FROM jobs WHERE id = ? AND kind IS NULL"
        rows = self._database.read(query, self._job_id)
        return json.loads(rows[0]["request"]) if rows else None


def write_request(connection: sqlite3.Connection, job_id: str, request: Mapping[str, Any]) -> None:
    """Store the request of a job that is among the jobs already."""
    own = {name: value for name, value in request.items() if name not in _SHARED}
    digests = [_share(connection, request[name]) if name in request else None for name in _SHARED]
    connection.execute(
        "INSERT INTO requests (job, own, task, label_config) VALUES (?, ?, ?, ?)",
        (job_id, zlib.compress(json.dumps(own).encode()), *digests),
    )
    task = request.get("task")
    number = task.get("id") if isinstance(task, Mapping) else None
    told = str(request.get("project", "")), json.dumps(number), str(request.get("kind", ""))
    connection.execute(
        "UPDATE jobs SET project = ?, task = ?, kind = ?, request = '' WHERE id = ?",
        (*told, job_id),
    )


def move_requests(database: Database) -> bool:
    """Move some of the requests that earlier versions kept in the rows of jobs; False where there
    are none left."""
    with database.transaction(wait_for_disk=False) as connection:
        query = "SELECT id, request FROM jobs WHERE kind IS NULL LIMIT ?"
        rows = connection.execute(query, (_MOVED_AT_ONCE,)).fetchall()
        for row in rows:
            write_request(connection, row["id"], json.loads(row["request"]))
    return bool(rows)


def _share(connection: sqlite3.Connection, value: Any) -> str:
    """Store a value that other requests may have, too; returns its name."""
    content = json.dumps(value).encode()
    digest = hashlib.sha256(content).hexdigest()[:32]
    known = connection.execute("SELECT 1 FROM shared WHERE digest = ?", (digest,)).fetchone()
    if known is None:
        connection.execute("INSERT INTO shared VALUES (?, ?)", (digest, zlib.compress(content)))
    return digest


def _read(content: bytes) -> Any:
    return json.loads(zlib.decompress(content))
