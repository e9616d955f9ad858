"""What leaves the store, and when: jobs that ended long ago, projects on demand, free room."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.tracking import database, purge
from backend.tracking.purge import Housekeeping, forget_old_jobs, forget_project
from backend.tracking.store import TrackedMask, TrackStore
from tests.tracking.test_requests import count
from tests.tracking.test_schema import old_store
from tests.waiting import until

DAY = 86_400.0
NOISE = PackedMask.pack(np.random.default_rng(0).random((200, 300)) < 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tracks.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[TrackStore]:
    with closing(TrackStore(path)) as made:
        yield made


def add(
    store: TrackStore,
    name: str,
    *,
    track: str | None = None,
    project: str = "12.100",
    state: JobState = JobState.DONE,
    days: float = 40.0,
    deliver: bool = False,
    masks: int = 1,
) -> None:
    """A job that found ``masks``, and changed last so many days ago."""
    track = track or f"track of {name}"
    request = {"project": project, "task": {"id": name}, "label_config": "<View/>"}
    store.add_job(name, track, name, request, deliver=deliver)
    found = [TrackedMask("cat", frame, "a", NOISE, 0.5, 2.0) for frame in range(masks)]
    store.put_masks(track, found, job_id=name, done=masks)
    store.put_masks(track, found, job_id=name, done=masks)  # the first are the earlier ones
    store.describe(track, "cat", {"labels": ["Cat"]})
    store.put_generation(track, "cat", 0, 1)
    store.claim(track, f"base of {track}", "1")
    store.update_job(name, state=state)
    store.database.write("UPDATE jobs SET updated = ? WHERE id = ?", time.time() - days * DAY, name)


def names(store: TrackStore) -> set[str]:
    return {job.id for job in store.jobs()}


def forget(store: TrackStore) -> int:
    return forget_old_jobs(store.database, time.time() - 30 * DAY)


def test_jobs_that_ended_long_ago_leave_with_all_that_they_had(store: TrackStore) -> None:
    add(store, "old")
    add(store, "failed long ago", state=JobState.FAILED)
    add(store, "young", days=20)
    add(store, "goes on", state=JobState.RUNNING)
    add(store, "not delivered yet", deliver=True)
    assert forget(store) == 2
    assert names(store) == {"young", "goes on", "not delivered yet"}
    for table in (*purge.TABLES_OF_TRACKS[:-1], "requests"):
        assert count(store, table) == 3, table
    assert count(store, "shared") == 4  # three tasks and their label config
    assert all(job.request["task"]["id"] == job.id for job in store.jobs())
    store.settle("not delivered yet")
    assert forget(store) == 1


def test_what_was_found_stays_with_the_last_job_of_its_track(store: TrackStore) -> None:
    add(store, "old", track="track")
    add(store, "young", track="track", days=1)
    assert forget(store) == 1
    assert len(store.masks("track")) == 1


def test_many_leave_in_steps(store: TrackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "_AT_ONCE", 2)
    for number in range(5):
        add(store, str(number))
    assert forget(store) == 5
    assert names(store) == set()


def test_a_project_is_forgotten_on_demand(store: TrackStore) -> None:
    add(store, "one", days=0)
    add(store, "two", days=0, deliver=True)
    add(store, "goes on", days=0, state=JobState.RUNNING)
    add(store, "of another", project="120.100", days=0)
    assert forget_project(store.database, 12) == (2, 1)
    assert names(store) == {"goes on", "of another"}
    assert store.due() == []
    assert store.masks("track of one") == []


def test_a_project_of_an_unnumbered_store_is_forgotten(path: Path) -> None:
    old_store(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE jobs SET request = replace(request, 'http://ls#12', '12.1')")
    with closing(TrackStore(path)) as store:
        assert forget_project(store.database, 12) == (1, 1)
        assert names(store) == {"ran"}


@pytest.mark.parametrize("earlier", [False, True])
def test_the_room_is_given_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, earlier: bool
) -> None:
    """In a file of an earlier version too, once it is worth to write it anew."""
    if earlier:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    monkeypatch.setattr(database, "_STEP_PAGES", 200)
    monkeypatch.setattr(database, "_WORTH_REWRITING", 1 << 20)
    with closing(TrackStore(path)) as store:
        add(store, "old", masks=60)
        before = store.database.sizes["tracks"]
        Housekeeping(store.database, 30 * DAY).tidy()
        assert store.database.sizes["tracks_free"] == 0
        assert store.database.sizes["tracks"] < before / 10
        add(store, "new", masks=2)
        assert len(store.masks("track of new")) == 2
    assert path.stat().st_size < before / 10


def test_housekeeping_begins_with_the_service(store: TrackStore) -> None:
    add(store, "old")
    housekeeping = Housekeeping(store.database, 30 * DAY)
    housekeeping.start()
    until(lambda: names(store) == set())
    housekeeping.close()


def test_nothing_leaves_where_jobs_are_kept_for_ever(store: TrackStore) -> None:
    add(store, "old", days=10_000)
    assert Housekeeping(store.database, float("inf")).tidy() == 0
    assert names(store) == {"old"}
