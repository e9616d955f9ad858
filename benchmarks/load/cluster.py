"""``python -m benchmarks.load.cluster [--part NAME ...] [--out FILE]``: what a cluster costs, and
what it gives.

All on one machine: a front, a head, and nodes with loopback addresses of their own. Each part takes
some minutes and fills a table of its own in the document; ``PARTS`` names them. Where the model's
time is simulated (``benchmarks/support/simulated_model.py``), the table says what it takes.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from backend.engine.building import ModelChoice
from backend.engine.engine import Answer, Engine
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.scheduler import Priority
from backend.labelstudio.geometry import Box
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from benchmarks.load.cluster_annotators import annotators
from benchmarks.load.cluster_faults import kills, weights
from benchmarks.support.local_cluster import (
    DEMO,
    PATIENCE,
    Media,
    click,
    clicked,
    cluster,
    environment,
    local,
    on_disc,
    wait_for,
)
from benchmarks.support.pairing import load, machine
from benchmarks.support.reference import draw_weights
from benchmarks.support.report import write_section
from benchmarks.support.server import cpu_seconds
from benchmarks.support.simulated_model import (
    MAKE,
    MAKE_PACED,
    STEP_SECONDS,
    Seconds,
    make,
    make_paced,
)
from benchmarks.support.table import table
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

AT_ONCE = Seconds(0.0, 0.0, 0.0)


# --- masks


def masks(media: Media, folder: Path) -> list[str]:
    """Whether the cluster's masks and scores are those of the local engine, bit for bit."""
    name = "sam2.1_hiera_tiny"
    path = folder / "tiny.safetensors"
    save_file(draw_weights(SAM2(VARIANTS[name], VARIANTS[name].image_size).state_dict(), 0), path)
    rows = []
    for choice, pictures, frames, what in (
        (DEMO, 12, 16, "demo, its weights"),
        (ModelChoice(name, path, device="cpu", dtype="float32"), 2, 4, f"{name}, random weights"),
    ):
        asked = partial(everything, media=media, pictures=pictures, frames=frames)
        with local(make_paced, choice) as engine:
            here = asked(engine)
        with cluster(MAKE_PACED, (1, 1), choice) as found:
            there = asked(found.engine)
        for kind in here:
            rows.append([what, kind, *compared(here[kind], there[kind])])
    head = ["model", "asked", "masks", "of them empty", "differing", "scores differing"]
    return [table(head, rows)]


def everything(
    engine: Engine, media: Media, pictures: int, frames: int
) -> dict[str, list[tuple[PackedMask, float]]]:
    """Masks and scores of what an editor asks."""
    found: dict[str, list[tuple[PackedMask, float]]] = {}

    def answered(
        kind: str, number: int, prompts: Sequence[ObjectPrompt], refine: bool = False
    ) -> None:
        for answer in engine.answer(
            media.picture(number), prompts, Priority.CLICK, PATIENCE, refine=refine
        ):
            assert isinstance(answer, Answer), answer
            found.setdefault(kind, []).append((answer.mask, answer.score))

    for number in range(pictures):
        points: tuple[PointPrompt, ...] = click(number).points
        for more in ((), (PointPrompt(5, 5, False),), (PointPrompt(50, 50, True),)):
            points += more
            answered(
                "clicks, each correcting the last",
                number,
                [ObjectPrompt("image", points=points)],
                True,
            )
        boxes = [Box(x, y, 30, 40) for x in (5, 35, 65) for y in (5, 45)]
        answered("boxes, six at a time", number, [ObjectPrompt("image", box=box) for box in boxes])
    for reverse in (False, True):
        kind = "frames of a track to the beginning" if reverse else "frames of a track to the end"
        first = frames - 1 if reverse else 0
        with closing(engine.open_tracker(media.pages(frames))) as tracker:
            tracker.prompt(first, "a", on_disc(media))
            tracker.prompt(first, "b", PixelPrompt(box=np.array([5.0, 5, 90, 90], np.float32)))
            for _, objects in tracker.step(first, frames, reverse=reverse):
                found.setdefault(kind, []).extend((each.mask, each.iou) for each in objects)
    return found


