"""Time, masks and memory of tracking, beside the official ``SAM2VideoPredictor``.

    python -m benchmarks.speed.tracking --variant sam2.1_hiera_tiny --size 1024 --frames 20
    python -m benchmarks.speed.tracking --out docs/measurements/tracking.md

Prints Markdown. With --out every row is kept in a file beside it as soon as it is measured, and
the same command goes on after an interruption with the rows that are missing. Both run the same
random weights in float32 on the same frames. Times are medians over frames that are taken in turn,
so that another load on the machine meets both. Memory is that of a process of its own per tracker;
the official one holds the video as a tensor and is cut off where it would exceed the limit. "ours,
short history" is what the service uses, whose jobs go through the frames once.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.clips import MovingDiscs
from benchmarks.support.official_tracker import OfficialTracker, make_tracking_pair
from sam2model.video_tracker import VideoTracker

# Frames before the memory of six frames is full are faster.
_WARM_UP = 7
_CHECKPOINTS = 5
_GIB = 1 << 30
_SHORT_HISTORY = 16


def prompt_objects(tracker: Any, count: int, size: int) -> None:
    """A box for each of ``count`` objects on frame 0, in rows of four."""
    for i in range(count):
        left, top = (0.05 + 0.24 * (i % 4)) * size, (0.1 + 0.4 * (i // 4)) * size
        tracker.prompt(0, i, box=[left, top, left + 0.2 * size, top + 0.3 * size])


def time_per_frame(variant: str, size: int, num_frames: int, count: int) -> list[str]:
    """The row of the table of times for ``count`` objects."""
    predictor, model = make_tracking_pair(variant, size)
    clip = MovingDiscs(num_frames, size)
    images = [clip[i] for i in range(num_frames)]
    trackers: dict[str, Any] = {
        "ours": VideoTracker(model, images),
        "official": OfficialTracker(predictor, images),
    }
    for tracker in trackers.values():
        prompt_objects(tracker, count, size)
    runs = {name: tracker.propagate() for name, tracker in trackers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    differing = pixels = 0
    for _ in range(num_frames):
        masks = {}
        for name, run in runs.items():
            start = time.perf_counter()
            masks[name] = next(run).masks
            seconds[name].append(time.perf_counter() - start)
        differing += int((masks["ours"] != masks["official"]).sum())
        pixels += masks["ours"].size
    ours, official = (statistics.median(seconds[name][_WARM_UP:]) for name in ("ours", "official"))
    return [
        f"| {variant} | {size} | {count} | {ours * 1000:.0f} | {official * 1000:.0f} "
        f"| {official / ours:.2f} | {differing / pixels:.1e} | {os.getloadavg()[0]:.1f} |"
    ]


def resident_bytes() -> int:
    """Memory of this process that is not shared with files, from Linux' procfs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status: memory is measured on Linux only")


