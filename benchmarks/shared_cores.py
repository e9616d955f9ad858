"""What it costs the network that somebody else uses the cores it runs on.

    python -m benchmarks.shared_cores [--rounds N] [--out docs/speed.md]

The demo variant tracks one object through decoded frames, alone and beside a process that does
nothing but use so much CPU time per frame, as decoding does. Turns go round, medians are given.
"others" is what that process used per frame, "longer" by how much a frame took longer by the clock
than alone, and "longer per ms" the quotient. "differing" are the pixels whose mask is another one
than alone: none should be.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from benchmarks.moving_clip import MovingClip
from benchmarks.pairing import load, machine
from benchmarks.report import write_section
from benchmarks.table import table
from benchmarks.video_to_prediction import Alone, track_alone
from sam2model import build_model

HEAD = (
    "others, CPU ms/frame",
    "frame, ms",
    "longer, ms",
    "longer per ms",
    "network, CPU ms/frame",
    "differing",
    "load",
)
_PERIOD_S = 0.06  # about a frame
_BUSY_S = (0.0, 0.006, 0.012, 0.024)


def _use(busy: float, used: Synchronized[float]) -> None:
    """Use the CPU for ``busy`` seconds of every period, for ever."""
    while True:
        start = time.process_time()
        while time.process_time() - start < busy:
            pass
        used.value += time.process_time() - start
        time.sleep(_PERIOD_S - busy)


@contextmanager
def _beside(busy: float) -> Iterator[Synchronized[float]]:
    """A process that uses the CPU; yields the seconds it has used."""
    context = multiprocessing.get_context("spawn")
    used = context.Value("d", 0.0)
    if busy == 0:
        yield used
        return
    process = context.Process(target=_use, args=(busy, used), daemon=True)
    process.start()
    try:
        while used.value == 0:
            time.sleep(0.05)
        yield used
    finally:
        process.kill()
        process.join()


def rows(clip: MovingClip, busy: Sequence[float], rounds: int) -> Iterator[list[str]]:
    """A row per amount of CPU time that others use, the first of which must be none."""
    model = build_model("demo")
    frames = [clip.picture(number) for number in range(clip.frames)]
    warm = track_alone(model, clip, frames, 1)
    turns: dict[float, list[tuple[float, Alone]]] = {each: [] for each in busy}
    for _ in range(rounds):
        for each in busy:
            with _beside(each) as used:
                before = used.value
                alone = track_alone(model, clip, frames, 1)
                turns[each].append((used.value - before, alone))

    def milliseconds(values: Iterator[float]) -> float:
        return statistics.median(values) / clip.frames * 1000

    idle = milliseconds(alone.wall for _, alone in turns[busy[0]])
    for each in busy:
        others = milliseconds(used for used, _ in turns[each])
        wall = milliseconds(alone.wall for _, alone in turns[each])
        cpu = milliseconds(alone.cpu for _, alone in turns[each])
        longer = [f"{wall - idle:.1f}", f"{(wall - idle) / others:.1f}"] if others else ["", ""]
        masks = turns[each][-1][1].masks
        differing = sum(int((masks[key] != warm.masks[key]).sum()) for key in warm.masks)
        yield [f"{others:.1f}", f"{wall:.1f}", *longer, f"{cpu:.1f}", str(differing), load()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured = list(rows(MovingClip(arguments.frames, 640, 360), _BUSY_S, arguments.rounds))
    said = f"demo, 640 x 360, one object, medians of {arguments.rounds}; {machine()}."
    write_section(arguments.out, "shared cores", [said, "", table(HEAD, measured)])


if __name__ == "__main__":
    main()
