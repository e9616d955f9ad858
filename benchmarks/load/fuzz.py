"""``python -m benchmarks.load.fuzz``: what nobody should send, to a real service.

1. ``bodies``: 10,000, half of them mutations of the requests recorded from Label Studio, half
   arbitrary JSON (hypothesis).
2. ``masks``: 20,000 regions with broken PNGs and brush RLEs, in tasks that are opened, in
   interactive requests and in the drafts of sequences to be tracked; and the same PNGs as ``data:``
   addresses of pictures. They may cost decoding processes, never the one that serves.
3. ``bombs``: small inputs that would cost much time or memory: label configs with thousands of
   controls, side by side and nested, millions of empty lists; and heads that are none.

It fails on one answer of 5xx, on one traceback in the log, or where the process has died.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import requests
from hypothesis import HealthCheck, given, settings

from benchmarks.support.fuzz_bodies import (
    HEADS,
    ROUTES,
    Mutator,
    arbitrary,
    bombs,
    like_requests,
    recorded,
)
from benchmarks.support.fuzz_masks import HEIGHT, WIDTH, masks, png_address
from benchmarks.support.server import CONFIG, SEQUENCE, TRACEBACK, Server, body, click, typed
from benchmarks.support.table import table

CONFIGS = (CONFIG, SEQUENCE)
BOXES = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="mask" toName="image"><Label value="Cat"/></RectangleLabels>
  <TextArea name="status" toName="image" editable="false" maxSubmissions="0"/>
</View>"""  # where drawn masks are prompts
REGIONS = 25  # of a body


class Tally:
    """What came back, by route or by what was sent there."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = requests.Session()
        self.answers: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.slowest: defaultdict[str, float] = defaultdict(float)
        self.first_defect = ""

    def send(self, route: str, data: bytes, name: str = "") -> None:
        name = name or route
        begun = time.monotonic()
        reply = self._session.post(
            self._server.url + route,
            data=data,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        self.slowest[name] = max(self.slowest[name], time.monotonic() - begun)
        self.answers[name][reply.status_code // 100] += 1
        if reply.status_code >= 500 and not self.first_defect:
            self.first_defect = f"{route} {reply.status_code} {data[:2000]!r}"

    def report(self) -> int:
        log = self._server.text()
        tracebacks = self._server.tracebacks()
        rows = []
        for name, answers in self.answers.items():
            counts = [answers[2], answers[4], answers[5]]
            rows.append([name, answers.total(), *counts, f"{self.slowest[name]:.2f}"])
        print(table(["sent to", "bodies", "2xx", "4xx", "5xx", "slowest, s"], rows))
        print(f"tracebacks in the log: {tracebacks}")
        if tracebacks:
            print(log[log.index(TRACEBACK) - 500 :][:4000])
        if self.first_defect:
            print(self.first_defect)
        failed = sum(answers[5] for answers in self.answers.values())
        return 1 if failed or tracebacks else 0


def run(server: Server, count: int, seed: int) -> int:
    """Send ``count`` bodies; returns the exit code."""
    addresses = [server.picture(number) for number in range(5)]
    tally = Tally(server)
    share = -(-count // (2 * len(ROUTES)))  # rounded up
    for route in ROUTES:
        seeds = recorded(route) or recorded("/predict")
        for data in islice(Mutator(seeds, seed, addresses), share):
            tally.send(route, data)

        _send_arbitrary(tally, route, share)
    server.check()
    return tally.report()


def run_masks(server: Server, count: int, seed: int) -> int:
    """Send ``count`` broken masks; returns the exit code."""
    tally, worker = Tally(server), server.worker()
    source, values = random.Random(seed), masks(seed)
    picture = {"image": server.picture(0)}
    for number in range(-(-count // REGIONS)):
        drawn = [_region(name, value) for name, value in enumerate(islice(values, REGIONS))]
        task: dict[str, Any] = {"id": number, "data": picture}
        match number % 3:
            case 0:
                kind = "opened task"
                task["annotations"] = [{"id": 1, "result": drawn}]
                sent = body(task, None, config=BOXES)
            case 1:
                kind = "interactive request"
                sent = body(task, drawn, config=BOXES)
            case _:
                kind = "draft to be tracked"
                task["data"] = {"frames": ["/data/upload/1/missing.png"] * REGIONS}
                paged = [{**item, "item_index": page} for page, item in enumerate(drawn)]
                task["drafts"] = [{"id": 1, "result": paged}]
                sent = body(task, [typed("track")], config=SEQUENCE)
        tally.send("/predict", json.dumps(sent).encode(), kind)
        sent = body({"id": number, "data": {"image": png_address(source)}}, [click(0)])
        tally.send("/predict", json.dumps(sent).encode(), "data: address")
    server.check()
    code = tally.report()
    metrics = requests.get(server.url + "/metrics", timeout=60).text
    [lost] = re.findall(r"^sam2_decoders_lost (.*)", metrics, re.MULTILINE)
    died = worker != server.worker()
    print(f"masks: {count}; decoding processes lost: {lost}; the service died: {died}")
    return code or int(died)


def run_bombs(server: Server) -> int:
    """Send what is small and would cost much; returns the exit code."""
    tally = Tally(server)
    for name, data in bombs():
        for route in (*ROUTES, "/validate"):
            tally.send(route, data, name)
    for head in HEADS:
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            begun = time.monotonic()
            connection.sendall(head)
            status = connection.recv(12).split(b" ")[-1]
        tally.answers["heads"][int(status) // 100] += 1
        tally.slowest["heads"] = max(tally.slowest["heads"], time.monotonic() - begun)
    server.check()
    return tally.report()


def _region(number: int, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"mask-{number}",
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {**value, "brushlabels": ["Cat"]},
    }


def _send_arbitrary(tally: Tally, route: str, count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(body=arbitrary() | like_requests(CONFIGS) if route == "/predict" else arbitrary())
    def send(body: Any) -> None:
        tally.send(route, json.dumps(body).encode())

    send()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("bodies", "masks", "bombs"))
    parser.add_argument("--count", type=int, default=10_000, help="of bodies")
    parser.add_argument("--masks", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {"CLICK_BUDGET_SECONDS": "5"})
        try:
            server.wait_ready()
            if chosen.part in (None, "bodies"):
                code |= run(server, chosen.count, chosen.seed)
            if chosen.part in (None, "masks"):
                code |= run_masks(server, chosen.masks, chosen.seed)
            if chosen.part in (None, "bombs"):
                code |= run_bombs(server)
        finally:
            server.stop()
    return code


if __name__ == "__main__":
    sys.exit(main())
