"""``python -m benchmarks.load.concurrent``: many requests at once, to a real service.

1. ``masks``: 16 threads, each clicking on the same 100 pictures in an order of its own; every mask
   must equal the one that a service gives that is asked one click after another.
2. ``mixed``: 2,000 requests of all kinds from 8 threads, with caches too small for the pictures;
   the memory must not grow.
3. ``slow``: 100 half-sent heads and 100 stalled bodies, some of callers without credentials; probes
   and clicks beside them must be answered, each probe within a second.
4. ``bombs``: requests that cost more than they weigh, while somebody else clicks. No click may
   fail, and no bomb may take more than 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests

from benchmarks.support.server import (
    CONFIG,
    HEIGHT,
    WIDTH,
    Server,
    body,
    click,
    cpu_seconds,
    disc_place,
    said,
    typed,
)
from benchmarks.support.table import table

TOKEN = "a-token-of-the-benchmark"
FLAT = 0.05  # growth of the memory over a run, as a share of it
MOST_MIB = 1024  # that a bomb may take
CROWDED = 9000  # pixels a side


def masks_equal(folder: Path, *, threads: int, pictures: int) -> int:
    """See the module; returns the exit code."""
    wanted: dict[int, Any] = {}
    begun = time.monotonic()
    with running(folder / "serial") as server:
        addresses = [server.picture(seed) for seed in range(pictures)]
        for seed, address in enumerate(addresses):
            wanted[seed] = mask_of(server, seed, address)
    serial = time.monotonic() - begun
    wrong: list[str] = []

    def visit(server: Server, number: int) -> None:
        order = list(range(pictures))
        random.Random(number).shuffle(order)
        for seed in order:
            found = mask_of(server, seed, server.picture(seed))
            if found != wanted[seed]:
                wrong.append(f"thread {number}, picture {seed}: {str(found)[:200]}")

    with running(folder / "parallel") as server:
        for seed in range(pictures):
            server.picture(seed)
        begun = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda number: visit(server, number), range(threads)))
        parallel = time.monotonic() - begun
        defects = server.tracebacks()
    empty = sum(mask is None for mask in wanted.values())
    total = threads * pictures
    row = [threads, pictures, total, total - len(wrong), empty, defects]
    head = ["threads", "pictures", "clicks", "equal masks", "no mask (serial)", "tracebacks"]
    seconds = [f"{serial:.0f}", f"{parallel:.0f}"]
    print(table([*head, "serial, s", "parallel, s"], [[*row, *seconds]]))
    print("\n".join(wrong[:5]))
    return 1 if wrong or defects or empty == pictures else 0


def mask_of(server: Server, seed: int, address: str) -> Any:
    """The run lengths of the mask under a click, or None."""
    task = {"id": seed, "data": {"image": address}}
    reply = server.predict(body(task, [click(seed)]), timeout=120)
    results = reply.json()["results"][0]["result"]
    found = [item["value"]["rle"] for item in results if item["type"] == "brushlabels"]
    told = [item["value"]["text"] for item in results if item["type"] == "textarea"]
    return found[0] if found else (None if "no object" in str(told) else told)


def mixed(folder: Path, *, count: int, threads: int = 8, pictures: int = 150) -> int:
    """See the module; returns the exit code."""
    took: dict[str, list[float]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    memory: list[tuple[int, int]] = []
    lock = threading.Lock()
    with running(folder / "mixed", {"EMBEDDING_CACHE_MB": "16"}) as server:
        requests_of = kinds(server, pictures)

        def one(number: int) -> None:
            random_source = random.Random(number)
            kind = random_source.choice(list(requests_of))
            begun = time.monotonic()
            reply = requests_of[kind](random_source)
            with lock:
                took[kind].append(time.monotonic() - begun)
                failed[kind] += reply.status_code >= 500
                if number % 20 == 0:
                    memory.append((number, server.resident()))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(count)))
        defects = server.tracebacks()
    rows = [
        [
            kind,
            len(times),
            failed[kind],
            f"{np.median(times):.3f}",
            f"{np.quantile(times, 0.95):.3f}",
        ]
        for kind, times in sorted(took.items())
    ]
    print(table(["kind", "requests", "5xx", "median, s", "p95, s"], rows))
    growth = report_memory(memory)
    print(f"tracebacks in the log: {defects}")
    return 1 if defects or any(failed.values()) or abs(growth) > FLAT else 0


def kinds(
    server: Server, pictures: int
) -> Mapping[str, Callable[[random.Random], requests.Response]]:
    """By kind: sends one request of it."""
    addresses = [server.picture(seed) for seed in range(pictures)]

    def task(source: random.Random) -> tuple[int, dict[str, Any]]:
        seed = source.randrange(pictures)
        return seed, {"id": seed, "data": {"image": addresses[seed]}}

    def clicked(source: random.Random) -> requests.Response:
        seed, on = task(source)
        return server.predict(body(on, [click(seed)], project=f"{seed % 3}.1"))

    def boxed(source: random.Random) -> requests.Response:
        seed, on = task(source)
        return server.predict(body(on, [box(seed)], project=f"{seed % 3}.1"))

    def opened(source: random.Random) -> requests.Response:
        return server.predict(body(task(source)[1], None))

    def retrieved(source: random.Random) -> requests.Response:
        tasks = []
        for _ in range(2):
            seed, on = task(source)
            tasks.append({**on, "annotations": [{"id": 1, "result": [box(seed)]}]})
        return server.predict({**body({}, None), "tasks": tasks})

    def spoken(source: random.Random) -> requests.Response:
        word = source.choice(["help", "status", "clear", "a note", "trakc"])
        return server.predict(body(task(source)[1], [typed(word)]))

    def missing(source: random.Random) -> requests.Response:
        on = {"id": 1, "data": {"image": "/data/local-files/?d=missing.png"}}
        return server.predict(body(on, [click(1)]))

    def connected(source: random.Random) -> requests.Response:
        request = {"project": "1.1", "schema": CONFIG}
        return requests.post(server.url + "/setup", json=request, timeout=60)

    def probed(source: random.Random) -> requests.Response:
        path = source.choice(["/health", "/ready", "/metrics", "/jobs"])
        return requests.get(server.url + path, timeout=60)

    return {
        "click": clicked,
        "box": boxed,
        "open a task": opened,
        "retrieve 2 tasks": retrieved,
        "text": spoken,
        "missing picture": missing,
        "setup": connected,
        "probe": probed,
    }


def box(seed: int) -> dict[str, Any]:
    """A box around the disc, as the editor sends it."""
    x, y, radius = disc_place(seed)
    value = {
        "x": 100 * (x - radius) / WIDTH,
        "y": 100 * (y - radius) / HEIGHT,
        "width": 200 * radius / WIDTH,
        "height": 200 * radius / HEIGHT,
        "rotation": 0,
        "rectanglelabels": ["Cat"],
    }
    kind = {"from_name": "box", "type": "rectanglelabels", "id": f"box-{seed}"}
    return {**click(seed), **kind, "value": value}


def slow_senders(folder: Path, *, senders: int = 200, asked: int = 20) -> int:
    """See the module; returns the exit code."""
    probes: list[float] = []
    clicks = 0
    unanswered = 0
    with running(folder / "slow", {"AUTH_TOKEN": TOKEN}) as server, ExitStack() as opened:
        login = {"Authorization": f"Bearer {TOKEN}"}
        task = {"id": 1, "data": {"image": server.picture(1)}}
        for number in range(senders):
            opened.enter_context(half_sent(server, number))
        for _ in range(asked):
            begun = time.monotonic()
            try:
                requests.get(server.url + "/health", timeout=5).raise_for_status()
            except requests.RequestException:
                unanswered += 1
            probes.append(time.monotonic() - begun)
            try:
                reply = server.predict(body(task, [click(1)]), headers=login, timeout=10)
                clicks += "brushlabels" in reply.text
            except requests.RequestException:
                unanswered += 1
    head = ["slow senders", "probes", "longest probe, s", "clicks with a mask", "unanswered"]
    print(table(head, [[senders, asked, f"{max(probes):.3f}", clicks, unanswered]]))
    return 1 if unanswered or clicks < asked or max(probes) >= 1.0 else 0


def half_sent(server: Server, number: int) -> socket.socket:
    """A connection that goes on with its request some other day: in turn half a head, a body, and
    the body of a caller without credentials."""
    connection = socket.create_connection((server.host, server.port), timeout=30)
    token = TOKEN if number % 4 == 1 else "wrong"
    login = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    kind = "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    connection.sendall(login.encode() if number % 2 == 0 else (login + kind).encode())
    return connection


def bombs(folder: Path, counts: Sequence[int]) -> int:
    """See the module; returns the exit code. ``counts`` of boxes and points are tried."""
    rows, code = [], 0
    with running(folder / "bombs") as server:
        for name, sent in _bombs(server, counts):
            server.predict(body({"id": 1, "data": {"image": server.picture(0)}}, [click(0)]))
            worker, begun = server.worker(), time.monotonic()
            spent = -cpu_seconds(worker)
            with watched(server) as seen, suppress(requests.ConnectionError):
                server.predict(sent, timeout=3600)
                seconds = f"{time.monotonic() - begun:.1f}"
            if worker != server.wait_ready().worker():
                seconds = "ended the service"
            else:
                spent += cpu_seconds(worker)
            more = (max(seen.memory) - seen.memory[0]) / 2**20
            failed = [text for text in seen.clicks if text]
            size, slowest = f"{len(json.dumps(sent)) / 1000:,.0f}", f"{max(seen.seconds):.1f}"
            clicks = [len(seen.clicks), len(failed), slowest]
            rows.append([name, size, seconds, f"{spent:.1f}", f"{more:,.0f}", *clicks])
            code |= int(bool(failed) or more > MOST_MIB or "ended" in seconds)
        code |= int(bool(server.tracebacks()))
    head = [
        "bomb",
        "KB",
        "reply, s",
        "CPU, s",
        "more MiB",
        "clicks meanwhile",
        "failed",
        "slowest, s",
    ]
    print(table(head, rows))
    return code


def _bombs(server: Server, counts: Sequence[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and bodies."""
    picture = {"image": server.picture(1)}
    for count in counts:
        place = random.Random(count)
        marks = []
        for number in range(count):
            x, y = place.uniform(0, 60), place.uniform(0, 60)
            value = {"x": x, "y": y, "width": 30, "height": 30, "rectanglelabels": ["Cat"]}
            marks += [{**box(1), "id": f"b{number}", "value": value}]
            value = {"x": x, "y": y, "width": 0.3, "keypointlabels": ["Cat"]}
            marks += [{**click(1), "id": f"k{number}", "is_positive": None, "value": value}]
        task = {"id": 7, "data": picture, "annotations": [{"id": 1, "result": marks}]}
        yield f"open a task with {count:,} boxes and points", body(task, None, project="2.1")
        sent = body({"id": 7, "data": picture}, marks, project="2.1")
        yield f"the same in an interactive request ({count:,})", sent
    cv2.imwrite(str(server.media / "crowded.png"), np.zeros((CROWDED, CROWDED), np.uint8))
    crowded = {"image": "/data/local-files/?d=crowded.png"}
    marks = [{**box(1), "id": f"b{n}", "value": {**box(1)["value"], "x": n}} for n in range(60)]
    task = {"id": 8, "data": crowded, "annotations": [{"id": 1, "result": marks}]}
    yield "60 boxes on 81 megapixels", {**body({}, None, project="2.1"), "tasks": [task, {"id": 9}]}
    task = {"id": 10, "data": {"a?" * 150_000: picture["image"]}}
    yield "a key of 300 KB", body(task, [click(0)], project="2.1")


