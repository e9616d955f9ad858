"""``python -m benchmarks.load.owners``: does one project's slow storage hold up the others?

An attacker's project asks for pictures and videos of a server that sends a byte a second, from 16
threads. Another project asks for a picture that is in the cache, one that is in the task itself,
new ones of a healthy server, and videos that are read in ranges: before that, while the attacker
asks, and when he has gone with his downloads still under way. All must be answered.
"""

from __future__ import annotations

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

from benchmarks.load.concurrent import running
from benchmarks.support.moving_clip import MovingClip
from benchmarks.support.recording_server import RecordingServer, Reply, recording_server
from benchmarks.support.server import Server, body, click, disc
from benchmarks.support.table import table

THREADS = 16
ROUNDS = 3
PATIENCE_S = 60.0
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


def main() -> int:
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


if __name__ == "__main__":
    sys.exit(main())
