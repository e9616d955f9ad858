"""What tracking found and what it is doing, in one SQLite file that survives a kill.

Masks are kept per track (a media of a task), object and frame, as zlib-compressed run
lengths: what a job has finished is there for the next command, for a restart, and for
exports, whoever asked for it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.tracking.database import Database
from backend.tracking.requests import StoredRequest, write_request

# An editor's draft may still show a mask that has just been found anew.
_KEEP_EARLIER = (
    "INSERT OR REPLACE INTO earlier_masks "
    "SELECT track, object, frame, height, width, runs FROM masks"
)
_MASK = (
    "track, object, frame, anchor, height, width, runs, iou, presence, prompted, stride, "
    "elsewhere, area, left_edge, top_edge, right_edge, bottom_edge, centre_x, centre_y"
)
_SIGHTING = _MASK.replace("runs, ", "").replace("track, ", "")
_UNMEASURED = -1  # area of a mask that an earlier version stored
_MEASURED_AT_ONCE = 200
_JOB = (
    "id, track, digest, state, done, total, message, deliver, created, updated, crashes, "
    "under_way, "  # what is not there yet stands in the request, see ``move_requests``
    "COALESCE(project, json_extract(request, '$.project'), '') AS project, "
    "COALESCE(task, json_quote(json_extract(request, '$.task.id'))) AS task, "
    "COALESCE(kind, json_extract(request, '$.kind'), '') AS kind"
)
_UNFINISHED = "state IN ('queued', 'running')"
_PLACE = "track = ? AND object = ? AND frame = ?"


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        request: JSON: everything needed to run it again; read when it is looked into.
        crashes: starts that did not end cleanly since it stored a mask, known at the next start.
        under_way: it was started, and this start has not ended cleanly yet.
        project, task, kind: of the request: Label Studio's ``<id>.<creation time>``, the task's
            id, what is to be done.
    """

    id: str
    track: str
    digest: str
    request: Mapping[str, Any]
    state: JobState
    done: int
    total: int
    message: str
    deliver: bool
    created: float
    updated: float
    crashes: int = 0
    under_way: bool = False
    project: str = ""
    task: int | str | None = None
    kind: str = ""


@dataclass(frozen=True)
class TrackedMask:
    """One object on one frame.

    Attributes:
        anchor: digest of the prompt the mask follows from.
        mask: empty where the object is absent.
        iou: predicted IoU, 0 to 1.
        presence: logit of "the object is there", above 0 for yes.
        prompted: the prompt is on this very frame: a human's box or clicks.
        stride: it comes from a pass that tracked every n-th frame; those between are interpolated.
        elsewhere: as of ``TrackedObject``; False for what an earlier version stored.
    """

    object_id: str
    frame: int
    anchor: str
    mask: PackedMask
    iou: float
    presence: float
    prompted: bool = False
    stride: int = 1
    elsewhere: bool = False

    # What a ``Sighting`` says, too.

    @property
    def height(self) -> int:
        return self.mask.height

    @property
    def width(self) -> int:
        return self.mask.width

    @property
    def area(self) -> int:
        return self.mask.area

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        return self.mask.box

    @property
    def centroid(self) -> tuple[float, float] | None:
        return self.mask.centroid


class Sighting(NamedTuple):
    """One object on one frame, as far as it is known without its pixels: a few hundred bytes.

    Attributes:
        height, width: of the frame, pixels.
        area: pixels of the mask; 0 where the object is absent.
        box, centroid: as of ``PackedMask``.

    The others are as those of ``TrackedMask``.
    """

    object_id: str
    frame: int
    anchor: str
    height: int
    width: int
    area: int
    box: tuple[int, int, int, int] | None
    centroid: tuple[float, float] | None
    iou: float
    presence: float
    prompted: bool
    stride: int
    elsewhere: bool = False


