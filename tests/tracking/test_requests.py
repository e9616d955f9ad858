"""Requests of jobs: kept once, read by those who need them only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.job_state import JobState
from backend.tracking import requests
from backend.tracking.database import StoreError
from backend.tracking.requests import move_requests
from backend.tracking.store import TrackStore
from tests.tracking.test_schema import REQUEST, old_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TrackStore]:
    with closing(TrackStore(tmp_path / "tracks.sqlite3")) as made:
        yield made


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(content: bytes) -> Any:
        raise AssertionError("a request was read")

    monkeypatch.setattr(requests, "_read", read)


def count(store: TrackStore, table: str) -> int:
    return int(store.database.read(f"SELECT COUNT(*) FROM {table}")[0][0])


@pytest.mark.parametrize(
    "request_", [{}, REQUEST, {"task": None}, {"project": "1.100", "objects": [{"id": "é"}]}]
)
def test_a_request_comes_back_as_it_was(store: TrackStore, request_: dict[str, Any]) -> None:
    store.add_job("job", "track", "digest", request_)
    found = store.job("job")
    assert found is not None
    assert found.request == request_


def test_jobs_on_one_task_share_it(store: TrackStore) -> None:
    for number in range(5):
        store.add_job(str(number), "track", str(number), {**REQUEST, "first": number})
    assert count(store, "requests") == 5
    assert count(store, "shared") == 2  # the task, and the label config
    assert [job.request["first"] for job in store.jobs()] == [4, 3, 2, 1, 0]


@pytest.mark.usefixtures("unread")
def test_no_request_is_read_to_list_jobs(store: TrackStore) -> None:
    for number in range(5):
        store.add_job(str(number), f"track {number % 2}", str(number), REQUEST)
        store.update_job(str(number), state=JobState.DONE)
    store.add_job("6", "track 0", "6", {**REQUEST, "kind": "video"}, deliver=True)
    first, second = store.jobs(limit=2)
    assert (first.id, first.project, first.task, first.kind) == ("6", "http://ls#12", 7, "video")
    assert second.id == "4"
    assert [job.id for job in store.jobs(unfinished=True)] == ["6"]
    assert [job.id for job in store.jobs(kind="sequence", track="track 0")] == ["4", "2", "0"]


def test_requests_of_an_unnumbered_store_are_moved_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(TrackStore(old_store(tmp_path / "tracks.sqlite3"))) as store:
        before = store.jobs()
        assert [job.id for job in store.jobs(kind="sequence")] == ["done", "ran"]
        assert store.jobs(kind="video") == []
        monkeypatch.setattr(requests, "_MOVED_AT_ONCE", 1)
        assert [move_requests(store.database) for _ in range(3)] == [True, True, False]
        assert store.jobs() == before
        assert count(store, "shared") == 2
        [row] = store.database.read("SELECT SUM(LENGTH(request)) AS length FROM jobs")
        assert row["length"] == 0


def test_a_job_that_was_forgotten_meanwhile_is_told(store: TrackStore) -> None:
    job = store.add_job("job", "track", "digest", REQUEST)
    store.database.write("DELETE FROM requests")
    with pytest.raises(StoreError, match="Job job was forgotten"):
        job.request["task"]
