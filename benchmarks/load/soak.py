"""``python -m benchmarks.load.soak``: for long, and killed, on a real service.

1. ``sequences``: 50 frame sequences, clicked and tracked one after another; the memory must not
   grow.
2. ``kills``: kill -9 at 20 random moments of one long track; what was finished before a kill must
   be there after it, bit by bit, and the track must end complete.
3. ``poison``: a track that ends the process at every start, beside one of another project: it must
   be given up after three starts, and the other end complete.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests

from benchmarks.load.concurrent import FLAT, report_memory, running
from benchmarks.support.recording_server import RecordingServer, Reply, Seen
from benchmarks.support.server import SEQUENCE, Server, body, click, disc, said, typed
from benchmarks.support.table import table


def clip(server: Server, seed: int, pages: int) -> dict[str, Any]:
    """A task whose pages show a disc that moves."""
    names = [f"c{seed}-{page}.png" for page in range(pages)]
    for page, name in enumerate(names):
        cv2.imwrite(str(server.media / name), disc(seed, shift=page % 60))
    return {"id": seed, "data": {"frames": [f"/data/local-files/?d={name}" for name in names]}}


def mark(server: Server, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Click on the first page; the regions that come back are saved as the task's draft."""
    reply = server.predict(body(task, [click(task["id"], page=0)], config=SEQUENCE), timeout=120)
    marked = [i for i in reply.json()["results"][0]["result"] if i["type"] == "brushlabels"]
    task["drafts"] = [{"id": 1, "result": marked}]
    return marked


def track(server: Server, task: dict[str, Any], timeout: float) -> list[dict[str, Any]]:
    """Type "track"; returns the regions that come back."""
    reply = server.predict(body(task, [typed("track")], config=SEQUENCE), timeout=timeout)
    return [i for i in reply.json()["results"][0]["result"] if i["type"] == "brushlabels"]


def sequences(folder: Path, *, count: int, pages: int) -> int:
    """See the module; returns the exit code."""
    took, complete, memory = [], 0, []
    settings = {"TRACK_BUDGET_SECONDS": "120", "EMBEDDING_CACHE_MB": "16"}
    with running(folder / "sequences", settings) as server:
        for seed in range(count):
            task = clip(server, seed, pages)
            begun = time.monotonic()
            marked = mark(server, task)
            tracked = track(server, task, 180)
            took.append(time.monotonic() - begun)
            seen = {region["item_index"] for region in (*marked, *tracked)}
            jobs = requests.get(server.url + "/jobs", timeout=60).json()["jobs"]
            complete += bool(seen) and jobs[0]["state"] == "done"
            memory.append((seed, server.resident()))
        defects = server.tracebacks()
    head = ["sequences", "pages each", "tracked to the end", "median, s", "p95, s", "tracebacks"]
    times = [f"{np.median(took):.2f}", f"{np.quantile(took, 0.95):.2f}"]
    print(table(head, [[count, pages, complete, *times, defects]]))
    growth = report_memory(memory)
    return 1 if complete < count or defects or abs(growth) > FLAT else 0


def kills(folder: Path, *, count: int, pages: int) -> int:
    """See the module; returns the exit code."""
    source = random.Random(0)
    home = folder / "kills"
    lost = changed = 0
    progress = []
    server = Server(home, {"TRACK_BUDGET_SECONDS": "0.1"}).wait_ready()
    task = clip(server, 1, pages)
    mark(server, task)
    track(server, task, 60)
    for _ in range(count):
        before_restart = finished(home)
        time.sleep(source.uniform(0.0, 2.5))
        before = finished(home)
        server.kill()
        after = finished(home)
        lost += len(before.keys() - after.keys())
        changed += sum(after[place] != runs for place, runs in before.items() if place in after)
        progress.append(len(before) - len(before_restart))
        server = Server(home, {"TRACK_BUDGET_SECONDS": "0.1"}).wait_ready()
        now = finished(home)
        lost += len(after.keys() - now.keys())
    state = wait_until_ended(server)
    there = {frame for _, frame in finished(home)}
    defects = server.tracebacks()
    server.stop()
    missing = len(set(range(1, pages)) - there)
    head = ["kills", "pages", "finished between", "lost", "changed", "missing at the end", "state"]
    between = f"{min(progress)} to {max(progress)}"
    print(
        table(
            [*head, "tracebacks"], [[count, pages, between, lost, changed, missing, state, defects]]
        )
    )
    return 1 if lost or changed or missing or state != "done" or defects else 0


def poison(folder: Path, *, pages: int) -> int:
    """See the module; returns the exit code."""
    media, asked = RecordingServer(), queue.SimpleQueue[str]()

    def never(seen: Seen) -> Reply:
        asked.put(seen.path)
        return Reply(hang=600.0, length=1000)

    media.route("/poison/", never)
    settings = {"TRACK_BUDGET_SECONDS": "0.1", "ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}
    killed, deadline = 0, time.monotonic() + 900.0
    states: dict[int, str] = {}
    with closing(media), running(folder / "poison", settings) as server:
        healthy, deadly = clip(server, 1, pages), clip(server, 2, pages)
        deadly["data"]["frames"][1:] = [f"{media.url}/poison/{n}.png" for n in range(1, pages)]
        for task, project in ((deadly, "2.100"), (healthy, "1.100")):
            mark(server, task)
            asking = body(task, [typed("track")], config=SEQUENCE, project=project)
            server.predict(asking, timeout=120)
        while not {"done", "failed"} >= set(states.values()) or len(states) < 2:
            assert time.monotonic() < deadline, states
            with suppress(queue.Empty):
                asked.get(timeout=1.0)  # the page that ends the process
                os.kill(server.worker(), signal.SIGSEGV)
                killed += 1
                time.sleep(1.0)
                while not asked.empty():
                    asked.get()
            server.wait_ready()
            jobs = requests.get(server.url + "/jobs", timeout=60).json()["jobs"]
            states = {job["task"]: job["state"] for job in jobs}
        asking = body(deadly, [typed("status")], config=SEQUENCE, project="2.100")
        says = said(server.predict(asking, timeout=120))
    head = ["starts that ended the process", "it has", "the other is", "it says"]
    print(table(head, [[killed, states[2], states[1], says]]))
    as_promised = killed == 3 and "given up" in says and states == {1: "done", 2: "failed"}
    return 0 if as_promised else 1


def finished(home: Path) -> dict[tuple[str, int], bytes]:
    """By object and frame: the masks that are in the store, as they are stored."""
    connection = sqlite3.connect(home / "state" / "tracks.sqlite3", timeout=30)
    try:
        rows = connection.execute("SELECT object, frame, runs FROM masks").fetchall()
    finally:
        connection.close()
    return {(name, frame): runs for name, frame, runs in rows}


def wait_until_ended(server: Server, seconds: float = 900.0) -> str:
    """How the only job ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        [job] = requests.get(server.url + "/jobs", timeout=60).json()["jobs"]
        if job["state"] in ("done", "failed", "cancelled"):
            return str(job["state"])
        time.sleep(0.5)
    return "unfinished"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("sequences", "kills", "poison"))
    parser.add_argument("--sequences", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pages", type=int, help="of each sequence; for kills 400")
    given = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.part in (None, "sequences"):
            code |= sequences(folder, count=given.sequences, pages=given.pages or 12)
        if given.part in (None, "kills"):
            code |= kills(folder, count=given.kills, pages=given.pages or 400)
        if given.part in (None, "poison"):
            code |= poison(folder, pages=given.pages or 100)
    return code


if __name__ == "__main__":
    sys.exit(main())
