"""The store of tracks."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from backend.engine.packed_masks import PackedMask
from backend.tracking.store import TrackedMask, TrackStore
from tests.waiting import LONGER, PATIENCE

MASK = TrackedMask("cat", 3, "digest", PackedMask.pack(np.eye(4, dtype=bool)), 0.5, 2.0)


def test_a_prediction_replaces_those_that_show_nothing_else(tmp_path: Path) -> None:
    store = TrackStore(tmp_path / "tracks.sqlite3")
    assert store.replace_predictions("track", 1, ["cat"]) == []
    assert store.replace_predictions("other", 2, ["cat"]) == []
    assert store.replace_predictions("track", 3, ["dog"]) == []
    assert store.replace_predictions("track", 4, ["cat"]) == [1]
    assert store.replace_predictions("track", 5, ["cat", "dog"]) == [3, 4]
    assert store.replace_predictions("track", 6, ["dog"]) == []
    store.close()


def test_sightings_say_what_the_masks_say(tmp_path: Path) -> None:
    empty, whole = np.zeros((5, 7), bool), np.ones((5, 7), bool)
    part = whole.copy()
    part[:2] = part[:, 6:] = False
    store = TrackStore(tmp_path / "tracks.sqlite3")
    for name in ("cat", "dog"):
        masks = [
            TrackedMask(
                name,
                *(frame, "a", PackedMask.pack(mask), 0.5, 2.0, frame == 0, frame + 1, frame == 2),
            )
            for frame, mask in enumerate((empty, whole, part))
        ]
        store.put_masks("track", masks, job_id="", done=0)
    for found, mask in zip(store.sightings("track"), store.masks("track"), strict=True):
        assert (found.object_id, found.frame, found.anchor) == (
            *(mask.object_id, mask.frame, mask.anchor),
        )
        assert (found.height, found.width, found.area) == (5, 7, mask.area)
        assert (found.box, found.centroid) == (mask.mask.box, mask.centroid)
        assert (found.iou, found.presence) == (mask.iou, mask.presence)
        assert (found.prompted, found.stride) == (mask.prompted, mask.stride)
        assert found.elsewhere == mask.elsewhere == (mask.frame == 2)
    assert {found.object_id for found in store.sightings("track", "dog")} == {"dog"}
    store.close()


def test_readers_wait_neither_for_a_slow_reader_nor_for_who_writes(tmp_path: Path) -> None:
    with closing(TrackStore(tmp_path / "tracks.sqlite3")) as store:
        store.add_job("job", "track", "digest", {})
        reading, done = threading.Event(), threading.Event()

        def row(number: int) -> int:
            reading.set()
            assert done.wait(LONGER)
            return number

        with store.database._reader() as connection, ThreadPoolExecutor(3) as threads:
            connection.create_function("slow", 1, row)
            slow = threads.submit(lambda: connection.execute("SELECT slow(1)").fetchall())
            assert reading.wait(PATIENCE)
            with store.database.transaction() as writing:
                writing.execute("UPDATE jobs SET message = 'being written'")
                [job] = threads.submit(store.jobs).result(PATIENCE)
            done.set()
            slow.result(PATIENCE)
        assert job.message == ""
        assert store.jobs()[0].message == "being written"


PUT_AND_DIE = """
import os, signal, sys
from pathlib import Path
import numpy as np
from backend.engine.packed_masks import PackedMask
from backend.tracking.store import TrackedMask
from backend.tracking.store import TrackStore
store = TrackStore(Path(sys.argv[1]))
store.add_job("job", "track", "digest", {})
for frame in range(50):
    mask = TrackedMask("cat", frame, "digest", PackedMask.pack(np.eye(4, dtype=bool)), 0.5, 2.0)
    store.put_masks("track", [mask], job_id="job", done=frame + 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_mask(tmp_path: Path) -> None:
    """Though masks are not waited for until they are on the disk."""
    path = tmp_path / "tracks.sqlite3"
    command = [sys.executable, "-c", PUT_AND_DIE, str(path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    store = TrackStore(path)
    assert [mask.frame for mask in store.masks("track")] == list(range(50))
    [job] = store.jobs()
    assert job.done == 50
    store.close()


def test_a_job_is_of_the_weights_that_it_began_with_also_after_a_restart(tmp_path: Path) -> None:
    places = [("cat", 3)]
    for number, weights in enumerate(("one", "one", "other", "other")):
        with closing(TrackStore(tmp_path / "tracks.sqlite3")) as store:
            job = store.add_job(f"job {number}", "track", "digest", {})  # joins the first
            assert store.keep_to_weights(job, weights, places) is (number != 2)
            follows = store.anchors("track").get(("cat", 3))
            assert follows == {0: None, 1: "digest", 2: "", 3: "digest"}[number]
            store.put_masks("track", [MASK], job_id=job.id, done=1)
