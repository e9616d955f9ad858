"""Time, masks and memory of tracking, beside the official ``SAM2VideoPredictor``.

    python -m benchmarks.tracking --variant sam2.1_hiera_tiny --size 1024 --frames 20
    python -m benchmarks.tracking --out docs/tracking.md

Prints Markdown. Both run the same random weights in float32 on the same frames. Times are
medians over frames that are taken in turn, so that another load on the machine meets both.
Memory is that of a process of its own per tracker; the official one holds the video as a tensor
and is cut off where it would exceed the limit.
"""

import argparse
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.clips import MovingDiscs
from benchmarks.official_tracker import OfficialTracker, make_tracking_pair
from sam2model.mask_runs import MaskRuns
from sam2model.video_tracker import VideoTracker

# Frames before the memory of six frames is full are faster.
_WARM_UP = 7
_CHECKPOINTS = 5
_GIB = 1 << 30


def prompt_objects(tracker: Any, count: int, size: int) -> None:
    """A box for each of ``count`` objects on frame 0, in rows of four."""
    for i in range(count):
        left, top = (0.05 + 0.24 * (i % 4)) * size, (0.1 + 0.4 * (i // 4)) * size
        tracker.prompt(0, i, box=[left, top, left + 0.2 * size, top + 0.3 * size])


def time_per_frame(
    variant: str, size: int, num_frames: int, object_counts: list[int]
) -> Iterator[str]:
    """Rows of the table of times, one per number of objects."""
    predictor, model = make_tracking_pair(variant, size)
    clip = MovingDiscs(num_frames, size)
    images = [clip[i] for i in range(num_frames)]
    for count in object_counts:
        trackers = {
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
        ours, official = (
            statistics.median(seconds[name][_WARM_UP:]) for name in ("ours", "official")
        )
        yield (
            f"| {variant} | {size} | {count} | {ours * 1000:.0f} | {official * 1000:.0f} "
            f"| {official / ours:.2f} | {differing / pixels:.1e} |"
        )


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
    if which == "ours":
        tracker = VideoTracker(model, MovingDiscs(num_frames, size))
    else:
        # Its frames alone, as float32, before the first is tracked.
        num_frames = min(num_frames, limit // (3 * size * size * 4))
        tracker = OfficialTracker(predictor, MovingDiscs(num_frames, size))
    prompt_objects(tracker, 2, size)
    kept = []
    every = max(num_frames // _CHECKPOINTS, 1)
    for done, step in enumerate(tracker.propagate(), start=1):
        kept.append([MaskRuns.encode(mask) for mask in step.masks])
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


def memory_rows(variant: str, size: int, num_frames: int, limit: int) -> Iterator[str]:
    """Rows of the table of memory, one per tracker and checkpoint."""
    for which in ("ours", "official"):
        for done, used in memory_curve(which, variant, size, num_frames, limit):
            yield f"| {which} | {variant} | {size} | {done} | {used / (1 << 20):.0f} |"


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """The document, line by line."""
    yield "# Tracking beside the official predictor"
    yield ""
    yield (
        f"Written by `python -m benchmarks.tracking {shlex.join(sys.argv[1:])}`; its docstring "
        "says how it measures. "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads of a CPU."
    )
    yield ""
    yield "## Time per frame"
    yield ""
    yield "| variant | size | objects | ours, ms | official, ms | quotient | pixels differing |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for variant, size in zip(arguments.variant, arguments.size, strict=True):
        yield from time_per_frame(variant, size, arguments.frames, arguments.objects)
    yield ""
    yield "## Memory"
    yield ""
    yield (
        "Two objects. MiB above a process that has tracked a short clip. Ours grows by the "
        "answers that corrections can start from, in host memory; the device holds the same "
        "after any number of frames."
    )
    yield ""
    yield "| tracker | variant | size | frames | MiB |"
    yield "| --- | --- | --- | --- | --- |"
    yield from memory_rows(
        "demo", arguments.memory_size, arguments.memory_frames, arguments.memory_limit * _GIB
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
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
