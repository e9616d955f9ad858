"""What breaks around the service: each time a sentence for the person, and the next one works."""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import resource
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest

from backend.doctor.machine import start_problems
from backend.engine.scheduler import Priority
from backend.job_state import JobState
from backend.labelstudio.client import LabelStudioError
from backend.settings import Settings
from backend.tracking import database
from backend.tracking.database import StoreError
from backend.tracking.store import TrackStore
from backend.wiring import Wiring
from benchmarks.support.server import body, disc, said
from benchmarks.support.server import click as disc_click
from tests.backend.conftest import click
from tests.backend.fakes import FakeVideoTracker
from tests.backend.test_sequences import PAGES, Editor
from tests.operate.test_overload import outcomes, status
from tests.waiting import LONGER, PATIENCE, until


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class TestOutOfMemory:
    @pytest.fixture
    def scarce(self, bench):
        """Makes calls of the model fail: as many as stand in the list."""
        bench.engine.wait_ready(PATIENCE)
        failures: list[Exception] = []
        for name in ("embed", "predict"):
            call = getattr(bench.predictor, name)

            def failing(*args, call=call, **kwargs):
                if failures:
                    raise failures.pop()
                return call(*args, **kwargs)

            setattr(bench.predictor, name, failing)
        return failures

    @pytest.mark.parametrize(
        "error",
        [
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            MemoryError(),
        ],
    )
    def test_the_caches_are_emptied_and_the_click_gets_its_mask(self, bench, scarce, error):
        bench.predict([click(50, 50)], task={"id": 1, "data": {"image": "/other.png"}})
        scarce.append(error)
        reply = bench.predict([click(50, 50)])
        assert reply["result"][0]["type"] == "brushlabels"
        exposed = bench.metrics.exposition().decode()
        assert 'sam2_out_of_memory_total{outcome="retried"} 1.0' in exposed
        assert "sam2_embedding_cache_evictions_total 1.0" in exposed

    def test_where_that_is_not_enough_it_is_told_and_the_next_click_works(self, bench, scarce):
        scarce += [OutOfMemoryError("CUDA out of memory")] * 2
        shown = status(bench.predict([click(50, 50)]))
        assert "too little memory" in shown
        assert "SAM2_IMAGE_SIZE" in shown
        reply = bench.predict([click(50, 50)])
        assert reply["result"][0]["type"] == "brushlabels"
        assert status(reply) == ""

    def test_another_error_is_not_taken_for_it(self, bench, scarce):
        scarce.append(RuntimeError("shapes do not match"))
        assert "its log says why" in status(bench.predict([click(50, 50)]))
        assert outcomes(bench, "defect") == 1

    @pytest.fixture
    def short(self, monkeypatch):
        """Makes tracking fail on frame 5, as often as stands in the list."""
        failures: list[Exception] = []
        propagate = FakeVideoTracker.propagate

        def failing(self, *args, **kwargs):
            for found in propagate(self, *args, **kwargs):
                if found.frame == 5 and failures:
                    raise failures.pop()
                yield found

        monkeypatch.setattr(FakeVideoTracker, "propagate", failing)
        return failures

    def test_a_track_goes_on_at_the_frame_it_failed_on(self, bench, short):
        editor = Editor(bench)
        editor.click(30, 50, page=0)
        short.append(OutOfMemoryError("CUDA out of memory"))
        tracked = editor.say("track")
        assert sorted(region["item_index"] for region in tracked) == list(range(1, PAGES))
        exposed = bench.metrics.exposition().decode()
        assert f"sam2_frames_tracked_total {PAGES}.0" in exposed
        assert f'sam2_stage_seconds_count{{stage="frame"}} {PAGES + 1}.0' in exposed

    def test_a_track_that_cannot_go_on_keeps_what_it_has(self, bench, short):
        editor = Editor(bench)
        editor.click(30, 50, page=0)
        short += [OutOfMemoryError("CUDA out of memory")] * 2
        kept = editor.say("track")
        assert sorted(region["item_index"] for region in kept) == [1, 2, 3, 4]
        assert "too little memory" in editor.text
        [job] = bench.store.jobs()
        assert job.state is JobState.FAILED
        rest = editor.say("track")
        assert sorted(region["item_index"] for region in rest) == list(range(5, PAGES))

    def test_what_is_stored_of_a_track_that_failed_says_so(self, make_bench, short):
        bench = make_bench(track_budget_seconds=0.3)
        bench.engine.wait_ready(PATIENCE)
        editor = Editor(bench)
        editor.click(30, 50, page=0)
        short += [OutOfMemoryError("CUDA out of memory")] * 2
        bench.track_hold.clear()
        editor.say("track")
        bench.track_hold.set()
        until(lambda: bench.published)
        [note] = {region["meta"]["text"][0] for region in bench.published[0]["result"]}
        assert note.startswith(f"SAM 2: stopped after 4 of {PAGES - 1} masks: ")
        assert "too little memory" in note


