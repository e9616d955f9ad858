"""Stores of earlier versions are gone on with, and those of later ones left alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from backend.doctor.machine import start_problems
from backend.engine.packed_masks import PackedMask
from backend.settings import Settings
from backend.tracking import database, schema, store
from backend.tracking.database import StoreError
from backend.tracking.schema import MIGRATIONS, SchemaError
from backend.tracking.store import TrackedMask, TrackStore
from backend.wiring import Wiring

# As the last version wrote it whose schema had no number.
UNNUMBERED = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    track TEXT NOT NULL,
    digest TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    deliver INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE INDEX jobs_by_digest ON jobs (digest, state);
CREATE TABLE masks (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    frame INTEGER NOT NULL,
    anchor TEXT NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    runs BLOB NOT NULL,
    iou REAL NOT NULL,
    presence REAL NOT NULL,
    prompted INTEGER NOT NULL DEFAULT 0,
    stride INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (track, object, frame)
) WITHOUT ROWID;
CREATE TABLE earlier_masks (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    frame INTEGER NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    runs BLOB NOT NULL,
    PRIMARY KEY (track, object, frame)
) WITHOUT ROWID;
CREATE TABLE due (
    job TEXT PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE delivered (
    prediction INTEGER PRIMARY KEY,
    track TEXT NOT NULL,
    objects TEXT NOT NULL
);
CREATE TABLE generations (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    frame INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (track, object, frame)
) WITHOUT ROWID;
CREATE TABLE objects (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (track, object)
) WITHOUT ROWID;
"""
MASK = PackedMask.pack(np.eye(4, dtype=bool))
REQUEST = {
    "project": "http://ls#12",
    "task": {"id": 7, "data": {"pages": ["a.png", "b.png"]}},
    "label_config": "<View/>",
    "kind": "sequence",
}
DESCRIPTION = {"labels": ["Cat"], "from_name": "label"}


def old_store(path: Path) -> Path:
    """A store of that version: a job that ran, one that was done and is to be delivered, and what
    they found."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(UNNUMBERED)
        job = "INSERT INTO jobs VALUES (?, 'track', ?, ?, ?, ?, 4, '', ?, ?, ?)"
        written = json.dumps(REQUEST)
        connection.execute(job, ("ran", "digest 1", written, "running", 2, 0, 10.0, 11.0))
        connection.execute(job, ("done", "digest 2", written, "done", 4, 1, 20.0, 21.0))
        connection.execute("INSERT INTO due VALUES ('done')")
        for frame in range(3):
            connection.execute(
                "INSERT INTO masks VALUES ('track', 'cat', ?, 'anchor', 4, 4, ?, 0.5, 2.0, ?, 1)",
                (frame, MASK.runs, frame == 0),
            )
        connection.execute(
            "INSERT INTO earlier_masks VALUES ('track', 'cat', 1, 4, 4, ?)", (MASK.runs,)
        )
        connection.execute("INSERT INTO generations VALUES ('track', 'cat', 1, 2)")
        described = json.dumps(DESCRIPTION)
        connection.execute("INSERT INTO objects VALUES ('track', 'cat', ?)", (described,))
        connection.execute("INSERT INTO delivered VALUES (5, 'track', '[\"cat\"]')")
    return path


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def columns(path: Path) -> dict[str, set[tuple[object, ...]]]:
    """By table and index: name, type, not null, default, place in the key of its columns."""
    with closing(sqlite3.connect(path)) as connection:
        named = "SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        return {
            name: {each[1:] for each in connection.execute(f"PRAGMA {kind}_info({name})")}
            for name, kind in connection.execute(named)
        }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tracks.sqlite3"


@pytest.fixture
def upgraded(path: Path) -> Iterator[TrackStore]:
    with closing(TrackStore(old_store(path))) as opened:
        yield opened


def test_what_an_unnumbered_store_holds_is_read(upgraded: TrackStore) -> None:
    done, ran = upgraded.jobs()
    assert (ran.id, ran.state, ran.done, ran.total, ran.deliver) == ("ran", "running", 2, 4, False)
    assert (done.id, done.digest, done.created, done.updated) == ("done", "digest 2", 20.0, 21.0)
    assert ran.request == done.request == REQUEST
    assert upgraded.due() == [done]
    assert upgraded.masks("track") == [
        TrackedMask("cat", frame, "anchor", MASK, 0.5, 2.0, prompted=frame == 0)
        for frame in range(3)
    ]
    assert upgraded.earlier_mask("track", "cat", 1) == MASK
    assert upgraded.generations("track") == {("cat", 1): 2}
    assert upgraded.objects("track") == {"cat": DESCRIPTION}
    assert upgraded.replace_predictions("track", 6, ["cat"]) == [5]


def test_masks_of_an_unnumbered_store_are_measured_once(
    upgraded: TrackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "_MEASURED_AT_ONCE", 2)
        found = upgraded.sightings("track")
    assert [(each.object_id, each.frame, each.area) for each in found] == [
        ("cat", frame, 4) for frame in range(3)
    ]
    assert {(each.box, each.centroid) for each in found} == {((0, 0, 4, 4), (1.5, 1.5))}
    monkeypatch.setattr(PackedMask, "_lengths", None)  # they are not read any more
    assert upgraded.sightings("track") == upgraded.sightings("track", "cat") == found
    assert upgraded.sightings("track", "dog") == []


def test_an_upgraded_store_is_as_a_fresh_one(upgraded: TrackStore, path: Path) -> None:
    fresh = path.with_name("fresh.sqlite3")
    TrackStore(fresh).close()
    assert columns(path) == columns(fresh)
    assert version(path) == version(fresh) == len(MIGRATIONS)


def test_a_store_without_prompted_masks_is_gone_on_with(path: Path) -> None:
    with closing(sqlite3.connect(old_store(path))) as connection, connection:
        for column in ("prompted", "stride"):
            connection.execute(f"ALTER TABLE masks DROP COLUMN {column}")
    with closing(TrackStore(path)) as opened:
        first, *_ = opened.masks("track")
        assert (first.mask, first.prompted, first.stride) == (MASK, False, 1)
        found = TrackedMask("cat", 0, "anchor", MASK, 0.5, 2.0, prompted=True)
        opened.put_masks("track", [found], job_id="", done=0)
        assert opened.masks("track")[0] == found


def test_a_store_of_a_later_version_is_refused(path: Path) -> None:
    TrackStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="written by a later version of the backend"):
        TrackStore(path)
    settings = {"STATE_DIR": str(path.parent), "CACHE_DIR": str(path.parent / "cache")}
    [problem] = start_problems(Wiring(Settings.from_env(settings)))
    assert "start that version again" in problem
    assert path.read_bytes() == before


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE masks ADD COLUMN half INTEGER")
        connection.execute("DELETE FROM masks")
        raise sqlite3.OperationalError("disk full")

    before = columns(old_store(path))

    def upgrade(connection: sqlite3.Connection) -> None:
        schema.migrate(connection, (*MIGRATIONS, half))

    with monkeypatch.context() as patch:
        patch.setattr(database, "migrate", upgrade)
        with pytest.raises(StoreError, match="disk full"):
            TrackStore(path)
    assert (columns(path), version(path)) == (before, 0)
    with closing(TrackStore(path)) as opened:
        assert len(opened.masks("track")) == 3
