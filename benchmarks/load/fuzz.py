"""``python -m benchmarks.load.fuzz``: 10,000 bodies that nobody should send, to a real service.

Half are mutations of the requests recorded from Label Studio, half arbitrary JSON (hypothesis).
It fails on one answer of 5xx, on one traceback in the log, or where the process has died.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import requests
from hypothesis import HealthCheck, given, settings

from benchmarks.support.fuzz_bodies import ROUTES, Mutator, arbitrary, like_requests, recorded
from benchmarks.support.server import CONFIG, SEQUENCE, TRACEBACK, Server
from benchmarks.support.table import table

CONFIGS = (CONFIG, SEQUENCE)


class Tally:
    """What came back, by route."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = requests.Session()
        self.answers: dict[str, Counter[int]] = {route: Counter() for route in ROUTES}
        self.slowest = dict.fromkeys(ROUTES, 0.0)
        self.first_defect = ""

    def send(self, route: str, data: bytes) -> None:
        begun = time.monotonic()
        reply = self._session.post(
            self._server.url + route,
            data=data,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        self.slowest[route] = max(self.slowest[route], time.monotonic() - begun)
        self.answers[route][reply.status_code // 100] += 1
        if reply.status_code >= 500 and not self.first_defect:
            self.first_defect = f"{route} {reply.status_code} {data[:2000]!r}"

    def report(self) -> int:
        log = self._server.text()
        tracebacks = self._server.tracebacks()
        rows = []
        for route, answers in self.answers.items():
            counts = [answers[2], answers[4], answers[5]]
            rows.append([route, answers.total(), *counts, f"{self.slowest[route]:.2f}"])
        print(table(["route", "bodies", "2xx", "4xx", "5xx", "slowest, s"], rows))
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
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given_arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {"CLICK_BUDGET_SECONDS": "5"})
        try:
            server.wait_ready()
            return run(server, given_arguments.count, given_arguments.seed)
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