def track_name(project: str, task: object, tag: str, model_version: str, *addresses: str) -> str:
    """Names what is tracked: the same video or pages of the same task by the same model."""
    parts = [project, str(task), tag, model_version, *addresses]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class TrackStore:
    """Jobs and masks; safe to share between threads, and with other processes to read.

    Every method raises ``StoreError`` where the file cannot be read or written, and the first
    ``SchemaError`` where a later version wrote it.
    """

    def __init__(self, path: Path, *, patient: bool = False) -> None:
        """``patient`` as of ``Database``."""
        self.database = Database(path, patient=patient)

    def close(self) -> None:
        """Close the file; everything is written already."""
        self.database.close()

    def add_job(
        self,
        job_id: str,
        track: str,
        digest: str,
        request: Mapping[str, Any],
        *,
        deliver: bool = False,
    ) -> Job:
        """Queue a job, or join one with the same ``digest`` that has not ended; ``deliver`` is as
        if ``ask_delivery`` were called at once.

        What was given up because it ended the process is so if it is asked for again.
        """
        now = time.time()
        with self.database.transaction() as connection:
            same = f"SELECT {_JOB} FROM jobs WHERE digest = ? AND {_UNFINISHED}"  # noqa: S608
            if connection.execute(same, (digest,)).fetchone() is None:
                connection.execute(
                    "INSERT INTO jobs "
                    "(id, track, digest, request, state, created, updated, crashes) "
                    "VALUES (?, ?, ?, '', 'queued', ?, ?, "
                    "(SELECT COALESCE(MAX(crashes + under_way), 0) FROM jobs "
                    "WHERE digest = ? AND state = 'failed'))",
                    (job_id, track, digest, now, now, digest),
                )
                write_request(connection, job_id, request)
            row = connection.execute(same, (digest,)).fetchone()
            if deliver:
                _ask_delivery(connection, row["id"])
        return self._job(row)

    def update_job(self, job_id: str, **changes: Any) -> None:
        """Set columns of a job: state, done, total, message, under_way."""
        allowed = {"state", "done", "total", "message", "under_way"}
        if not changes.keys() <= allowed:
            raise ValueError(f"not columns of a job: {sorted(changes.keys() - allowed)}")
        columns = ", ".join(f"{name} = ?" for name in changes)
        query = f"UPDATE jobs SET {columns}, updated = ? WHERE id = ?"  # noqa: S608 - checked above
        self.database.write(query, *changes.values(), time.time(), job_id)

    def begin_job(self, job_id: str) -> None:
        """A job is about to run. If the process ends before ``under_way`` is set back, the next
        start of the job counts that as a crash; a stored mask forgets those before it."""
        self.database.write(
            "UPDATE jobs SET state = 'running', crashes = crashes + under_way, under_way = 1, "
            "updated = ? WHERE id = ?",
            *(time.time(), job_id),
        )

    def keep_to_weights(self, job: Job, weights: str, places: Iterable[tuple[str, int]]) -> bool:
        """Whether a job has begun with ``weights``, or begins with them. If not, it does from now
        on, and the masks at ``places``, an object and a frame each, follow from no prompt any more:
        they stand until others are put there."""
        mine = "SELECT weights FROM jobs WHERE id = ?"
        with self.database.transaction() as connection:
            [before] = connection.execute(mine, (job.id,)).fetchone()
            if before == weights:
                return True
            connection.execute("UPDATE jobs SET weights = ? WHERE id = ?", (weights, job.id))
            if not before:
                return True
            connection.executemany(
                f"UPDATE masks SET anchor = '' WHERE {_PLACE}",  # noqa: S608
                [(job.track, *place) for place in places],
            )
        return False

    def job(self, job_id: str) -> Job | None:
        """The job called ``job_id``."""
        rows = self.database.read(f"SELECT {_JOB} FROM jobs WHERE id = ?", job_id)  # noqa: S608
        return self._job(rows[0]) if rows else None

    def jobs(
        self,
        *,
        track: str | None = None,
        kind: str | None = None,
        project: int | None = None,
        unfinished: bool = False,
        limit: int = -1,
    ) -> list[Job]:
        """Jobs, the newest first: of one track, of one kind, of the project with Label Studio's
        number, only those that have not ended; at most ``limit`` where that is not negative."""
        asked = {
            "COALESCE(project, json_extract(request, '$.project'), '') LIKE ? || '.%'": project,
            "track = ?": track,
            "COALESCE(kind, json_extract(request, '$.kind'), '') = ?": kind,
        }
        given = {words: value for words, value in asked.items() if value is not None}
        words = " AND ".join([*given, *([_UNFINISHED] if unfinished else [])]) or "TRUE"
        query = f"SELECT {_JOB} FROM jobs WHERE {words} ORDER BY created DESC LIMIT ?"  # noqa: S608
        return [self._job(row) for row in self.database.read(query, *given.values(), limit)]

    def _job(self, row: sqlite3.Row) -> Job:
        """A row of ``_JOB``, whose columns are named as the attributes."""
        read = {
            "request": StoredRequest(self.database, row["id"]),
            "state": JobState(row["state"]),
            "task": json.loads(row["task"]),
        }
        flags = {name: bool(row[name]) for name in ("deliver", "under_way")}
        return Job(**{**dict(row), **read, **flags})

    def states(self) -> dict[str, int]:
        """How many jobs are in each state."""
        rows = self.database.read("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state")
        counted = {row["state"]: row["jobs"] for row in rows}
        return {str(state): counted.get(state, 0) for state in JobState}

    # Results on their way to Label Studio.

    def ask_delivery(self, job_id: str) -> bool:
        """Have a job's result stored in Label Studio when it ends; False if it has ended.

        One statement, so that a job that ends at the same time is either asked or seen to have
        ended. It is due from then on, until ``settle``.
        """
        with self.database.transaction() as connection:
            return _ask_delivery(connection, job_id)

    def make_due(self, job_id: str) -> None:
        """The result of a job is to be delivered, whether it has ended or not."""
        self.database.write("INSERT OR IGNORE INTO due VALUES (?)", job_id)

    def settle(self, job_id: str) -> None:
        """Nothing of the job is to be delivered any more."""
        self.database.write("DELETE FROM due WHERE job = ?", job_id)

    def due(self) -> list[Job]:
        """Jobs that ended, but whose result was not delivered; the oldest first."""
        rows = self.database.read(
            f"SELECT {_JOB} FROM jobs JOIN due ON due.job = jobs.id "  # noqa: S608
            "WHERE state IN ('done', 'failed') ORDER BY created"
        )
        return [self._job(row) for row in rows]

    def replace_predictions(self, track: str, prediction: int, objects: Iterable[str]) -> list[int]:
        """Remember the prediction of Label Studio that shows ``objects`` of a track now.

        Returns:
            The earlier ones that show nothing else, which are forgotten here.
        """
        names = set(objects)
        with self.database.transaction() as connection:
            outdated = _forget_predictions(connection, track, names)
            connection.execute(
                "INSERT OR REPLACE INTO delivered VALUES (?, ?, ?)",
                (prediction, track, json.dumps(sorted(names))),
            )
        return outdated

    def forget_predictions(self, track: str, objects: Iterable[str]) -> list[int]:
        """The predictions of Label Studio that show nothing but ``objects`` of a track, which are
        forgotten here."""
        with self.database.transaction() as connection:
            return _forget_predictions(connection, track, set(objects))

    # What was found.

    def put_masks(self, track: str, masks: list[TrackedMask], *, job_id: str, done: int) -> None:
        """Store what was found on a frame together with the job's progress: both or neither.

        The disk is not waited for, which takes longer than all else that is done with a mask. A
        machine that loses its power may so lose the last frames, and their part of the progress:
        the job goes on before them. A process that is killed loses nothing.
        """
        rows = [_row(track, each) for each in masks]
        with self.database.transaction(wait_for_disk=False) as connection:
            connection.executemany(f"{_KEEP_EARLIER} WHERE {_PLACE}", [row[:3] for row in rows])
            places = ", ".join("?" * len(rows[0])) if rows else ""
            connection.executemany(
                f"INSERT OR REPLACE INTO masks ({_MASK}) VALUES ({places})",  # noqa: S608
                rows,
            )
            connection.execute(
                "UPDATE jobs SET done = ?, updated = ?, crashes = 0 WHERE id = ?",
                (done, time.time(), job_id),
            )

    def mask(self, track: str, object_id: str, frame: int) -> TrackedMask | None:
        """What was found of an object on a frame."""
        rows = self.database.read(f"SELECT * FROM masks WHERE {_PLACE}", track, object_id, frame)  # noqa: S608
        return _tracked_mask(rows[0]) if rows else None

    def has_masks(self, track: str, frame: int, objects: Sequence[str]) -> bool:
        """Whether something is stored of each of ``objects`` on a frame."""
        [row] = self.database.read(
            "SELECT COUNT(*) FROM json_each(?) CROSS JOIN masks "  # in this order, by the key
            "ON object = value AND track = ? AND frame = ?",
            *(json.dumps(objects), track, frame),
        )
        return bool(row[0] == len(objects))

    def masks_on(self, track: str, frame: int, objects: Sequence[str]) -> list[TrackedMask]:
        """What was found of ``objects`` on a frame."""
        rows = self.database.read(
            "SELECT masks.* FROM json_each(?) CROSS JOIN masks "  # in this order, by the key
            "ON object = value AND track = ? AND frame = ?",
            *(json.dumps(objects), track, frame),
        )
        return [_tracked_mask(row) for row in rows]

    def masks(self, track: str, object_id: str | None = None) -> list[TrackedMask]:
        """What was found on a track, or of one of its objects; in order of object and frame."""
        query, place = "SELECT * FROM masks WHERE track = ?", [track]
        if object_id is not None:
            query, place = query + " AND object = ?", [track, object_id]
        rows = self.database.read(query + " ORDER BY object, frame", *place)
        return [_tracked_mask(row) for row in rows]

    def sightings(self, track: str, object_id: str | None = None) -> list[Sighting]:
        """What is known of the masks of a track, or of one of its objects, without reading them;
        in order of object and frame."""
        query = f"SELECT {_SIGHTING} FROM masks WHERE track = ? AND object = COALESCE(?, object) "  # noqa: S608
        query += "ORDER BY object, frame"
        found = [_sighting(row) for row in self.database.rows(query, track, object_id)]
        unmeasured = [(each.object_id, each.frame) for each in found if each.area == _UNMEASURED]
        if unmeasured:
            for start in range(0, len(unmeasured), _MEASURED_AT_ONCE):
                self._measure(track, unmeasured[start : start + _MEASURED_AT_ONCE])
            found = [_sighting(row) for row in self.database.rows(query, track, object_id)]
        return found

    def _measure(self, track: str, places: list[tuple[str, int]]) -> None:
        with self.database.transaction(wait_for_disk=False) as connection:
            for place in places:
                query = f"SELECT height, width, runs FROM masks WHERE {_PLACE}"  # noqa: S608
                row = connection.execute(query, (track, *place)).fetchone()
                if row is not None:
                    connection.execute(
                        "UPDATE masks SET area = ?, left_edge = ?, top_edge = ?, right_edge = ?, "  # noqa: S608
                        f"bottom_edge = ?, centre_x = ?, centre_y = ? WHERE {_PLACE}",
                        (*_measured(_mask(row)), track, *place),
                    )

    def earlier_mask(self, track: str, object_id: str, frame: int) -> PackedMask | None:
        """What was found there before what ``mask`` gives."""
        query = f"SELECT * FROM earlier_masks WHERE {_PLACE}"  # noqa: S608
        rows = self.database.read(query, track, object_id, frame)
        return _mask(rows[0]) if rows else None

    def anchors(self, track: str, *, stride: int | None = None) -> dict[tuple[str, int], str]:
        """By object and frame: the digest of the prompt that the stored mask follows from; without
        what was tracked with a larger stride than ``stride``."""
        query = "SELECT object, frame, anchor FROM masks WHERE track = ?"
        rows = self.database.read(query + " AND stride <= COALESCE(?, stride)", track, stride)
        return {(row["object"], row["frame"]): row["anchor"] for row in rows}

    def generations(self, track: str) -> dict[tuple[str, int], int]:
        """By object and frame: how often the region that shows it was replaced by another, where
        it ever was."""
        rows = self.database.read("SELECT * FROM generations WHERE track = ?", track)
        return {(row["object"], row["frame"]): row["generation"] for row in rows}

    def put_generation(self, track: str, object_id: str, frame: int, generation: int) -> None:
        """See ``generations``; they only rise."""
        self.database.write(
            "INSERT INTO generations VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET generation = MAX(generation, excluded.generation)",
            *(track, object_id, frame, generation),
        )

    def describe(self, track: str, object_id: str, description: Mapping[str, Any]) -> None:
        """Remember what an object is (labels, names): JSON, for later requests and exports."""
        values = track, object_id, json.dumps(description)
        self.database.write("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", *values)

    def objects(self, track: str) -> dict[str, dict[str, Any]]:
        """The objects of a track with their descriptions."""
        rows = self.database.read("SELECT * FROM objects WHERE track = ?", track)
        return {row["object"]: json.loads(row["description"]) for row in rows}

    def owners(self, base: str) -> dict[str, str]:
        """The tracks of one medium of one task, each with its owner; "" for one that nobody has
        claimed."""
        rows = self.database.read("SELECT track, owner FROM owners WHERE base = ?", base)
        return {row["track"]: row["owner"] for row in rows}

    def claim(self, track: str, base: str, owner: str) -> bool:
        """Make ``owner`` the owner of a track, if it has none; returns whether it has that one."""
        self.database.write(
            "INSERT INTO owners VALUES (?, ?, ?) "
            "ON CONFLICT (track) DO UPDATE SET owner = excluded.owner WHERE owner = ''",
            *(track, base, owner),
        )
        return self.owners(base)[track] == owner

    def forget(self, track: str) -> None:
        """Drop everything that is known of a track; its jobs stay as a record."""
        with self.database.transaction() as connection:
            for table in ("masks", "earlier_masks", "objects"):
                connection.execute(f"DELETE FROM {table} WHERE track = ?", (track,))  # noqa: S608
            connection.execute(
                "DELETE FROM due WHERE job IN (SELECT id FROM jobs WHERE track = ?)", (track,)
            )

    def forget_ended(self, kind: str, before: float) -> None:
        """Drop what was found by jobs of a kind, on tracks whose jobs all ended before a moment
        (seconds since 1970); the jobs stay as a record."""
        ended = (
            "SELECT track FROM jobs WHERE kind = ? GROUP BY track "  # noqa: S608
            f"HAVING MAX(updated) < ? AND NOT MAX({_UNFINISHED})"
        )
        with self.database.transaction(wait_for_disk=False) as connection:
            for table in ("masks", "earlier_masks", "objects"):
                connection.execute(
                    f"DELETE FROM {table} WHERE track IN ({ended})",  # noqa: S608
                    (kind, before),
                )

    def forget_masks(self, track: str) -> None:
        """Drop what was found on a track, and keep what its objects are."""
        with self.database.transaction() as connection:
            connection.execute(f"{_KEEP_EARLIER} WHERE track = ?", (track,))
            connection.execute("DELETE FROM masks WHERE track = ?", (track,))


