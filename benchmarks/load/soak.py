"""``python -m benchmarks.load.soak``: for long, and killed, on a real service.

1. ``sequences``: 50 frame sequences, clicked and tracked one after another; the memory must not
   grow.
2. ``kills``: kill -9 at 20 random moments of one long track; what was finished before a kill must
   be there after it, bit by bit, and the track must end complete.
3. ``poison``: a track that ends the process at every start, beside one of another project: it must
   be given up after three starts, and the other end complete.
4. ``annotators``: some who mark and track one task at the same time, half of whom clear it then;
   nobody may get a region of another's, from an empty draft neither, and who did not clear must
   still have all.
5. ``full``: no room is left in STATE_DIR and CACHE_DIR, over a restart too. Clicks must be
   answered, tracks refused with a sentence, and complete once there is room. Needs root, to mount a
   small disk.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
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


class Annotator:
    """One of several on the same task, known by the name in the draft."""

    def __init__(self, server: Server, task: dict[str, Any], number: int) -> None:
        self._server, self._task, self._number = server, task, number
        self.regions: dict[str, dict[str, Any]] = {}
        self.clears = number % 2 == 1
        self.of_others = self.told = 0

    def begin(self) -> None:
        """Mark an object and track it."""
        self._send(click(self._task["id"], page=0, name=f"kp-{self._number}"))
        self._send(typed("track"))

    def go_on(self) -> None:
        """Clear it, or get all but the first region anew."""
        if self.clears:
            self._send(typed("clear"))
        else:
            self.regions = dict(list(self.regions.items())[:1])
            self._send(typed("status"))

    def look_in(self) -> None:
        """Ask for the track from an empty draft: there is nothing to get, and the reason."""
        self.regions = {}
        reply = self._send(typed("status"))
        self.of_others += len(self.regions)
        self.told += "your draft is empty" in said(reply)

    def _send(self, item: dict[str, Any]) -> requests.Response:
        mail = f"annotator-{self._number}@example.org"
        named = {"user": mail, "created_username": f"{mail}, {self._number}"}
        drafts = [{"id": self._number, "result": [*self.regions.values()], **named}]
        task = {**self._task, "drafts": drafts if self.regions else []}
        reply = self._server.predict(body(task, [item], config=SEQUENCE), timeout=600)
        found = reply.json()["results"][0]["result"]
        self.regions |= {each["id"]: each for each in found if each["type"] == "brushlabels"}
        return reply


def annotators(folder: Path, *, people: int, pages: int) -> int:
    """See the module; returns the exit code."""
    settings = {"TRACK_BUDGET_SECONDS": "300"}
    with (
        running(folder / "annotators", settings) as server,
        ThreadPoolExecutor(people) as pool,
    ):
        task = clip(server, 1, pages)
        everybody = [Annotator(server, task, number) for number in range(1, people + 1)]
        list(pool.map(Annotator.begin, everybody))
        ids = [name for each in everybody for name in each.regions]
        list(pool.map(Annotator.go_on, everybody))
        complete = sum(len(each.regions) == pages for each in everybody if not each.clears)
        list(pool.map(Annotator.look_in, everybody))
        defects = server.tracebacks()
    shared, strange = len(ids) - len(set(ids)), sum(each.of_others for each in everybody)
    kept = sum(not each.clears for each in everybody)
    told = sum(each.told for each in everybody)
    head = ["annotators", "pages", "regions", "of two people", "from an empty draft"]
    row = [people, pages, len(ids), shared, f"{strange} regions, {told} told why"]
    print(table([*head, "kept all", "tracebacks"], [[*row, f"{complete} of {kept}", defects]]))
    as_promised = len(ids) == people * pages and complete == kept and told == people
    return 0 if as_promised and not (shared or strange or defects) else 1


def full(folder: Path, *, pages: int) -> int:
    """See the module; returns the exit code."""
    if os.geteuid() != 0:
        print("full: not run, as only root can mount a small disk")
        return 1
    answers: list[tuple[str, bool, str]] = []

    def ask(server: Server, when: str, seed: int) -> None:
        picture = {"id": seed, "data": {"image": server.picture(seed)}}
        found = server.predict(body(picture, [click(seed)]), timeout=120).json()["results"][0]
        clicked = any(item["type"] == "brushlabels" for item in found["result"])
        asking = body(task, [typed("track")], config=SEQUENCE)
        answers.append((when, clicked, said(server.predict(asking, timeout=300))))

    with small_disk(folder / "small") as place:
        folders = {"STATE_DIR": str(place / "state"), "CACHE_DIR": str(place / "cache")}
        settings = {**folders, "TRACK_BUDGET_SECONDS": "120"}
        with running(folder / "full", settings) as server:
            task = clip(server, 1, pages)
            mark(server, task)
            with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(4096))
            ask(server, "full", 2)
        with running(folder / "full", settings) as server:
            ask(server, "full, after a restart", 3)
            (place / "filler").unlink()
            ask(server, "with room", 4)
            defects = server.tracebacks()
    head = ["the disk is", "a click has a mask", "track is answered"]
    print(table(head, [[when, clicked, text] for when, clicked, text in answers]))
    refused = all("STATE_DIR" in text for _, _, text in answers[:2])
    done = f"1-{pages} of {pages} done" in answers[2][2]
    return (
        0 if refused and done and all(clicked for _, clicked, _ in answers) and not defects else 1
    )


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of 16 MiB at ``place``."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


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


PARTS = ("sequences", "kills", "poison", "annotators", "full")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=PARTS)
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
        if given.part in (None, "annotators"):
            code |= annotators(folder, people=6, pages=given.pages or 30)
        if given.part in (None, "full"):
            code |= full(folder, pages=given.pages or 12)
    return code


if __name__ == "__main__":
    sys.exit(main())
