"""Many simulated annotators of the whole service over a cluster, and what many more would take: a
part of ``benchmarks.load.cluster``."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.support.local_cluster import HEAD, PATIENCE, Media
from benchmarks.support.server import SEQUENCE, Server, body, click, cpu_seconds, said, typed
from benchmarks.support.simulated_model import STEP_SECONDS, Seconds
from benchmarks.support.table import table
from demo.processes import free_port

TAKES = Seconds(encode=0.1, prompt=0.03, frame=0.4)
PEOPLE, REPLICAS, TRACKS = 100, 4, 8
THINKING = (3.0, 5.0)  # seconds between two clicks of one
ON_A_PICTURE = 5  # clicks, before the next one
SECONDS_EACH = 60.0  # of a phase
GUNICORN = (
    *("-m", "gunicorn", "benchmarks.support.simulated_model:application()", "--workers=1"),
    *("--worker-class=backend.web.connections.Worker", "--timeout=120", "--no-control-socket"),
    *("--graceful-timeout=8", "--logger-class=backend.logs.GunicornLogger"),
)


@dataclass
class Phase:
    """What came of one stretch of time.

    Attributes:
        clicks: seconds of each.
        failed: answers without a mask.
        frames: that were tracked.
        seconds: how long it lasted.
        front, others: CPU seconds of the front, and of Ray and the replicas.
    """

    clicks: list[float] = field(default_factory=list)
    failed: int = 0
    frames: float = 0.0
    seconds: float = 0.0
    front: float = 0.0
    others: float = 0.0


def annotators(media: Media, folder: Path) -> list[str]:
    """People who click every few seconds each over HTTP, without and with tracks beside them."""
    server = start(folder)
    try:
        wait_whole(server)
        phases = {"nobody": Phase()}
        with measured(server, phases["nobody"]):
            time.sleep(SECONDS_EACH / 3)
        numbers = count(100)
        for what in (f"{PEOPLE} people", f"{PEOPLE} people and {TRACKS} tracks"):
            if "tracks" in what:
                for number in range(TRACKS):
                    begin_track(server, number)
            phases[what] = phase = Phase()
            work(server, phase, numbers)
        tracebacks = server.tracebacks()
    finally:
        server.stop()
    rows = [[what, *cells(phase)] for what, phase in phases.items()]
    head = ["at work", "clicks", "a second", "median, ms", "p95, ms", "most, ms", "without a mask"]
    head += ["frames a second", "front CPU, s a second", "Ray and replicas, s a second"]
    text = (
        f"{REPLICAS} replicas. The model takes {TAKES.encode} s to encode a picture, "
        f"{TAKES.prompt} s for a prompt, {TAKES.frame} s for a frame, without the CPU, and lets "
        f"clicks go first every {STEP_SECONDS} s. "
        f"Each of the people clicks every {THINKING[0]:.0f} to {THINKING[1]:.0f} s, "
        f"{ON_A_PICTURE} times on a picture that nobody else has, in one of ten projects. "
        f"Tracebacks in the log: {tracebacks}."
    )
    return [table(head, rows), "", text, "", *on_paper(list(phases.values()))]


def start(folder: Path) -> Server:
    """The service over replicas that sleep."""
    port = free_port(6400 + os.getpid() % 3000, HEAD)
    names = ("RAY_TMPDIR", "RAY_memory_monitor_refresh_ms", "OMP_NUM_THREADS")
    settings = {
        **{name: os.environ[name] for name in names},
        **TAKES.variable(),
        "CLUSTER_ADDRESS": f"local:{HEAD}:{port}",
        "CLUSTER_REPLICAS": str(REPLICAS),
        "SAM2_VARIANT": "demo",
        "SAM2_DEVICE": "cpu",
        "TRACK_JOBS": str(TRACKS),
        "TRACK_BUDGET_SECONDS": "0.5",
    }
    bind = free_port(21_000 + os.getpid() % 1000)
    command = (sys.executable, *GUNICORN, f"--bind=127.0.0.1:{bind}")
    server = Server(folder, settings, command=command)
    server.port, server.url = bind, f"http://127.0.0.1:{bind}"
    return server


def wait_whole(server: Server) -> None:
    """Until all replicas are ready."""
    server.wait_ready(PATIENCE)
    end = time.monotonic() + PATIENCE
    wanted = f"on {REPLICAS} of {REPLICAS} replicas"
    while wanted not in requests.get(server.url + "/ready", timeout=60).text:
        if time.monotonic() > end:
            raise SystemExit("not all replicas are ready")
        time.sleep(1.0)


@contextmanager
def measured(server: Server, phase: Phase) -> Iterator[None]:
    """What the block takes and brings."""
    front = server.worker()
    begun, own, tree = time.monotonic(), own_seconds(front), cpu_seconds(front)
    frames = tracked(server)
    yield
    phase.seconds = time.monotonic() - begun
    phase.front = own_seconds(front) - own
    phase.others = cpu_seconds(front) - tree - phase.front
    phase.frames = tracked(server) - frames


def work(server: Server, phase: Phase, numbers: Iterator[int]) -> None:
    """All people, for a while, after they have got going."""
    over, counts = threading.Event(), threading.Event()
    lock = threading.Lock()

    def person(number: int) -> None:
        chosen = random.Random(number)
        over.wait(chosen.uniform(0, THINKING[1]))
        with closing(requests.Session()) as session:
            while not over.is_set():
                with lock:
                    picture = next(numbers)
                task = {"id": picture, "data": {"image": server.picture(picture)}}
                request = body(task, [click(picture)], project=f"{10 + number % 10}.1")
                for _ in range(ON_A_PICTURE):
                    begun = time.monotonic()
                    found = has_mask(session, server, request)
                    if over.is_set():
                        return
                    if counts.is_set():
                        phase.clicks.append(time.monotonic() - begun)
                        phase.failed += not found
                    if over.wait(chosen.uniform(*THINKING)):
                        return

    people = [threading.Thread(target=person, args=(number,)) for number in range(PEOPLE)]
    for each in people:
        each.start()
    time.sleep(2 * THINKING[1])
    with measured(server, phase):
        counts.set()
        time.sleep(SECONDS_EACH)
        counts.clear()
    over.set()
    for each in people:
        each.join()


def has_mask(session: requests.Session, server: Server, request: Mapping[str, Any]) -> bool:
    """Whether a click was answered with one."""
    try:
        reply = session.post(server.url + "/predict", json=request, timeout=PATIENCE)
    except requests.RequestException:
        return False
    return reply.ok and "brushlabels" in reply.text


def begin_track(server: Server, number: int, pages: int = 2000) -> None:
    """A track that outlasts the measurement."""
    frames = [server.picture(number + page % 40) for page in range(pages)]
    task: dict[str, Any] = {"id": number + 1, "data": {"frames": frames}}
    project = f"{1 + number % 2}.1"
    first = click(number, page=0)
    asked = body(task, [first], project=project, config=SEQUENCE)
    marked = server.predict(asked).json()["results"][0]["result"]
    task["drafts"] = [{"id": 1, "result": [each for each in marked if each["type"] != "textarea"]}]
    reply = server.predict(body(task, [typed("track")], project=project, config=SEQUENCE))
    assert "type status" in said(reply), said(reply)


def tracked(server: Server) -> float:
    """Frames so far, of all replicas."""
    lines = requests.get(server.url + "/metrics", timeout=60).text.splitlines()
    name = "sam2_frames_tracked_total"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def own_seconds(pid: int) -> float:
    """CPU seconds of a process, without those of its children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(fields[place]) for place in (11, 12)) / os.sysconf("SC_CLK_TCK")