def _ask_delivery(connection: sqlite3.Connection, job_id: str) -> bool:
    query = f"UPDATE jobs SET deliver = 1 WHERE id = ? AND {_UNFINISHED}"  # noqa: S608
    asked = connection.execute(query, (job_id,)).rowcount > 0
    if asked:
        connection.execute("INSERT OR IGNORE INTO due VALUES (?)", (job_id,))
    return asked


def _forget_predictions(connection: sqlite3.Connection, track: str, names: set[str]) -> list[int]:
    rows = connection.execute("SELECT * FROM delivered WHERE track = ?", (track,))
    found = [row["prediction"] for row in rows if names >= set(json.loads(row["objects"]))]
    connection.executemany(
        "DELETE FROM delivered WHERE prediction = ?", [(number,) for number in found]
    )
    return found


def _row(track: str, found: TrackedMask) -> tuple[Any, ...]:
    place = track, found.object_id, found.frame, found.anchor
    mask = found.mask.height, found.mask.width, found.mask.runs
    how = found.iou, found.presence, found.prompted, found.stride, found.elsewhere
    return (*place, *mask, *how, *_measured(found.mask))


def _measured(mask: PackedMask) -> tuple[float | None, ...]:
    """The last columns of ``_MASK``."""
    box, centroid = mask.box or (None,) * 4, mask.centroid or (None,) * 2
    return (mask.area, *box, *centroid)


def _sighting(row: sqlite3.Row) -> Sighting:
    name, frame, anchor, height, width, iou, presence, prompted, stride, elsewhere, *measured = row
    area, x0, y0, x1, y1, x, y = measured
    box, centroid = ((x0, y0, x1, y1), (x, y)) if area else (None, None)
    shape = height, width, _UNMEASURED if area is None else area, box, centroid
    how = iou, presence, bool(prompted), stride, bool(elsewhere)
    return Sighting(name, frame, anchor, *shape, *how)


def _tracked_mask(row: sqlite3.Row) -> TrackedMask:
    return TrackedMask(
        row["object"],
        row["frame"],
        row["anchor"],
        _mask(row),
        row["iou"],
        row["presence"],
        prompted=bool(row["prompted"]),
        stride=row["stride"],
        elsewhere=bool(row["elsewhere"]),
    )


def _mask(row: sqlite3.Row) -> PackedMask:
    return PackedMask(row["runs"], row["height"], row["width"])