def compared(
    here: Sequence[tuple[PackedMask, float]], there: Sequence[tuple[PackedMask, float]]
) -> list[int]:
    """Cells: masks, those of them that are empty, those that differ, scores that differ."""
    pairs = list(zip(here, there, strict=True))
    return [
        len(pairs),
        sum(not mask.area for mask, _ in here),
        sum(one != other for (one, _), (other, _) in pairs),
        sum(one != other for (_, one), (_, other) in pairs),
    ]


# --- overhead


@dataclass
class Spent:
    """Of a number of calls.

    Attributes:
        wall: seconds of each.
        front: CPU seconds of this process, for all of them.
        others: CPU seconds of all that it has started: decoders, the replica, Ray.
    """

    wall: list[float] = field(default_factory=list)
    front: float = 0.0
    others: float = 0.0

    @contextmanager
    def measured(self, idle: float) -> Iterator[None]:
        """One more call or several; ``idle`` CPU seconds a second are what others spend anyway."""
        begun, front, tree = time.monotonic(), time.process_time(), cpu_seconds(os.getpid())
        yield
        took, own = time.monotonic() - begun, time.process_time() - front
        self.front += own
        self.others += cpu_seconds(os.getpid()) - tree - own - idle * took


def overhead(media: Media, folder: Path, rounds: int = 6) -> list[str]:
    """What a click and a tracked frame take, in turns on the local engine and on one replica."""
    media = Media(folder / "media", 1920, 1080)
    kinds = {"first click on a picture": 8, "further click": 40, "tracked frame": 20}
    spent = {(kind, here): Spent() for kind in kinds for here in (True, False)}
    torch.set_num_threads(1)
    with local(make_paced) as here, cluster(MAKE_PACED, (1,)) as found:
        resting = Spent()
        with resting.measured(0.0):
            time.sleep(15)
        idle = resting.others / 15
        numbers = count(100)
        with ExitStack() as open_ones:
            engines = {True: here, False: found.engine}
            steps = {each: frames_of(engines[each], media, open_ones) for each in engines}
            for each in engines:  # warm
                next(steps[each])
            for turn in range(rounds + 1):
                new = [next(numbers) for _ in range(kinds["first click on a picture"])]
                for number in new:
                    media.picture(number)  # drawn when it is asked for first: by nobody's clock
                for local_one, engine in engines.items():
                    ways: dict[str, Callable[[int], Any]] = {
                        "first click on a picture": partial(click_on_one, engine, media, new),
                        "further click": partial(click_on_one, engine, media, new),
                        "tracked frame": partial(next_frame, steps[local_one]),
                    }
                    for kind, call in ways.items():
                        to = spent[kind, local_one] if turn else Spent()
                        with to.measured(idle):
                            for number in range(kinds[kind]):
                                begun = time.monotonic()
                                call(number)
                                to.wall.append(time.monotonic() - begun)
    rows = [overhead_row(kind, spent[kind, True], spent[kind, False]) for kind in kinds]
    head = ["1920 x 1080", "calls", "local, ms", "cluster, ms", "more, ms", "ratio"]
    head += ["local CPU, ms", "front CPU, ms", "replica and Ray CPU, ms"]
    text = (
        f"At rest, head, node and replica take {idle:.2f} CPU s a second; that is left out above."
    )
    return [table(head, rows), "", text]


def click_on_one(engine: Engine, media: Media, pictures: Sequence[int], number: int) -> None:
    """On the pictures in turn."""
    clicked(engine, media, pictures[number % len(pictures)])


def next_frame(steps: Iterator[Any], _: int) -> None:
    """The next step of a track."""
    next(steps)


def frames_of(engine: Engine, media: Media, open_ones: ExitStack) -> Iterator[Any]:
    """Frame after frame of a long track."""
    frames = 1000
    tracker = open_ones.enter_context(closing(engine.open_tracker(media.pages(frames))))
    tracker.prompt(0, "a", on_disc(media))
    return tracker.step(0, frames, reverse=False)