class TestStore:
    def test_without_room_for_it_clicks_are_answered_and_tracks_refused(
        self, make_bench, monkeypatch, tmp_path
    ):
        connect = database._connect

        def full(path):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        monkeypatch.setattr(database, "_connect", full)
        with pytest.raises(StoreError, match="disk is full"):
            TrackStore(tmp_path / "full" / "tracks.sqlite3")
        bench = make_bench()
        bench.engine.wait_ready(PATIENCE)
        bench.tracking.resume()
        assert bench.predict([click(50, 50)])["result"][0]["type"] == "brushlabels"
        assert bench.client.get("/metrics").status_code == 200
        editor = Editor(bench)
        editor.click(30, 50, page=0)
        editor.say("track")
        assert "disk is full" in editor.text
        monkeypatch.setattr(database, "_connect", connect)
        assert len(editor.say("track")) == PAGES - 1

    @pytest.mark.parametrize("folder", ["state", "cache"])
    def test_a_full_folder_does_not_stop_the_start(self, monkeypatch, tmp_path, folder):
        def full(*args, dir, **kwargs):
            if dir.name == folder:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*args, dir=dir, **kwargs)

        write = tempfile.TemporaryFile
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        folders = {"STATE_DIR": f"{tmp_path}/state", "CACHE_DIR": f"{tmp_path}/cache"}
        assert list(start_problems(Wiring(Settings.from_env(folders)))) == []

    def test_a_full_disk_is_told_and_the_next_track_works(self, bench):
        bench.engine.wait_ready(PATIENCE)
        editor = Editor(bench)
        editor.click(30, 50, page=0)
        with bench.store.database.transaction() as connection:
            connection.execute("CREATE TABLE filler (x)")
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with contextlib.suppress(sqlite3.OperationalError):
            while True:
                connection.execute("INSERT INTO filler VALUES (zeroblob(100))")
        with contextlib.suppress(StoreError):  # what room is left in the pages of the jobs
            for number in itertools.count():
                bench.store.add_job(str(number), "t", str(number), {})
                bench.store.update_job(str(number), state=JobState.DONE)
        editor.say("track")
        assert "cannot store tracks: database or disk is full" in editor.text
        assert "STATE_DIR" in editor.text
        assert bench.client.get("/metrics").status_code == 200
        connection.execute("PRAGMA max_page_count = 1000000")
        editor.say("redo")
        assert len(editor.masks()) == PAGES

    def test_a_job_whose_end_cannot_be_stored_is_not_waited_for(self, make_bench, monkeypatch):
        bench = make_bench(track_budget_seconds=LONGER)
        bench.engine.wait_ready(PATIENCE)
        editor = Editor(bench)
        editor.click(30, 50, page=0)

        def full(*args, **kwargs):
            raise StoreError("The backend cannot store tracks: disk full.")

        monkeypatch.setattr(bench.store, "put_masks", full)
        update = bench.store.update_job
        monkeypatch.setattr(
            bench.store,
            "update_job",
            lambda job, **changes: (
                full() if changes.get("state") is JobState.FAILED else update(job, **changes)
            ),
        )
        begun = time.monotonic()
        editor.say("track")
        assert time.monotonic() - begun < PATIENCE
        assert "disk full" in editor.text

    def test_a_folder_that_cannot_be_used_is_named(self):
        with pytest.raises(StoreError, match=r"/proc/state \(STATE_DIR\) cannot be used"):
            TrackStore(Path("/proc/state/tracks.sqlite3"))