@dataclass
class Seen:
    """What the service did meanwhile.

    Attributes:
        memory: bytes of its process, before and now and then.
        clicks, seconds: what each click of another project was told instead of a mask, and how
            long it took.
    """

    memory: list[int]
    clicks: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextmanager
def watched(server: Server) -> Iterator[Seen]:
    """Click for another project, and look at the memory, until the block ends; at least once."""
    seen, ended = Seen([server.resident()]), threading.Event()
    task = {"id": 1, "data": {"image": server.picture(0)}}

    def clicks() -> None:
        while not seen.clicks or not ended.is_set():
            begun = time.monotonic()
            try:
                reply = server.predict(body(task, [click(0)], project="3.1"), timeout=600)
                masks = [r for r in reply.json()["results"][0]["result"] if "rle" in r["value"]]
                seen.clicks.append("" if masks else said(reply) or "nothing")
            except requests.ConnectionError as error:
                seen.clicks.append(str(error))
            seen.seconds.append(time.monotonic() - begun)
            ended.wait(0.5)

    def memory() -> None:
        while not ended.wait(0.02):
            with suppress(OSError):
                seen.memory.append(server.resident())

    threads = [threading.Thread(target=each) for each in (clicks, memory)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def report_memory(memory: list[tuple[int, int]]) -> float:
    """Print how memory went; returns the growth over the second half, as a share.

    In the first half caches fill up and allocators find their size; a leak goes on in the second.
    """
    ordered = sorted(memory)
    late = ordered[len(ordered) // 2 :]
    numbers, sizes = np.array(late, dtype=float).T
    slope = np.polyfit(numbers, sizes, 1)[0]
    growth = float(slope * (numbers[-1] - numbers[0]) / sizes.mean())
    first, middle, last = (ordered[place][1] / 2**20 for place in (0, len(ordered) // 2, -1))
    print(f"memory, MiB: {first:.0f} at first, {middle:.0f} in the middle, {last:.0f} at last")
    print(f"growth over the second half: {growth:+.1%} (allowed: {FLAT:.0%})")
    return growth


@contextmanager
def running(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server that is ready, stopped at the end of the block."""
    server = Server(folder, settings)
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("masks", "mixed", "slow", "bombs"))
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--prompts", type=int, nargs="*", default=[2_000, 20_000])
    given = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.part in (None, "masks"):
            code |= masks_equal(folder, threads=given.threads, pictures=given.pictures)
        if given.part in (None, "mixed"):
            code |= mixed(folder, count=given.requests)
        if given.part in (None, "slow"):
            code |= slow_senders(folder)
        if given.part in (None, "bombs"):
            code |= bombs(folder, given.prompts)
    return code


if __name__ == "__main__":
    sys.exit(main())
