"""``python -m backend state``: a backup of a store in use, and its way back."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from backend.doctor.machine import state_findings
from backend.engine.local import LocalEngine
from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.settings import Settings
from backend.tracking import database
from backend.tracking.database import StoreError, lock_jobs, set_aside_damaged
from backend.tracking.schema import MIGRATIONS
from backend.tracking.store import TrackedMask, TrackStore
from backend.wiring import Wiring
from tests.command_line import Run, run
from tests.waiting import until

__all__ = ["run"]

MASK = PackedMask.pack(np.eye(4, dtype=bool))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[TrackStore]:
    """A store with a job of project 12 that is done."""
    with closing(TrackStore(state / "tracks.sqlite3")) as made:
        made.add_job("job", "track", "digest", {"project": "12.100", "task": {"id": 7}})
        put(made, 0)
        made.update_job("job", state=JobState.DONE)
        yield made


def put(store: TrackStore, frame: int) -> None:
    found = TrackedMask("cat", frame, "anchor", MASK, 0.5, 2.0)
    store.put_masks("track", [found], job_id="job", done=frame + 1)


def frames(folder: Path) -> list[int]:
    with closing(TrackStore(folder / "tracks.sqlite3")) as store:
        return [mask.frame for mask in store.masks("track")]


def test_a_store_in_use_is_backed_up_as_it_is_at_one_moment(
    run: Run, store: TrackStore, state: Path, tmp_path: Path
) -> None:
    (state / "models").mkdir()
    (state / "models" / "weights").write_text("weights")
    stop, stored = threading.Event(), [0]

    def track() -> None:
        for frame in count(1):
            if stop.is_set():
                return
            put(store, frame)
            stored.append(frame)

    thread = threading.Thread(target=track)
    thread.start()
    try:
        until(lambda: len(stored) > 5)
        least = stored[-1]
        assert run("state", "--backup", tmp_path / "saved").code == 0
        most = stored[-1] + 1
    finally:
        stop.set()
        thread.join()
    saved = frames(tmp_path / "saved")
    assert saved == list(range(len(saved)))
    assert least < len(saved) <= most + 1
    assert (tmp_path / "saved" / "models" / "weights").read_text() == "weights"
    assert "name a new folder" in run("state", "--backup", tmp_path / "saved").err


def test_a_backup_is_restored_and_what_was_there_is_kept(
    run: Run, store: TrackStore, state: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    run("state", "--backup", saved)
    put(store, 1)
    refused = run("state", "--restore", saved)
    assert (refused.code, "is in use: stop the service" in refused.err) == (1, True)
    store.close()
    assert run("state", "--restore", saved).code == 0
    assert frames(state) == [0]
    [aside] = state.glob("before-restore-*")
    assert frames(aside) == [0, 1]
    assert frames(saved) == [0]


def test_a_store_is_not_used_while_it_is_restored(
    store: TrackStore, state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    run("state", "--backup", tmp_path / "saved")
    store.close()
    from backend import state as command

    copy = command._copy

    def meanwhile(source: Path, target: Path) -> None:
        with pytest.raises(StoreError, match="is being restored"):
            TrackStore(state / "tracks.sqlite3")
        copy(source, target)

    monkeypatch.setattr(command, "_copy", meanwhile)
    assert run("state", "--restore", tmp_path / "saved").code == 0


def test_what_is_no_backup_is_not_restored(run: Run, store: TrackStore, tmp_path: Path) -> None:
    store.close()
    assert "is no backup" in run("state", "--restore", tmp_path / "nowhere").err
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "tracks.sqlite3").write_bytes(b"not a database, but as long as a header is" * 200)
    assert run("state", "--restore", damaged).code == 1
    later = tmp_path / "later"
    later.mkdir()
    with closing(sqlite3.connect(later / "tracks.sqlite3")) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    assert "later version" in run("state", "--restore", later).err
    assert frames(tmp_path / "state") == [0]


def test_a_project_is_forgotten(run: Run, store: TrackStore) -> None:
    assert "0 jobs of project 1 " in run("state", "--forget-project", 1).err
    assert "1 job of project 12 " in run("state", "--forget-project", 12).err
    assert store.jobs() == []
    assert store.masks("track") == []


@pytest.mark.usefixtures("store")
def test_without_an_option_it_says_what_is_there(run: Run) -> None:
    said = run("state").out
    assert said.startswith("tracks    0 MiB")
    assert "jobs      1 done" in said
    assert "runs      none" in said


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that ``serve`` became."""
    programs: list[str] = []
    monkeypatch.setattr("backend.__main__.configure", lambda _: None)  # it would outlive this
    monkeypatch.setattr(os, "execv", lambda program, _: programs.append(program))
    return programs


