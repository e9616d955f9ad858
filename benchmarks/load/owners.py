"""``python -m benchmarks.load.owners [PART]``: does what one project does hold up the others?

``storage``: an attacker's project asks for pictures and videos of a server that sends a byte a
second, from 16 threads. Another project asks for a picture that is in the cache, one that is in the
task itself, new ones of a healthy server, and videos that are read in ranges: before that, while
the attacker asks, and when he has gone with his downloads still under way. All must be answered.

``tracks``: projects track two long sequences each; another one tracks three pages, several times.
They must be in its reply, and none of the long tracks may have ended. Beside it, the CPU time that
a frame of any project takes the service meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import requests

from benchmarks.load.concurrent import running
from benchmarks.support.moving_clip import MovingClip
from benchmarks.support.recording_server import RecordingServer, Reply, recording_server
from benchmarks.support.server import SEQUENCE, Server, body, click, cpu_seconds, disc, typed
from benchmarks.support.table import table

THREADS = 16
ROUNDS = 3
PATIENCE_S = 60.0
LONG_PAGES = 5_000
MEASURED_S = 20.0  # at least
VIDEO = """<View>
  <Video name="video" value="$video" framerate="25"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="label" toName="video"><Label value="Cat"/></Labels>
</View>"""
Ask = Callable[[int], bool]
"""Sends the request of that number; returns whether it was answered with masks or boxes."""


def clicked(server: Server, number: int, address: str, project: str) -> bool:
    """Click on a picture."""
    task = {"id": number, "data": {"image": address}}
    request = body(task, [click(number)], project=project)
    results = server.predict(request, PATIENCE_S).json()["results"][0]["result"]
    return any(item["type"] == "brushlabels" for item in results)


def retrieved(server: Server, number: int, address: str, project: str) -> bool:
    """Have a box tracked through a video, as "Retrieve predictions" does."""
    clip = clip_of(number)
    [first, *_] = clip.boxes.values()
    key = {"frame": 1, "enabled": True, "time": 0.04, **first._asdict()}
    value = {"framesCount": clip.frames, "duration": clip.frames / 25, "sequence": [key]}
    region = {"id": "a", "from_name": "box", "to_name": "video", "type": "videorectangle"}
    task = {
        "id": number,
        "data": {"video": address},
        "annotations": [{"id": 1, "result": [{**region, "value": {**value, "labels": ["Cat"]}}]}],
        "predictions": [{"id": 1, "result": []}],
    }
    request = body(task, None, project=project, config=VIDEO)
    return bool(server.predict(request, PATIENCE_S + 30).json()["results"][0])


def clip_of(number: int) -> MovingClip:
    """A clip that no other number has."""
    return MovingClip(12 + number, 640, 480)


def kinds(server: Server, healthy: RecordingServer, folder: Path) -> dict[str, Ask]:
    """What the other project asks for."""
    stored = "data:image/png;base64,{}".format

    def png(number: int) -> bytes:
        return bytes(cv2.imencode(".png", disc(number))[1])

    def cached(_: int) -> bool:
        healthy.serve("/cached.png", png(0))
        return clicked(server, 0, healthy.url + "/cached.png", "another")

    def inline(number: int) -> bool:
        address = stored(base64.b64encode(png(number)).decode())
        return clicked(server, number, address, "another")

    def fetched(number: int) -> bool:
        healthy.serve(f"/{number}.png", png(number))
        return clicked(server, number, f"{healthy.url}/{number}.png", "another")

    def ranged(number: int) -> bool:
        content = clip_of(number).write(folder / "clip.mp4").read_bytes()
        padded = content + bytes(4 << 20)  # several blocks; what follows the boxes is ignored
        healthy.serve(f"/{number}.mp4", padded, ETag=f'"{number}"')
        return retrieved(server, number, f"{healthy.url}/{number}.mp4", "another")

    return {
        "cached picture": cached,
        "picture in the task": inline,
        "new picture": fetched,
        "video in ranges": ranged,
    }


@contextmanager
def attack(server: Server, dripping: RecordingServer) -> Iterator[None]:
    """Many requests that wait for a server that drips, as long as the block lasts."""
    drip = Reply(206, b"x" * 3600, length=50_000_000, drip=1.0)
    drip.headers = {"ETag": '"1"', "Content-Range": "bytes 0-49999999/50000000"}
    dripping.route("/", drip)
    numbers, over = count(), threading.Event()

    def ask(_: int) -> None:
        while not over.is_set():
            number = next(numbers)
            address = f"{dripping.url}/{number}"
            if number % 2:
                clicked(server, 1, address + ".png", "attacker")
            else:
                retrieved(server, 1, address + ".mp4", "attacker")

    with ThreadPoolExecutor(THREADS) as pool:
        asking = pool.map(ask, range(THREADS))
        while dripping.count() < THREADS // 4:
            time.sleep(0.1)
        try:
            yield
        finally:
            over.set()
    list(asking)


def long_or_short(server: Server, number: int, pages: int) -> dict[str, Any]:
    """A task whose pages show a disc that moves to and fro, marked on the first."""
    places = [*range(30), *range(30, 0, -1)]
    for place in set(places):
        path = server.media / f"disc-{place}.png"
        if not path.exists():
            cv2.imwrite(str(path), disc(1, shift=place))
    names = [f"disc-{places[page % len(places)]}.png" for page in range(pages)]
    task = {"id": number, "data": {"frames": [f"/data/local-files/?d={name}" for name in names]}}
    request = body(task, [click(1, page=0)], config=SEQUENCE)
    return {**task, "drafts": [{"id": 1, "result": masks(server, request)}]}


def track(server: Server, task: dict[str, Any], project: str) -> list[dict[str, Any]]:
    """Type "track"; returns the masks that come back in time."""
    return masks(server, body(task, [typed("track")], project=project, config=SEQUENCE))


def masks(server: Server, request: dict[str, Any]) -> list[dict[str, Any]]:
    reply = server.predict(request, 2 * PATIENCE_S).json()
    return [item for item in reply["results"][0]["result"] if item["type"] == "brushlabels"]


def frames_tracked(server: Server) -> float:
    """So far, of all projects."""
    lines = requests.get(server.url + "/metrics", timeout=30).text.splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith("sam2_frames_tracked_total ")]
    return float(value)


def unfinished(server: Server) -> list[str]:
    """Ids of jobs."""
    found = requests.get(server.url + "/jobs", timeout=30).json()["jobs"]
    return [job["id"] for job in found if job["state"] in ("queued", "running")]


def cancel(server: Server, jobs: list[str]) -> None:
    """Jobs, and return when none is left."""
    for job in jobs:
        requests.post(f"{server.url}/jobs/{job}/cancel", json={}, timeout=60)
    while unfinished(server):
        time.sleep(0.1)


def beside_tracks(server: Server, projects: int) -> list[Any]:
    """A row: three pages of one project beside two long tracks of each of so many others."""
    count = 2 * projects
    with ThreadPoolExecutor(count or 1) as pool:  # each reply takes the time that it has
        tasks = [long_or_short(server, 1_000 + number, LONG_PAGES) for number in range(count)]
        for number, task in enumerate(tasks):  # both of one project, then those of the next
            pool.submit(track, server, task, f"{10 + number // 2}.1")
            while len(unfinished(server)) <= number:
                time.sleep(0.1)
    begun, before = time.monotonic(), frames_tracked(server)
    cpu = cpu_seconds(server.pid)
    took, whole = [], 0
    for number in range(ROUNDS):
        task = long_or_short(server, 10 * projects + number + 1, 3)
        asked = time.monotonic()
        found = track(server, task, "5.1")
        took.append(time.monotonic() - asked)
        whole += {item["item_index"] for item in found} >= {1, 2}
    if projects:
        time.sleep(max(0.0, MEASURED_S - (time.monotonic() - begun)))
    cost = (cpu_seconds(server.pid) - cpu) / (frames_tracked(server) - before)
    left = unfinished(server)
    cancel(server, left)
    return [count, len(left), ROUNDS, whole, f"{max(took):.1f}", f"{cost:.2f}"]


def tracks(folder: Path) -> int:
    """See the module."""
    with running(folder) as server:
        rows = [beside_tracks(server, projects) for projects in (0, 1, 3)]
        defects = server.tracebacks()
    head = ["long tracks of others", "not ended", "asked", "answered whole", "slowest, s"]
    print(table([*head, "CPU s a frame"], rows))
    print(f"tracebacks in the log: {defects}")
    return 1 if defects or any(row[0] != row[1] or row[2] != row[3] for row in rows) else 0


def storage() -> int:
    """See the module."""
    rows: list[list[Any]] = []
    numbers = count(1)

    def visit(phase: str, asks: dict[str, Ask]) -> None:
        for kind, ask in asks.items():
            took, answered = [], 0
            for _ in range(ROUNDS):
                begun = time.monotonic()
                answered += ask(next(numbers))
                took.append(time.monotonic() - begun)
            rows.append([phase, kind, ROUNDS, answered, f"{max(took):.1f}"])

    with (
        tempfile.TemporaryDirectory() as name,
        recording_server() as healthy,
        recording_server() as dripping,
        running(Path(name), {"ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}) as server,
    ):
        asks = kinds(server, healthy, Path(name))
        visit("before", asks)
        with attack(server, dripping):
            visit("during", asks)
        visit("after", asks)
        defects = server.tracebacks()
    print(table(["attack", "another project's", "asked", "answered", "slowest, s"], rows))
    print(f"tracebacks in the log: {defects}")
    return 1 if defects or any(row[2] != row[3] for row in rows) else 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("storage", "tracks"))
    part = parser.parse_args().part
    code = 0
    if part in (None, "storage"):
        code |= storage()
    if part in (None, "tracks"):
        with tempfile.TemporaryDirectory() as name:
            code |= tracks(Path(name))
    return code


if __name__ == "__main__":
    sys.exit(main())
