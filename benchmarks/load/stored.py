"""``python -m benchmarks.load.stored``: what much in the store costs those who ask.

1. ``replies``: a sequence of 5,000 pages with three objects of 1080p on each. "status" is typed
   with an empty editor, by three at once, and the result is delivered; seconds, and how much memory
   the process took beyond what it had.
2. ``jobs``: 20,000 jobs that ended, each asked for with a task of 100 pages; what the service needs
   to start until it is ready, to list its jobs, and to answer another user's "status" meanwhile.

Exits with 1 where something takes more than ``LIMITS`` allow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import requests

from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.labelstudio.project_task import ProjectTask
from backend.settings import Settings
from backend.tracking.store import TrackedMask, TrackStore
from backend.wiring import Wiring
from benchmarks.support.recording_server import RecordingServer, Reply
from benchmarks.support.server import SEQUENCE, Server, body, cpu_seconds, said, typed
from benchmarks.support.table import table

PROJECT = "1.100"
LIMITS = {  # seconds, MB
    "status": (1.0, 100.0),
    "delivery": (None, 300.0),
    "start": (5.0, None),
    "GET /jobs": (0.3, None),
}
HEIGHT, WIDTH = 1080, 1920


def shapes(count: int) -> list[PackedMask]:
    """Discs with rough edges."""
    source = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    found = []
    for _ in range(count):
        x, y, radius = source.integers((300, 300, 80), (WIDTH - 300, HEIGHT - 300, 250))
        rough = source.normal(0.0, 0.7, (HEIGHT, WIDTH))
        found.append(PackedMask.pack(np.hypot(columns - x, rows - y) + rough < radius))
    return found


def request_of(task: dict[str, Any], objects: int) -> dict[str, Any]:
    """The request of a job that tracked all pages of a task."""
    return {
        "project": PROJECT,
        "task": {"id": task["id"], "data": task["data"]},
        "label_config": SEQUENCE,
        "kind": "sequence",
        "image": "image",
        "first": 0,
        "last": len(task["data"]["frames"]) - 1,
        "direction": "forward",
        "objects": [{"id": f"object-{n}", "prompts": {}} for n in range(objects)],
    }


def task_of(number: int, pages: int) -> dict[str, Any]:
    """A task whose pages are nowhere; none of them is opened."""
    frames = [f"https://media.example.com/{number}/{page:05}.jpg" for page in range(pages)]
    return {"id": number, "data": {"frames": frames}}


class Child:
    """The service in a process of its own, without HTTP, over a store that it fills first."""

    def __init__(self, folder: Path, label_studio: str, pages: int, objects: int) -> None:
        settings = {
            "STATE_DIR": str(folder / "state"),
            "CACHE_DIR": str(folder / "cache"),
            "LABEL_STUDIO_URL": label_studio,
            "LABEL_STUDIO_API_KEY": "0" * 40,
        }
        wiring = Wiring(Settings.from_env(settings))
        engine = wiring.engine()
        self.service = wiring.service(engine)
        engine.wait_ready(120.0)
        self.task = task_of(1, pages)
        self._fill(pages, objects)

    def _fill(self, pages: int, objects: int) -> None:
        store, config = self.service.tracking.store, self.service.config(SEQUENCE)
        whole = ProjectTask(PROJECT, self.task, SEQUENCE, config)
        track = self.service.tracking.sequences.sequence(whole, "image").track
        request = request_of(self.task, objects)
        store.add_job("job", track, "digest", request, deliver=True)
        kinds = shapes(20)
        for number in range(objects):
            name = f"object-{number}"
            store.describe(track, name, {"labels": ["Cat"], "from_name": "mask"})
            for first in range(1, pages, 250):
                masks = [
                    TrackedMask(name, page, "anchor", kinds[page % len(kinds)], 0.9, 5.0)
                    for page in range(first, min(first + 250, pages))
                ]
                store.put_masks(track, masks, job_id="job", done=0)
        done = objects * (pages - 1)
        store.update_job("job", state=JobState.DONE, done=done, total=done)

    def status(self) -> str:
        """Type "status"; returns what is said."""
        reply = self.service.predict(body(self.task, [typed("status")], config=SEQUENCE))
        json.dumps(reply)
        results = reply["results"][0]["result"]
        regions = sum(item["type"] == "brushlabels" for item in results)
        [text] = [item["value"]["text"][0] for item in results if item["type"] == "textarea"]
        return f"{regions} regions; {text}"

    def statuses(self) -> str:
        """Type it three times at once."""
        with ThreadPoolExecutor(3) as pool:
            return next(iter(pool.map(lambda _: self.status(), range(3))))

    def delivery(self) -> str:
        """Deliver the result of the job."""
        tracking = self.service.tracking
        job = tracking.store.job("job")
        assert job is not None
        tracking.deliveries.attempt(job)
        return f"{len(tracking.store.due())} left"


def measured(call: Callable[[], str]) -> dict[str, Any]:
    """What a call says, its seconds, and the MB that the process took beyond what it had."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before, begun, worked = _memory("VmRSS"), time.monotonic(), time.process_time()
    says = call()
    seconds, cpu = time.monotonic() - begun, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "mb": _memory("VmHWM") - before, "says": says}


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def replies(folder: Path, *, pages: int, objects: int) -> int:
    """See the module; returns the exit code."""
    server = RecordingServer()
    sizes: list[int] = []

    def take(seen: Any) -> Reply:
        sizes.append(len(seen.body))
        server.seen.clear()
        echo = b'{"id": 1, "result": ' + seen.body[seen.body.index(b"[") :]
        return Reply(201, echo, {"Content-Type": "application/json"})

    server.route("/api/predictions/", take)
    rows, failed = [], 0
    with closing(server):
        for part in ("status", "statuses", "delivery"):
            words = [sys.executable, "-m", "benchmarks.load.stored", "child", part, server.url]
            place = [str(folder / part), f"--pages={pages}", f"--objects={objects}"]
            ended = subprocess.run([*words, *place], check=True, stdout=subprocess.PIPE)
            found = json.loads(ended.stdout.splitlines()[-1])
            failed |= _exceeds(part, found["cpu"], found["mb"])  # whatever else the machine does
            times = f"{found['seconds']:.2f}", f"{found['cpu']:.2f}"
            rows.append([part, *times, f"{found['mb']:.0f}", found["says"]])
    print(f"{pages} pages x {objects} objects, {WIDTH} x {HEIGHT}")
    print(table(["what", "seconds", "of CPU", "MB more", "it says"], rows))
    print(f"delivered: {', '.join(f'{size / 1e6:.1f} MB' for size in sizes) or 'nothing'}")
    return int(failed)


