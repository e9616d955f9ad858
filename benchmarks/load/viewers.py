"""``python -m benchmarks.load.viewers``: what those who look at the pages cost those who click.

Two frame sequences are tracked, and somebody clicks on a new picture every half second: by turns
alone, and while 20 scripted viewers and one Chromium look at the overview and at the project, with
its pictures. A round is a turn of each kind; the next one has them the other way round, so that
what changes slowly meets both alike. In the median round the 95th percentile of the clicks with
viewers may be 1.3 times that without. How far the rounds lie apart is printed, and how far the
turns without viewers do: that is the machine's own doing.

Those who look are on other machines, and each opened the page at a moment of their own: here they
run in a process of their own, idle wherever the service or who clicks wants the processor.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.support.chromium import chromium, new_context
from benchmarks.support.server import SEQUENCE, Server, body, click, cpu_seconds, said, typed
from benchmarks.support.table import table

MOST = 1.3
LOST = 599  # counts requests without an answer among the statuses
PROJECT = 1
PAGES = 3000
SETTLING = 5.0  # seconds, in which the pages are loaded
LOOK = 1.0  # seconds, from one look at the pictures to the next
STARTING = 120.0  # seconds, for Chromium
# What a browser asks for while a page is open, and after how many seconds again.
OVERVIEW = (("/overview/moving", 2.0), ("/overview/clicks", 10.0), ("/overview/doctor", 15.0))
MOVING = f"/projects/{PROJECT}/moving"
PROJECT_PAGE = ((MOVING, 5.0), (f"/projects/{PROJECT}/runs", 2.0))
_PICTURES = re.compile(r"/jobs/[^/\"]+/pictures/")


class Viewer:
    """Asks as a browser does that has a page open: with the ETag of what it has.

    Args:
        late: how long after the others it opened the page, seconds.
    """

    def __init__(self, url: str, number: int, late: float, seen: Counter[int]) -> None:
        self._url, self._late, self._seen = url, late, seen
        self._parts = OVERVIEW if number % 2 else PROJECT_PAGE
        self._tags: dict[str, str] = {}
        self._pictures: set[str] = set()
        self._session = requests.Session()

    def look(self, stopped: threading.Event) -> None:
        stopped.wait(self._late)
        due = dict.fromkeys((path for path, _ in self._parts), 0.0)
        frame = 0
        while not stopped.is_set():
            now = time.monotonic()
            for path, pause in self._parts:
                if due[path] <= now:
                    due[path] = now + pause
                    self._get(path)
            frame += 1
            for pictures in sorted(self._pictures):
                self._get(f"{pictures}{frame % 40}?width=160")
            stopped.wait(LOOK)

    def _get(self, path: str) -> None:
        headers = {"HX-Request": "true", "If-None-Match": self._tags.get(path, "")}
        try:
            reply = self._session.get(self._url + path, headers=headers, timeout=60)
        except requests.RequestException as error:
            print(f"{path} was not answered: {error}")
            self._seen[LOST] += 1
            return
        self._seen[reply.status_code] += 1
        self._tags[path] = reply.headers.get("ETag", "")
        if path == MOVING and reply.ok and reply.text:
            self._pictures = set(_PICTURES.findall(reply.text))


@dataclass
class Turn:
    """A turn of clicks.

    Attributes:
        took: seconds of each click.
        busy: CPU seconds of the service in each second of it.
    """

    took: list[float]
    busy: float

    @property
    def p95(self) -> float:
        return float(np.quantile(self.took, 0.95))


def measure(folder: Path, *, rounds: int, clicks: int, viewers: int) -> int:
    """See the module; returns the exit code."""
    turns: dict[bool, list[Turn]] = {False: [], True: []}
    seen: Counter[int] = Counter()
    server = Server(folder, {"TRACK_BUDGET_SECONDS": "0.5", "TRACK_JOBS": "2"})
    with ExitStack() as running:
        running.callback(server.stop)
        server.wait_ready()
        for number in range(2):
            begin_track(server, number)
        seeds = iter(range(100, 1 << 30))
        for number in range(rounds):
            for looked_at in (False, True) if number % 2 == 0 else (True, False):
                with ExitStack() as looking:
                    if looked_at:
                        looking.enter_context(watched(server.url, viewers, seen))
                    time.sleep(SETTLING)
                    turns[looked_at].append(click_on(server, seeds, clicks))
        unfinished = requests.get(server.url + "/jobs?unfinished=1", timeout=60).json()["jobs"]
        defects = server.tracebacks()
    ratio = report(turns, f"{viewers} viewers and a Chromium")
    print(f"answers to viewers: {dict(sorted(seen.items()))}; tracebacks: {defects}")
    print(f"tracks that ran to the end of it: {len(unfinished)} of 2")
    failed = sum(count for code, count in seen.items() if code >= 500)
    return int(ratio > MOST or failed > 0 or defects > 0 or len(unfinished) < 2)


def report(turns: dict[bool, list[Turn]], lookers: str) -> float:
    """Print what the turns say; returns the ratio that counts, of the median round."""
    rows = []
    for looked_at, who in ((False, "nobody"), (True, lookers)):
        took = [seconds for turn in turns[looked_at] for seconds in turn.took]
        busy = np.mean([turn.busy for turn in turns[looked_at]])
        p95 = np.quantile(took, 0.95)
        rows.append([who, len(took), f"{np.median(took):.3f}", f"{p95:.3f}", f"{busy:.2f}"])
    head = ["looking", "clicks", "median, s", "p95, s", "CPU of the service, s a second"]
    print(table(head, rows))
    pairs = list(zip(turns[False], turns[True], strict=True))
    ratios = [looked_at.p95 / alone.p95 for alone, looked_at in pairs]
    medians = [
        float(np.median(looked_at.took) / np.median(alone.took)) for alone, looked_at in pairs
    ]
    for name, found in (("p95", ratios), ("median", medians)):
        said = ", ".join(f"{each:.2f}" for each in found)
        print(f"{name} with viewers, of that without, by round: {said}")
    quiet = [turn.p95 for turn in turns[False]]
    ratio = float(np.median(ratios))
    print(
        f"p95 in the median round: {ratio:.2f} of that without viewers (at most {MOST}); "
        f"the turns without lie apart by {max(quiet) / min(quiet):.2f}"
    )
    return ratio


def click_on(server: Server, seeds: Iterator[int], clicks: int) -> Turn:
    """So many clicks, each on a picture that nobody has seen."""
    took: list[float] = []
    begun, cpu = time.monotonic(), -cpu_seconds(server.pid)
    for _ in range(clicks):
        took.append(click_seconds(server, next(seeds)))
        time.sleep(0.5)
    return Turn(took, (cpu + cpu_seconds(server.pid)) / (time.monotonic() - begun))


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
def watched(url: str, viewers: int, seen: Counter[int]) -> Iterator[None]:
    """So many look at the pages, and a Chromium at the overview."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=look_on, args=(url, viewers, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.poll(STARTING), "Chromium did not start"
        ours.recv()
        yield
    finally:
        ours.send("stop")
        seen.update(ours.recv())
        process.join()


def look_on(url: str, viewers: int, until_told: Connection) -> None:
    """What the process does in which those who look are."""
    stand_back()
    seen: Counter[int] = Counter()
    stopped = threading.Event()
    looks: list[Callable[[threading.Event], None]] = [
        Viewer(url, number, LOOK * number / viewers, seen).look for number in range(viewers)
    ]
    threads = [threading.Thread(target=look, args=(stopped,)) for look in looks]
    with chromium() as browser:
        page = new_context(browser, width=1300, height=900).new_page()
        page.goto(url + "/")
        for thread in threads:
            thread.start()
        until_told.send("looking")
        while not until_told.poll():
            page.wait_for_timeout(200)  # lets it say what it has to
        stopped.set()
        for thread in threads:
            thread.join()
    until_told.send(seen)


def stand_back() -> None:
    """Take only what others leave of the processor. Linux shares it out among sessions first, where
    a priority within one of them says nothing."""
    os.setsid()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(FileNotFoundError):  # a kernel that does not do so
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


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