def cells(phase: Phase) -> list[Any]:
    """See the head of the table."""
    seconds = phase.seconds
    ms = 1000 * np.array(phase.clicks or [np.nan])
    spread = ["", "", ""]
    if phase.clicks:
        spread = [f"{value:.0f}" for value in (np.median(ms), np.quantile(ms, 0.95), ms.max())]
    return [
        len(phase.clicks),
        f"{len(phase.clicks) / seconds:.1f}",
        *spread,
        phase.failed,
        f"{phase.frames / seconds:.1f}",
        f"{phase.front / seconds:.2f}",
        f"{phase.others / seconds:.2f}",
    ]


# --- on paper

MANY = 1000
TRACKING = 75  # of them have a track going on
GPU_CLICK, GPU_FRAME = 0.025, 0.04  # seconds; assumed, further clicks and encodings together
HALF = 0.5  # of its time that a GPU, or a front's core, is to be at work


@dataclass(frozen=True)
class Costs:
    """Front CPU seconds: at rest a second, of a click, of a tracked frame."""

    rest: float
    click: float
    frame: float


def costs(nobody: Phase, clicks: Phase, both: Phase) -> Costs:
    """What the phases say of each."""
    rest = nobody.front / nobody.seconds
    of_click = (clicks.front - rest * clicks.seconds) / len(clicks.clicks)
    left = both.front - rest * both.seconds - of_click * len(both.clicks)
    return Costs(rest, of_click, left / both.frames)


def on_paper(phases: list[Phase]) -> list[str]:
    """What so many more people would take, by the costs that were measured."""
    found = costs(*phases)
    clicks = MANY / (sum(THINKING) / 2)
    frames = TRACKING / GPU_FRAME
    cores = clicks * found.click + frames * found.frame
    fronts = int(np.ceil(cores / HALF))
    gpus = (clicks * GPU_CLICK) / HALF + TRACKING
    rows = [
        ["measured", "CPU of the front a click", f"{1000 * found.click:.1f} ms"],
        ["measured", "CPU of the front a tracked frame", f"{1000 * found.frame:.1f} ms"],
        ["measured", "CPU of the front at rest", f"{1000 * found.rest:.0f} ms a second"],
        [
            "assumed",
            f"{MANY} people, a click every {sum(THINKING) / 2:.0f} s",
            f"{clicks:.0f} clicks a second",
        ],
        ["assumed", "GPU time of a click, encoding included", f"{1000 * GPU_CLICK:.0f} ms"],
        [
            "assumed",
            f"{TRACKING} tracks at a time, a GPU for each, {1000 * GPU_FRAME:.0f} ms a frame",
            f"{frames:.0f} frames a second",
        ],
        ["assumed", "load at which a front's core and a GPU for clicks are kept", f"{HALF:.0%}"],
        ["follows", "cores of all fronts", f"{cores:.1f}"],
        ["follows", "fronts, split by project", str(fronts)],
        ["follows", "GPUs", f"{gpus:.0f}"],
        [
            "not tried",
            "one Serve controller with so many replicas; the network between machines",
            "",
        ],
    ]
    return [table([f"{MANY} annotators", "what", "how much"], rows)]
