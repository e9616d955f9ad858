"""``python -m benchmarks.load.concurrent``: many requests at once, to a real service.

1. ``masks``: 16 threads, each clicking on the same 100 pictures in an order of its own; every mask
   must equal the one that a service gives that is asked one click after another.
2. ``mixed``: 2,000 requests of all kinds from 8 threads, with caches too small for the pictures;
   the memory must not grow.
3. ``slow``: 100 half-sent heads and 100 stalled bodies, some of callers without credentials; probes
   and clicks beside them must be answered, each probe within a second.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.support.server import CONFIG, HEIGHT, WIDTH, Server, body, click, disc_place, typed
from benchmarks.support.table import table

TOKEN = "a-token-of-the-benchmark"
FLAT = 0.05  # growth of the memory over a run, as a share of it


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

    def said(source: random.Random) -> requests.Response:
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
        "text": said,
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
    parser.add_argument("part", nargs="?", choices=("masks", "mixed", "slow"))
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--requests", type=int, default=2000)
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
    return code


if __name__ == "__main__":
    sys.exit(main())