def overhead_row(kind: str, here: Spent, there: Spent) -> list[Any]:
    """Medians by the clock, means of the CPU."""
    a, b = (1000 * statistics.median(each.wall) for each in (here, there))
    ours, front, others = (
        1000 * seconds / len(each.wall)
        for each, seconds in (
            (here, here.front + here.others),
            (there, there.front),
            (there, there.others),
        )
    )
    cells = [f"{a:.1f}", f"{b:.1f}", f"{b - a:.1f}", f"{b / a:.2f}"]
    return [kind, len(here.wall), *cells, f"{ours:.1f}", f"{front:.1f}", f"{others:.1f}"]


# --- scaling

SCALED = Seconds(encode=0.4, prompt=0.4, frame=0.4)
WINDOW = 30.0
TRACKS_EACH, CLICKERS_EACH = 2, 12  # of a replica
GROWTH = (1, 1, 2, 4)  # replicas of each further node
LEAST = {"tracks": 0.9, "clicks": 0.85}


def scaling(media: Media, folder: Path) -> list[str]:
    """Frames and clicks a second with 1, 2, 4 and 8 replicas, beside one local engine."""
    os.environ |= SCALED.variable()
    with local(make) as engine:
        alone = rates(engine, media, 1)
    rows, replicas = [], 0
    with cluster(MAKE, ()) as found:
        for more in GROWTH:
            found.add(more)
            replicas += more
            found.wait(replicas)
            rates_here = rates(found.engine, media, replicas)
            rows.append([replicas, *scaled(rates_here, alone, replicas)])
    head = ["replicas", "frames a second", "of N local engines", "clicks a second"]
    local_row = ["local engine", f"{alone['tracks']:.2f}", "1", f"{alone['clicks']:.2f}", "1"]
    text = (
        f"The model takes {SCALED.frame} s for a frame and {SCALED.prompt} s for a click, without "
        f"the CPU. Tracks: {TRACKS_EACH} a replica, all going on. Clicks: {CLICKERS_EACH} people a "
        "replica, each of whom clicks again as soon as the answer is there, on one of 50 pictures "
        "of his own. "
        f"Windows of {WINDOW:.0f} s. Wanted: {LEAST['tracks']} for tracks, {LEAST['clicks']} for "
        "clicks."
    )
    return [table([*head, "of N local engines"], [local_row, *rows]), "", text]


def scaled(found: Mapping[str, float], alone: Mapping[str, float], replicas: int) -> list[str]:
    """Cells: of tracks and clicks the rate, and its share of so many local engines."""
    cells = []
    for kind in ("tracks", "clicks"):
        cells += [f"{found[kind]:.2f}", f"{found[kind] / (replicas * alone[kind]):.2f}"]
    return cells


def rates(engine: Engine, media: Media, replicas: int) -> dict[str, float]:
    """Frames and clicks a second."""

    def track(number: int, done: Callable[[], bool]) -> None:
        with closing(engine.open_tracker(media.pages(500))) as tracker:
            tracker.prompt(0, "a", on_disc(media))
            for _ in tracker.step(0, 500, reverse=False):
                if done():
                    return

    def click_on(number: int, done: Callable[[], bool]) -> None:
        chosen = random.Random(number)
        while True:
            # Pictures of one content, and so encoded once a replica, under many addresses.
            picture = media.picture(0)
            task = 50 * number + chosen.randrange(50)
            engine.answer(
                type(picture)(picture.address, task), [click(0)], Priority.CLICK, PATIENCE
            )
            if done():
                return

    found = {}
    for kind, work, each in (("tracks", track, TRACKS_EACH), ("clicks", click_on, CLICKERS_EACH)):
        found[kind] = rate(work, each * replicas)
    return found


def rate(work: Callable[[int, Callable[[], bool]], None], threads: int) -> float:
    """How often a second so many threads get something done, once all have begun.

    Args:
        work: is given the number of the thread, and what it calls whenever something is done,
            which says whether to end.
    """
    begun, over, times = set(), threading.Event(), []

    def run(number: int) -> None:
        def done() -> bool:
            begun.add(number)
            times.append(time.monotonic())
            return over.is_set()

        work(number, done)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for each in running:
        each.start()
    wait_for(lambda: len(begun) == threads)
    first = time.monotonic()
    time.sleep(WINDOW)
    last = time.monotonic()
    over.set()
    for each in running:
        each.join()
    return sum(first <= each <= last for each in times) / (last - first)