def test_a_track_whose_result_label_studio_does_not_take_is_kept(make_bench, monkeypatch, caplog):
    bench = make_bench(track_budget_seconds=0.3)
    bench.engine.wait_ready(PATIENCE)
    refused = threading.Event()

    def down(*args, **kwargs):
        refused.set()
        raise LabelStudioError("Label Studio at http://ls does not answer.")

    monkeypatch.setattr(bench, "create_prediction", down)
    editor = Editor(bench)
    editor.click(30, 50, page=0)
    bench.track_hold.clear()
    editor.say("track")
    bench.track_hold.set()
    assert refused.wait(PATIENCE)
    until(lambda: "could not be delivered" in caplog.text)  # written after the refusal
    [job] = bench.store.jobs()
    assert job.state is JobState.DONE
    monkeypatch.undo()
    after = make_bench()  # as a restart: what Label Studio did not take is stored now
    after.tracking.resume()
    until(lambda: after.published)
    assert len(after.published[0]["result"]) == PAGES
    until(lambda: not after.store.due())
    assert not after.steps


def test_a_job_that_ends_right_after_the_start_is_handed_over_by_its_thread_alone(
    bench, monkeypatch
):
    bench.store.add_job("a", "t", "d", {"project": "1.1", "task": {"id": 7}}, deliver=True)
    ends = {"state": JobState.DONE}
    monkeypatch.setattr(bench.tracking.jobs, "resume", lambda: bench.store.update_job("a", **ends))
    bench.tracking.resume()
    assert [job.id for job in bench.store.due()] == ["a"]
    assert bench.tracking.deliveries._thread is None


def test_a_stop_in_the_middle_tells_those_who_wait_and_fails_no_job(make_bench):
    bench = make_bench(track_budget_seconds=LONGER)
    bench.engine.wait_ready(PATIENCE)
    editor = Editor(bench)
    editor.click(30, 50, page=0)
    bench.track_hold.clear()
    with ThreadPoolExecutor(2) as pool:
        track = pool.submit(editor.say, "track")
        assert bench.track_hold.reached.wait(PATIENCE)
        other = {"id": 8, "data": {"image": "/other.png"}}
        waiting = pool.submit(bench.predict, [click(50, 50)], task=other)
        until(lambda: bench.engine._thread.depth(Priority.CLICK))
        bench.service.drain()
        assert "being restarted; try again" in status(waiting.result(PATIENCE))
        track.result(PATIENCE)
        bench.track_hold.set()
    bench.tracking.jobs.close()
    [job] = bench.store.jobs()
    assert job.state is JobState.RUNNING  # for the next start to take up


def data_uri(seed):
    _, png = cv2.imencode(".png", disc(seed))
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


@pytest.mark.slow
def test_others_down_and_a_full_disk_are_told_and_pass(start):
    """One process for all: starting it takes longer than the rest."""
    server = start(
        LABEL_STUDIO_URL="http://127.0.0.1:1",
        LABEL_STUDIO_API_KEY="legacy-token-0123456789",
        S3_ENDPOINT_URL="http://127.0.0.1:1",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="aws-secret-0123456789",
    ).wait_ready()

    def ask(image):
        reply = server.predict(body({"id": 7, "data": {"image": image}}, [disc_click(1)]))
        assert reply.status_code == 200
        return reply

    shown = said(ask("/data/upload/1/a.png"))
    assert "127.0.0.1:1 cannot be reached from the backend. Check" in shown
    shown = said(ask("s3://bucket/a.png"))
    assert "cannot be reached" in shown
    assert said(ask(server.picture(1))) == ""

    worker = server.worker()
    unlimited = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (16, unlimited[1]))
    shown = said(ask(data_uri(2)))
    assert "media cache cannot be used" in shown
    assert "Check the disk space and permissions of CACHE_DIR" in shown
    assert said(ask(server.picture(1))) == ""  # needs no room
    resource.prlimit(worker, resource.RLIMIT_FSIZE, unlimited)
    assert said(ask(data_uri(2))) == ""
    for secret in ("legacy-token-0123456789", "aws-secret-0123456789"):
        assert secret not in server.text()