def _exceeds(part: str, seconds: float, mb: float = 0.0) -> bool:
    most_seconds, most_mb = LIMITS.get(part, (None, None))
    return seconds > (most_seconds or np.inf) or mb > (most_mb or np.inf)


def jobs(folder: Path, *, count: int, pages: int) -> int:
    """See the module; returns the exit code."""
    state = folder / "jobs" / "state" / "tracks.sqlite3"
    task = task_of(1, pages)
    server = Server(folder / "empty").wait_ready()
    empty = cpu_seconds(server.worker())
    server.stop()
    with closing(TrackStore(state)) as store:
        for number in range(count):
            request = {**request_of(task_of(number, pages), 1), "first": number}
            store.add_job(str(number), f"track-{number}", str(number), request)
            store.update_job(str(number), state=JobState.DONE)
    size = sum(path.stat().st_size for path in state.parent.iterdir()) / 1e6
    server = Server(folder / "jobs").wait_ready()
    started = cpu_seconds(server.worker())
    memory = server.resident() / 1e6
    stopped = threading.Event()

    def list_jobs() -> list[float]:
        took: list[float] = []
        while not stopped.is_set() or len(took) < 3:
            before = time.monotonic()
            assert requests.get(server.url + "/jobs", timeout=120).status_code == 200
            took.append(time.monotonic() - before)
        return took

    alone = min(_timed(lambda: requests.get(server.url + "/jobs", timeout=120)) for _ in range(3))
    with ThreadPoolExecutor(1) as pool:
        listed = pool.submit(list_jobs)
        asked = body(task, [typed("status")], config=SEQUENCE)
        answers = [_timed(lambda: said(server.predict(asked, timeout=120))) for _ in range(5)]
        stopped.set()
        listed.result()
    server.stop()
    head = ["jobs", "MB stored", "start, s of CPU", "without jobs", "MB", "GET /jobs, s"]
    row = [count, f"{size:.0f}", f"{started:.1f}", f"{empty:.1f}", f"{memory:.0f}", f"{alone:.2f}"]
    print(table([*head, "status meanwhile, s"], [[*row, f"{max(answers):.2f}"]]))
    return int(_exceeds("start", started - empty) or _exceeds("GET /jobs", alone))


def _timed(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("replies", "jobs", "child"))
    parser.add_argument("child", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--pages", type=int, help="5,000; for jobs 100")
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=20_000)
    given = parser.parse_args()
    if given.part == "child":
        what, url, folder = given.child
        child = Child(Path(folder), url, given.pages, given.objects)
        print(json.dumps(measured(getattr(child, what))), flush=True)
        os._exit(0)
    code = 0
    with tempfile.TemporaryDirectory() as name:
        if given.part in (None, "replies"):
            code |= replies(Path(name), pages=given.pages or 5_000, objects=given.objects)
        if given.part in (None, "jobs"):
            code |= jobs(Path(name), count=given.jobs, pages=given.pages or 100)
    return code


if __name__ == "__main__":
    sys.exit(main())
