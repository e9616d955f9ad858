"""A cluster of this machine: a head without a model, and nodes with addresses of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from backend.cluster.deploy import Cluster, Declaration, Node, end_node, start_node
from backend.engine.engine import Answer, Engine, ModelChoice
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.expected import ExpectedError
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.recipes import Pages, Picture
from backend.settings import Settings
from benchmarks.support.server import HEIGHT, WIDTH, disc, disc_place
from demo.processes import free_port

if TYPE_CHECKING:
    from backend.cluster.ray_engine import RayEngine

PATIENCE = 600.0
SPECK_SHARE = 0.005
BUDGET = 60.0  # of a click
DEMO = ModelChoice("demo", device="cpu")
HEAD = "127.0.0.2"


class Media:
    """Pictures in a folder that the service may read: a bright disc on noise, each another one."""

    def __init__(self, folder: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
        self._folder, self._size = folder, (width, height)

    def picture(self, number: int, shift: int = 0) -> Picture:
        """The same for the same numbers; ``shift`` moves the disc to the right."""
        width, height = self._size
        path = self._folder / f"{number}-{shift}-{width}x{height}.png"
        if not path.exists():
            cv2.imwrite(str(path), cv2.resize(disc(number, shift), self._size))
        return Picture(f"/data/local-files/?d={path.name}", None)

    def pages(self, count: int, number: int = 0, distinct: int = 30) -> Pages:
        """A disc that moves to and fro."""
        places = [*range(distinct), *range(distinct - 2, 0, -1)]
        return Pages(
            tuple(self.picture(number, places[page % len(places)]) for page in range(count))
        )

    def point(self, number: int) -> tuple[float, float]:
        """The middle of the disc, pixels."""
        x, y, _ = disc_place(number)
        return x * self._size[0] / WIDTH, y * self._size[1] / HEIGHT


def click(number: int) -> ObjectPrompt:
    """On the middle of the disc of a picture."""
    x, y, _ = disc_place(number)
    return ObjectPrompt("image", points=(PointPrompt(100 * x / WIDTH, 100 * y / HEIGHT, True),))


def clicked(engine: Engine, media: Media, number: int) -> None:
    """A click that must be answered."""
    [answer] = engine.answer(media.picture(number), [click(number)], Priority.CLICK, PATIENCE)
    assert isinstance(answer, Answer), answer


@contextmanager
def environment(folder: Path, more: Mapping[str, str]) -> Iterator[Media]:
    """What engines here and in the replicas read their settings from, and pictures for them."""
    media = folder / "media"
    media.mkdir(exist_ok=True)
    before = dict(os.environ)
    os.environ |= {
        "CACHE_DIR": str(folder / "cache"),
        "STATE_DIR": str(folder / "state"),
        "SAM2_DEVICE": "cpu",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(media),
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": str(folder),
        "RAY_memory_monitor_refresh_ms": "0",  # others use the machine too
        **more,
    }
    try:
        yield Media(media)
    finally:
        os.environ.clear()
        os.environ.update(before)


class LocalCluster:
    """Its nodes can be added and killed one by one.

    Args:
        make: see ``Declaration``.
        choice: the model.
    """

    def __init__(self, make: str, choice: ModelChoice) -> None:
        port = free_port(6400 + os.getpid() % 3000, HEAD)
        settings = Settings.from_env(os.environ)
        self.cluster = Cluster.of(settings, f"local:{HEAD}:{port}", replicas=0)
        from backend.cluster.ray_engine import RayEngine  # Ray, after its environment is set

        declared = Declaration(make, SPECK_SHARE, choice)
        self.engine: RayEngine = RayEngine(choice, self.cluster, declared, Metrics())
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def add(self, replicas: int = 1, host: str = "") -> str:
        """Another node; returns its address when it takes part."""
        host = host or f"127.2.{os.getpid() % 250}.{len(self.nodes) + 11}"
        end = time.monotonic() + PATIENCE
        while not self._runs(host) or host not in self._alive():
            if not self._runs(host):
                output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the node runs
                self.nodes[host] = start_node(Node(host, replicas, 0), self.cluster.head, output)
            if time.monotonic() > end:
                raise SystemExit(f"the node {host} does not start")
            time.sleep(0.2)
        return host

    def _runs(self, host: str) -> bool:
        """The cluster takes a node that was killed for alive for some seconds more."""
        return host in self.nodes and self.nodes[host].poll() is None

    def wait(self, replicas: int) -> None:
        """Until so many answer."""
        wait_for(lambda: len(self.engine.replicas) == replicas)
        self.engine.wait_ready(PATIENCE)

    def kill_node(self, host: str) -> None:
        """The machine goes dark: all of its processes at once."""
        listed = subprocess.run(
            ["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True
        ).stdout
        node = self.nodes.pop(host)
        for line in listed.splitlines():
            pid, _, arguments = line.strip().partition(" ")
            if f"={host} " in f"{arguments} " and int(pid) != os.getpid():
                os.kill(int(pid), signal.SIGKILL)
        node.kill()
        node.wait()

    def close(self) -> None:
        """End all of it."""
        self.engine.close()
        for node in self.nodes.values():
            end_node(node)

    def _alive(self) -> set[str]:
        import ray

        if not ray.is_initialized():
            return set()
        return {each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]}


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it did not happen in time")
        time.sleep(0.05)


@contextmanager
def local(make: Any, choice: ModelChoice = DEMO) -> Iterator[Engine]:
    """The engine of this process."""
    engine, _ = make(choice, speck_share=SPECK_SHARE)
    with closing(engine):
        engine.wait_ready(PATIENCE)
        yield engine


@contextmanager
def cluster(make: str, nodes: Sequence[int], choice: ModelChoice = DEMO) -> Iterator[LocalCluster]:
    """One with so many replicas on each node."""
    with closing(LocalCluster(make, choice)) as found:
        for replicas in nodes:
            found.add(replicas)
        if nodes:
            found.wait(sum(nodes))
        yield found


def on_disc(media: Media, number: int = 0) -> PixelPrompt:
    """A click on the first frame of a track."""
    return PixelPrompt(points=np.array([media.point(number)]), positive=np.array([True]))


class Clicking:
    """Somebody who clicks on one picture after the other: how long each answer took, and what was
    none."""

    def __init__(self, engine: Engine, media: Media, pictures: int = 8) -> None:
        self._engine, self._media, self._pictures = engine, media, pictures
        self.seconds: list[float] = []
        self.answers: list[tuple[int, PackedMask]] = []
        self.failed: list[ExpectedError] = []

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """In a thread of its own, as long as the block lasts."""
        over = threading.Event()

        def run() -> None:
            for number in count():
                if over.is_set():
                    return
                self.click(number % self._pictures)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def click(self, number: int) -> None:
        """One click."""
        begun = time.monotonic()
        try:
            [answer] = self._engine.answer(
                self._media.picture(number), [click(number)], Priority.CLICK, BUDGET
            )
            if isinstance(answer, Answer):
                self.answers.append((number, answer.mask))
            elif isinstance(answer, ExpectedError):
                self.failed.append(answer)
        except ExpectedError as error:
            self.failed.append(error)
        self.seconds.append(time.monotonic() - begun)
