"""``python -m benchmarks.load.viewers``: what those who look at the pages cost those who click.

Two frame sequences are tracked, and somebody clicks on a new picture every half second: by turns
alone, and while 20 scripted viewers and one Chromium look at the overview and at the project, with
its pictures. The 95th percentile of the clicks with viewers may be 1.3 times that without, in the
same run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.support.chromium import chromium, new_context
from benchmarks.support.server import SEQUENCE, Server, body, click, cpu_seconds, said, typed
from benchmarks.support.table import table

MOST = 1.3
PROJECT = 1
PAGES = 3000
SETTLING = 5.0  # seconds, in which Chromium starts and the pages are loaded
# What a browser asks for while a page is open, and after how many seconds again.
OVERVIEW = (("/overview/moving", 2.0), ("/overview/clicks", 10.0), ("/overview/doctor", 15.0))
PROJECT_PAGE = ((f"/projects/{PROJECT}/moving", 5.0), (f"/projects/{PROJECT}/runs", 2.0))


class Viewer:
    """Asks as a browser does that has a page open: with the ETag of what it has."""

    def __init__(self, server: Server, number: int, seen: Counter[int]) -> None:
        self._server, self._seen = server, seen
        self._parts = OVERVIEW if number % 2 else PROJECT_PAGE
        self._looks_at_pictures = number % 2 == 0
        self._tags: dict[str, str] = {}
        self._session = requests.Session()

    def look(self, stopped: threading.Event) -> None:
        due = dict.fromkeys((path for path, _ in self._parts), 0.0)
        frame = 0
        while not stopped.is_set():
            now = time.monotonic()
            for path, pause in self._parts:
                if due[path] <= now:
                    due[path] = now + pause
                    self._get(path)
            if self._looks_at_pictures:
                frame += 1
                for job in self._jobs():
                    self._get(f"/jobs/{job}/pictures/{frame % 40}?width=160")
            stopped.wait(1.0)

    def _jobs(self) -> list[str]:
        reply = self._session.get(f"{self._server.url}/projects/{PROJECT}/tasks", timeout=60)
        return [each["job"] for each in reply.json()["tasks"]]

    def _get(self, path: str) -> None:
        headers = {"HX-Request": "true", "If-None-Match": self._tags.get(path, "")}
        reply = self._session.get(self._server.url + path, headers=headers, timeout=60)
        self._seen[reply.status_code] += 1
        self._tags[path] = reply.headers.get("ETag", "")


def measure(folder: Path, *, rounds: int, clicks: int, viewers: int) -> int:
    """See the module; returns the exit code."""
    took: dict[bool, list[float]] = {False: [], True: []}
    spent = {False: 0.0, True: 0.0}
    seen: Counter[int] = Counter()
    server = Server(folder, {"TRACK_BUDGET_SECONDS": "0.5", "TRACK_JOBS": "2"})
    with ExitStack() as running:
        running.callback(server.stop)
        server.wait_ready()
        for number in range(2):
            begin_track(server, number)
        browser = running.enter_context(chromium())
        number = 100
        for turn in range(2 * rounds):
            looked_at = turn % 2 == 1
            cpu = -cpu_seconds(server.pid)
            with ExitStack() as looking:
                if looked_at:
                    looking.enter_context(watched(server, browser, viewers, seen))
                time.sleep(SETTLING)
                for _ in range(clicks):
                    took[looked_at].append(click_seconds(server, number))
                    number += 1
                    time.sleep(0.5)
            spent[looked_at] += cpu + cpu_seconds(server.pid)
        unfinished = requests.get(server.url + "/jobs?unfinished=1", timeout=60).json()["jobs"]
        defects = server.tracebacks()
    p95 = {each: float(np.quantile(took[each], 0.95)) for each in took}
    rows = [
        [
            f"{viewers} viewers and a Chromium" if looked_at else "nobody",
            len(took[looked_at]),
            f"{np.median(took[looked_at]):.3f}",
            f"{p95[looked_at]:.3f}",
            f"{spent[looked_at]:.0f}",
        ]
        for looked_at in (False, True)
    ]
    print(table(["looking", "clicks", "median, s", "p95, s", "CPU of the service, s"], rows))
    ratio = p95[True] / p95[False]
    print(f"p95 with viewers: {ratio:.2f} of that without (at most {MOST})")
    print(f"answers to viewers: {dict(sorted(seen.items()))}; tracebacks: {defects}")
    print(f"tracks that ran to the end of it: {len(unfinished)} of 2")
    failed = sum(count for code, count in seen.items() if code >= 500)
    return int(ratio > MOST or failed > 0 or defects > 0 or len(unfinished) < 2)


def begin_track(server: Server, number: int) -> None:
    """A track that outlasts the measurement."""
    frames = [server.picture(number * 50 + page % 40) for page in range(PAGES)]
    task: dict[str, Any] = {"id": number + 1, "data": {"frames": frames}}
    first = click(number * 50, page=0)
    marked = server.predict(body(task, [first], config=SEQUENCE)).json()["results"][0]["result"]
    task["drafts"] = [{"id": 1, "result": [each for each in marked if each["type"] != "textarea"]}]
    reply = server.predict(body(task, [typed("track")], config=SEQUENCE))
    assert "type status" in said(reply), said(reply)


def click_seconds(server: Server, number: int) -> float:
    """How long a click on a new picture takes."""
    task = {"id": number, "data": {"image": server.picture(number)}}
    begun = time.monotonic()
    reply = server.predict(body(task, [click(number)]))
    seconds = time.monotonic() - begun
    assert "brushlabels" in reply.text or "no object" in said(reply), said(reply)
    return seconds


@contextmanager
def watched(server: Server, browser: Any, viewers: int, seen: Counter[int]) -> Iterator[None]:
    """So many look at the pages, and a Chromium at the overview."""
    stopped = threading.Event()
    looks: list[Callable[[threading.Event], None]] = [
        Viewer(server, number, seen).look for number in range(viewers)
    ]
    threads = [threading.Thread(target=look, args=(stopped,)) for look in looks]
    context = new_context(browser, width=1300, height=900)
    page = context.new_page()
    page.goto(server.url + "/")
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        page.wait_for_timeout(100)  # lets it say what it had to
        context.close()


def main() -> int:
    """Measure; 1 where looking costs more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=20, help="of a turn (20)")
    parser.add_argument("--viewers", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return measure(
            Path(folder),
            rounds=arguments.rounds,
            clicks=arguments.clicks,
            viewers=arguments.viewers,
        )


if __name__ == "__main__":
    sys.exit(main())
