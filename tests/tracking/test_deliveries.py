"""Results on their way to Label Studio: what it does not take at once is not lost."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.job_state import JobState
from backend.labelstudio.client import LabelStudioError
from backend.media.errors import MediaError, Reason
from backend.threads.fair_queue import Busy
from backend.tracking.database import StoreError
from backend.tracking.delivery import Deliveries
from backend.tracking.store import Job, TrackStore
from tests.waiting import PATIENCE, until

DOWN = LabelStudioError("Label Studio at http://ls does not answer.")
FORBIDDEN = LabelStudioError("Label Studio refused the key.", status=401)
GONE = LabelStudioError("There is no such task.", status=404)


class Labelling:
    """Takes results; first it fails in the ways that stand in ``failures``."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.asked: list[str] = []
        self.taken: list[str] = []

    def take(self, job: Job) -> None:
        self.asked.append(job.id)
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(job.id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TrackStore]:
    store = TrackStore(tmp_path / "tracks.sqlite3")
    yield store
    store.close()


@pytest.fixture
def labelling() -> Labelling:
    return Labelling()


@pytest.fixture
def start(store: TrackStore, labelling: Labelling) -> Iterator[Callable[..., Deliveries]]:
    made: list[Deliveries] = []

    def make(*pauses: float) -> Deliveries:
        made.append(Deliveries(store, labelling.take, pauses=pauses or (0.01,)))
        return made[-1]

    yield make
    for deliveries in made:
        deliveries.close()


def ended(store: TrackStore, name: str, state: JobState = JobState.DONE) -> Job:
    """A job whose result is due."""
    store.add_job(name, f"track-{name}", name, {"project": "1.1"}, deliver=True)
    store.update_job(name, state=state)
    job = store.job(name)
    assert job is not None
    return job


def due(store: TrackStore) -> list[str]:
    return [job.id for job in store.due()]


def test_what_is_taken_is_not_due_any_more(start: Callable, store: TrackStore, labelling) -> None:
    job = ended(store, "a")
    assert due(store) == ["a"]
    start().attempt(job)
    assert labelling.taken == ["a"]
    assert due(store) == []


@pytest.mark.parametrize(
    "failure",
    [
        DOWN,
        FORBIDDEN,
        LabelStudioError("It is being restarted.", status=502),
        Busy("the media file is still being downloaded"),
        MediaError("The storage is gone.", reason=Reason.UNREACHABLE),
        StoreError("disk full"),
    ],
)
def test_what_may_pass_is_tried_again(
    start: Callable, store: TrackStore, labelling: Labelling, failure: Exception
) -> None:
    labelling.failures = [failure] * 3
    deliveries = start()
    deliveries.attempt(ended(store, "a"))
    until(lambda: labelling.taken == ["a"])
    until(lambda: not store.due())
    assert len(labelling.asked) == 4
    assert deliveries.waiting == 0


def test_the_pauses_grow_and_the_last_one_stays(
    start: Callable, store: TrackStore, labelling: Labelling, caplog: pytest.LogCaptureFixture
) -> None:
    labelling.failures = [DOWN] * 4
    start(0.01, 0.02, 0.04).attempt(ended(store, "a"))
    until(lambda: labelling.taken)
    waited = [record.args[1] for record in caplog.records if len(record.args or ()) == 3]  # type: ignore[index]
    assert waited == [0.01, 0.02, 0.04, 0.04]


def test_one_that_waits_holds_up_no_other(
    start: Callable, store: TrackStore, labelling: Labelling
) -> None:
    labelling.failures = [DOWN]
    deliveries = start(3600.0)
    deliveries.attempt(ended(store, "a"))
    assert deliveries.waiting == 1
    deliveries.attempt(ended(store, "b"))
    assert labelling.taken == ["b"]
    assert due(store) == ["a"]


def test_what_label_studio_refuses_is_said_and_not_asked_again(
    start: Callable, store: TrackStore, labelling: Labelling, caplog: pytest.LogCaptureFixture
) -> None:
    labelling.failures = [GONE]
    deliveries = start()
    deliveries.attempt(ended(store, "a"))
    assert deliveries.waiting == 0
    assert due(store) == []
    assert "no such task" in caplog.text
    assert "masks are kept" in caplog.text


def test_after_a_week_it_is_given_up(
    start: Callable, store: TrackStore, labelling: Labelling, tmp_path: Path
) -> None:
    ended(store, "a")
    with sqlite3.connect(tmp_path / "tracks.sqlite3") as connection:
        connection.execute("UPDATE jobs SET updated = updated - 8 * 86400")
    connection.close()
    labelling.failures = [DOWN]
    [job] = store.due()
    start().attempt(job)
    assert due(store) == []


def test_a_defect_is_logged_and_left_for_the_next_start(
    start: Callable, store: TrackStore, labelling: Labelling, caplog: pytest.LogCaptureFixture
) -> None:
    labelling.failures = [KeyError("nobody expected this")]
    deliveries = start()
    deliveries.attempt(ended(store, "a"))
    assert "nobody expected this" in caplog.text
    assert (deliveries.waiting, due(store)) == (0, ["a"])
    start().resume()
    until(lambda: labelling.taken == ["a"])


def test_a_start_hands_over_what_ended_and_nothing_else(
    start: Callable, store: TrackStore, labelling: Labelling
) -> None:
    for number, state in enumerate(JobState):
        ended(store, f"{number}-{state}", state)
    store.add_job("not asked for", "t", "d", {})
    store.update_job("not asked for", state=JobState.DONE)
    start().resume()
    until(lambda: len(labelling.taken) == 2)
    until(lambda: not store.due())
    assert sorted(name.partition("-")[2] for name in labelling.taken) == ["done", "failed"]
    start().resume()
    assert len(labelling.asked) == 2


def test_what_was_cleared_meanwhile_is_not_handed_over(
    start: Callable, store: TrackStore, labelling: Labelling
) -> None:
    labelling.failures = [DOWN]
    deliveries = start(0.05)
    deliveries.attempt(ended(store, "a"))
    store.forget("track-a")
    until(lambda: deliveries.waiting == 0)
    deliveries.close()
    assert labelling.asked == ["a"]


def test_a_stop_does_not_wait_for_the_next_attempt(
    start: Callable, store: TrackStore, labelling: Labelling
) -> None:
    labelling.failures = [DOWN]
    deliveries = start(3600.0)
    deliveries.attempt(ended(store, "a"))
    [thread] = [each for each in threading.enumerate() if each.name == "deliveries"]
    deliveries.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    deliveries.attempt(ended(store, "b"))  # of a job that ended as the service stopped
    assert due(store) == ["a"]


def test_a_store_that_cannot_be_read_is_tried_later(
    start: Callable, store: TrackStore, labelling: Labelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelling.failures = [DOWN]
    look, failed = store.due, threading.Event()

    def broken() -> list[Job]:
        if failed.is_set():
            return look()
        failed.set()
        raise StoreError("The backend cannot store tracks: disk I/O error.")

    monkeypatch.setattr(store, "due", broken)
    start().attempt(ended(store, "a"))
    until(lambda: labelling.taken == ["a"])


@pytest.mark.parametrize("first", [False, True])
def test_a_job_that_is_joined_is_asked_for_too(store: TrackStore, first: bool) -> None:
    store.add_job("a", "track", "digest", {}, deliver=first)
    job = store.add_job("b", "track", "digest", {}, deliver=True)
    assert (job.id, len(store.jobs())) == ("a", 1)
    store.update_job("a", state=JobState.DONE)
    assert due(store) == ["a"]