def measure_memory(
    which: str, variant: str, size: int, num_frames: int, limit: int, answers: Connection
) -> None:
    """Track two objects in this process; send (frames done, bytes above the start) at times."""
    torch.set_num_threads(1)
    predictor, model = make_tracking_pair(variant, size)
    # Everything that is paid once, before the start is measured.
    warm_up = VideoTracker(model, MovingDiscs(8, size))
    prompt_objects(warm_up, 2, size)
    list(warm_up.propagate())
    start = resident_bytes()
    tracker: Any
    if which.startswith("ours"):
        history = _SHORT_HISTORY if which == "ours, short history" else None
        tracker = VideoTracker(model, MovingDiscs(num_frames, size), history_frames=history)
    else:
        # Its frames alone, as float32, before the first is tracked.
        num_frames = min(num_frames, limit // (3 * size * size * 4))
        tracker = OfficialTracker(predictor, MovingDiscs(num_frames, size))
    prompt_objects(tracker, 2, size)
    kept = []
    every = max(num_frames // _CHECKPOINTS, 1)
    for done, step in enumerate(tracker.propagate(), start=1):
        kept.append(zlib.compress(np.packbits(step.masks).tobytes()))
        used = resident_bytes() - start
        if done % every == 0 or done == num_frames or used > limit:
            answers.send((done, used))
        if used > limit:
            break
    answers.close()


def memory_curve(
    which: str, variant: str, size: int, num_frames: int, limit: int
) -> list[tuple[int, int]]:
    """Run :func:`measure_memory` in a new process and collect what it sends."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=measure_memory, args=(which, variant, size, num_frames, limit, sender)
    )
    process.start()
    sender.close()
    curve = []
    while True:
        try:
            curve.append(receiver.recv())
        except EOFError:
            break
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the process that measured {which} ended with {process.exitcode}")
    return curve


def memory_rows(which: str, variant: str, size: int, num_frames: int, limit: int) -> list[str]:
    """Rows of the table of memory for one tracker, one per checkpoint."""
    return [
        f"| {which} | {variant} | {size} | {done} | {used / (1 << 20):.0f} |"
        for done, used in memory_curve(which, variant, size, num_frames, limit)
    ]


class Kept:
    """Rows that have been measured, in a file, so that an interruption costs none of them.

    Args:
        path: of the file; None to keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, list[str]] = {}
        if path is not None and path.exists():
            self._rows = json.loads(path.read_text())

    def rows(self, measure: Callable[..., list[str]], *arguments: str | int) -> list[str]:
        """The rows that ``measure`` gives for these arguments, now or in an earlier run."""
        name = json.dumps([measure.__name__, *arguments])
        if name not in self._rows:
            self._rows[name] = measure(*arguments)
            if self._path is not None:
                self._path.write_text(json.dumps(self._rows, indent=1))
        return self._rows[name]

    def remove(self) -> None:
        """All is measured, and written elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def report(arguments: argparse.Namespace, kept: Kept) -> Iterator[str]:
    """The document, line by line."""
    yield "# Tracking beside the official predictor"
    yield ""
    yield (
        f"Written by `python -m benchmarks.speed.tracking {shlex.join(sys.argv[1:])}`; its "
        "docstring says how it measures. "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads of a CPU. The load is "
        "the load average of the last minute after each row; this program alone makes as much as "
        "it has threads."
    )
    yield ""
    yield "## Time per frame"
    yield ""
    yield (
        "| variant | size | objects | ours, ms | official, ms | quotient | pixels differing "
        "| load |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for variant, size in zip(arguments.variant, arguments.size, strict=True):
        for count in arguments.objects:
            yield from kept.rows(time_per_frame, variant, size, arguments.frames, count)
    yield ""
    yield "## Memory"
    yield ""
    yield (
        "Two objects. MiB of host memory above a process that has tracked a short clip, with the "
        "masks kept compressed. Ours grows by the answers that corrections can start from, unless "
        "their number is limited; the device holds the same after any number of frames."
    )
    yield ""
    yield "| tracker | variant | size | frames | MiB |"
    yield "| --- | --- | --- | --- | --- |"
    for which in ("ours", "ours, short history", "official"):
        yield from kept.rows(
            memory_rows,
            which,
            "demo",
            arguments.memory_size,
            arguments.memory_frames,
            arguments.memory_limit * _GIB,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", nargs="+", default=["demo", "sam2.1_hiera_tiny"])
    parser.add_argument("--size", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--frames", type=int, default=20, help="frames that are timed")
    parser.add_argument("--memory-frames", type=int, default=2000)
    parser.add_argument("--memory-size", type=int, default=128)
    parser.add_argument("--memory-limit", type=int, default=4, help="GiB")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.frames <= _WARM_UP:
        parser.error(f"--frames must be more than {_WARM_UP}, the frames of warming up")
    part = arguments.out.with_suffix(".part.json") if arguments.out is not None else None
    kept = Kept(part)
    lines = []
    for line in report(arguments, kept):
        print(line, flush=True)
        lines.append(line)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n")
    kept.remove()


if __name__ == "__main__":
    main()