@pytest.fixture
def doctor(state: Path, tmp_path: Path) -> Callable[[], str]:
    """What the doctor says of STATE_DIR."""
    folders = {"STATE_DIR": str(state), "CACHE_DIR": str(tmp_path / "cache")}
    wiring = Wiring(Settings.from_env(folders))
    return lambda: "\n".join(each.line for each in state_findings(wiring))


class TestSecondBackend:
    """Two on one STATE_DIR would run, and end, each other's jobs."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "_STOPPING_SECONDS", 0.0)

    @pytest.fixture
    def first(self, store: TrackStore, state: Path) -> Iterator[None]:
        with lock_jobs(state / "tracks.sqlite3"):
            yield

    @pytest.mark.usefixtures("first")
    def test_it_does_not_start_and_says_why(self, run: Run, begun: list[str], state: Path) -> None:
        refused = run("serve")
        assert (refused.code, begun) == (2, [])
        [line] = refused.err.splitlines()
        assert line.startswith("STATE_DIR: another backend runs on")
        assert "give each backend a STATE_DIR of its own" in line

    @pytest.mark.usefixtures("first")
    def test_it_takes_nothing_up_however_it_is_started(self, state: Path, tmp_path: Path) -> None:
        folders = {"STATE_DIR": str(state), "CACHE_DIR": str(tmp_path / "cache")}
        wiring = Wiring(Settings.from_env(folders))
        with pytest.raises(StoreError, match="another backend"):
            wiring.service(LocalEngine.__new__(LocalEngine))

    @pytest.mark.usefixtures("first")
    def test_commands_go_on_beside_the_first(self, run: Run, state: Path, tmp_path: Path) -> None:
        assert run("state").code == 0
        assert run("state", "--backup", tmp_path / "saved").code == 0

    def test_it_starts_when_the_first_has_ended(
        self, run: Run, begun: list[str], store: TrackStore, state: Path
    ) -> None:
        with lock_jobs(state / "tracks.sqlite3"):
            assert run("serve").code == 2
        run("serve")
        assert len(begun) == 1


class TestDamagedTracks:
    @pytest.fixture(params=["header", "inner pages", "truncated"])
    def damaged(self, store: TrackStore, state: Path, request: pytest.FixtureRequest) -> bytes:
        for frame in range(200):
            put(store, frame)
        store.close()
        path = state / "tracks.sqlite3"
        whole = path.read_bytes()
        assert len(whole) > 5 * 4096
        if request.param == "header":
            broken = b"\xa5" * 100 + whole[100:]
        elif request.param == "inner pages":
            broken = whole[:4096] + b"\xa5" * (len(whole) - 4096)
        else:
            broken = whole[: len(whole) // 2 + 7]
        path.write_bytes(broken)
        return broken

    def test_they_are_set_aside_and_new_ones_begun(
        self, run: Run, damaged: bytes, state: Path, begun: list[str], doctor: Callable[[], str]
    ) -> None:
        run("serve")
        assert begun  # the start has nothing against
        path = state / "tracks.sqlite3"
        with lock_jobs(path):
            set_aside_damaged(path)
        assert frames(state) == []
        [aside] = state.glob("tracks.sqlite3.damaged-*")
        assert aside.read_bytes() == damaged
        assert f"{aside.name} was damaged and set aside" in doctor()
        set_aside_damaged(path)
        assert len(list(state.glob("tracks.sqlite3.damaged-*"))) == 1

    def test_commands_that_read_them_say_so_and_leave_them(
        self, run: Run, damaged: bytes, state: Path, tmp_path: Path
    ) -> None:
        said = run("state", "--backup", tmp_path / "saved")
        assert said.code == 1
        assert "the tracks in STATE_DIR is damaged" in said.err
        assert (state / "tracks.sqlite3").read_bytes() == damaged


def test_a_store_that_is_whole_stays(store: TrackStore, state: Path) -> None:
    put(store, 1)
    set_aside_damaged(state / "tracks.sqlite3")
    assert store.masks("track")
    assert not list(state.glob("*.damaged-*"))