# --- clicks beside tracks

BESIDE = Seconds(encode=0.1, prompt=0.02, frame=0.4)


def tracking(media: Media, folder: Path, clicks: int = 80) -> list[str]:
    """How long clicks take while every replica tracks, beside the same with nothing else to do."""
    os.environ |= BESIDE.variable()
    rows = []
    numbers = count(1000)
    with cluster(MAKE, (1, 1)) as found:
        idle = timed(found.engine, media, numbers, clicks)
        over = threading.Event()
        frames: list[float] = []

        def track(number: int) -> None:
            with closing(found.engine.open_tracker(media.pages(2000))) as tracker:
                tracker.prompt(0, "a", on_disc(media))
                for _ in tracker.step(0, 2000, reverse=False):
                    frames.append(time.monotonic())
                    if over.is_set():
                        return

        threads = [threading.Thread(target=track, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        wait_for(lambda: len(frames) > 8)
        trackers = [each.trackers for each in found.engine.replicas]
        begun = time.monotonic()
        busy = timed(found.engine, media, numbers, clicks)
        pace = sum(each > begun for each in frames) / (time.monotonic() - begun)
        over.set()
        for each in threads:
            each.join()
    for what in idle:
        rows += [[what, "nothing", *spread(idle[what])], [what, "tracks", *spread(busy[what])]]
    text = (
        f"Two replicas, {' and '.join(map(str, trackers))} tracks on them, {pace:.1f} frames a "
        f"second meanwhile of {2 / BESIDE.frame:.1f} that there is time for. The model takes "
        f"{BESIDE.frame} s for a frame, {BESIDE.encode} s to encode a picture, {BESIDE.prompt} s "
        f"for a prompt, and lets clicks go first every {STEP_SECONDS} s: a step."
    )
    return [
        table(["click", "beside", "clicks", "median, ms", "p95, ms", "most, ms"], rows),
        "",
        text,
    ]


def timed(
    engine: Engine, media: Media, numbers: Iterator[int], clicks: int
) -> dict[str, list[float]]:
    """Seconds of first clicks on pictures and of further ones."""
    found: dict[str, list[float]] = {"first on a picture": [], "further": []}
    for _ in range(clicks):
        number = next(numbers)
        for seconds in found.values():
            begun = time.monotonic()
            clicked(engine, media, number)
            seconds.append(time.monotonic() - begun)
            time.sleep(0.1)
    return found


def spread(seconds: Sequence[float]) -> list[Any]:
    """Cells: how many, their median, 95th percentile and most, in ms."""
    ms = 1000 * np.array(seconds)
    return [
        len(ms),
        *(f"{value:.0f}" for value in (np.median(ms), np.quantile(ms, 0.95), ms.max())),
    ]


PARTS: dict[str, Callable[[Media, Path], list[str]]] = {
    "masks": masks,
    "overhead": overhead,
    "scaling": scaling,
    "tracking": tracking,
    "kills": kills,
    "weights": weights,
    "annotators": annotators,
}


def main() -> int:
    """Measure one part, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--out", type=Path, help="the document whose tables are filled")
    arguments = parser.parse_args()
    if len(arguments.part) > 1:
        out = [] if arguments.out is None else ["--out", str(arguments.out)]
        each = [sys.executable, "-m", "benchmarks.load.cluster", *out, "--part"]
        return max(subprocess.run([*each, part], check=False).returncode for part in arguments.part)
    [part] = arguments.part
    torch.set_num_threads(1)
    # The sockets of Ray lie in it, whose names may not be long.
    with tempfile.TemporaryDirectory(prefix="sam2-", dir="/tmp") as name:
        folder = Path(name)
        begun = time.monotonic()
        with environment(folder, AT_ONCE.variable()) as media:
            lines = PARTS[part](media, folder)
        took = time.monotonic() - begun
    lines += ["", f"{took:.0f} s on {machine()}; load average {load()} at the end."]
    write_section(arguments.out, part, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
