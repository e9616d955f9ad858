"""The service on a device: clicks through gunicorn, clicks beside two tracks, a video file to its
prediction beside the network alone, and the memory of a long track."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu.check import Row, Rows
from benchmarks.support.clips import MovingDiscs
from sam2model import VideoTracker, build_model

if TYPE_CHECKING:
    from benchmarks.support.server import Server

PART = "service"
CLIENTS = (8, 32)  # at a time, beside the one that clicks alone
PICTURES = 16
VIDEO_FRAMES, ROUNDS = 200, 2
BESIDE = "2 tracks: "
TRACKED_TASK = 1_000_000  # no picture's task


def rows(variant: str, device: torch.device, seconds: float, frames: int) -> Rows:
    """All of it."""
    yield from _served(variant, device, seconds)
    yield from _beside_tracks(variant, device, seconds)
    yield from _video(variant, device)
    yield from _long_track(device, frames)


def _served(variant: str, device: torch.device, seconds: float) -> Rows:
    try:
        from benchmarks.support.server import Server
    except ImportError as error:
        yield Row.missing(PART, "clicks through gunicorn", error)
    else:
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "SAM2_VARIANT": variant,
                "SAM2_DEVICE": str(device),
                "TRACK_BUDGET_SECONDS": "0.1",  # a track goes on behind its reply
            }
            server = Server(Path(folder), settings)
            try:
                server.wait_ready(600)
                clients = count()  # none sees a picture that another has had encoded
                yield from _clicks(server, [next(clients)], seconds, device)
                yield from _served_beside_tracks(server, next(clients), seconds, device)
                for some in CLIENTS:
                    yield from _clicks(server, list(islice(clients, some)), seconds, device)
            finally:
                server.stop()


def _served_beside_tracks(
    server: Server, client: int, seconds: float, device: torch.device
) -> Rows:
    """Clicks of one client through gunicorn while two frame sequences are tracked."""
    from benchmarks.load import owners

    for number in range(2):
        task = owners.long_or_short(server, TRACKED_TASK + number, owners.LONG_PAGES)
        owners.track(server, task, "9.1")
    before, begun = owners.frames_tracked(server), time.monotonic()
    yield from _clicks(server, [client], seconds, device, f"{BESIDE}1 clients")
    rate = (owners.frames_tracked(server) - before) / (time.monotonic() - begun)
    going_on = owners.unfinished(server)
    yield Row(PART, f"{BESIDE}frames a second through gunicorn", f"{rate:.1f}")
    yield Row.at_least(PART, f"{BESIDE}tracks that outlast the clicks", len(going_on), 2)
    owners.cancel(server, going_on)


def _beside_tracks(variant: str, device: torch.device, seconds: float) -> Rows:
    """Clicks at the engine, on an idle one and while two tracks run."""
    what = "clicks beside two tracks"
    try:
        from benchmarks.gpu.engine import Bench
    except ImportError as error:
        yield Row.missing(PART, what, error)
        return
    bench = Bench(variant, device)
    try:
        for tracks in (0, 2):
            with bench.tracking(tracks) as tracked:
                until = time.monotonic() + seconds
                first: list[float] = []
                further: list[float] = []
                while time.monotonic() < until or not further:
                    seed = len(first)
                    first.append(bench.click(seed, 100))
                    further.append(bench.click(seed, 140))
            for kind, times in (("first", first), ("further", further)):
                p50, p95 = statistics.median(times), sorted(times)[int(0.95 * len(times))]
                shown = f"{1000 * p50:.1f} and {1000 * p95:.1f} ms"
                yield Row(PART, f"{tracks} tracks: {kind} click at the engine, p50 and p95", shown)
            if tracks:
                yield Row(PART, f"{tracks} tracks: frames a second", f"{tracked() / seconds:.1f}")
    finally:
        bench.close()


def _video(variant: str, device: torch.device) -> Rows:
    """From a file to the stored prediction, beside the network alone."""
    what = "video to prediction"
    try:
        from benchmarks.speed import video_to_prediction as through
        from benchmarks.support.moving_clip import MovingClip
    except ImportError as error:
        yield Row.missing(PART, what, error)
        return
    clip = MovingClip(VIDEO_FRAMES, 1280, 720)
    with tempfile.TemporaryDirectory() as folder:
        measured = through.rows(
            variant, clip, [1, 2], Path(folder) / "video", rounds=ROUNDS, device=str(device)
        )
        for row, _ in measured:
            found = dict(zip(through.HEAD, row, strict=True))
            each = f"{what}, {found['objects']} objects"
            for name in ("network alone, frames/s", "service, frames/s", "differing"):
                yield Row(PART, f"{each}: {name}", found[name])
            share = float(found["share, %"])
            title = f"{each}: share of the network's rate, %"
            if device.type == "cuda":
                yield Row.at_least(PART, title, share, 85)
            else:
                yield Row(PART, title, f"{share:.0f}")


def _clicks(
    server: Server, clients: list[int], seconds: float, device: torch.device, what: str = ""
) -> Rows:
    from benchmarks.support.server import body, click

    first: list[float] = []
    further: list[float] = []
    failed: list[str] = []
    until = time.monotonic() + seconds

    def annotate(number: int) -> None:
        done = 0
        while time.monotonic() < until:
            seed = number * 1000 + done % PICTURES
            task = {"id": seed, "data": {"image": server.picture(seed)}}
            begun = time.perf_counter()
            reply = server.predict(body(task, [click(seed)], project=f"{number}.1"), timeout=600)
            (first if done < PICTURES else further).append(time.perf_counter() - begun)
            if not reply.ok or not reply.json()["results"][0]["result"]:
                failed.append(reply.text[:100])
            done += 1

    threads = [threading.Thread(target=annotate, args=(number,)) for number in clients]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    what = what or f"{len(clients)} clients"
    yield Row(PART, f"{what}: clicks a second", f"{(len(first) + len(further)) / seconds:.1f}")
    yield Row.at_most(PART, f"{what}: clicks that failed", len(failed), 0)
    for kind, times in (("first", first), ("further", further)):
        if len(times) < 2:
            yield Row.missing(PART, f"{what}: {kind} clicks", "too few in that time")
            continue
        p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        shown = f"{1000 * p50:.1f} and {1000 * p95:.1f} ms"
        aimed = kind == "further" and what == "1 clients" and device.type == "cuda"
        ok = p50 < 0.010 if aimed else None
        bound = "p50 under 10 ms" if aimed else ""
        yield Row(PART, f"{what}: {kind} click, p50 and p95", shown, bound, ok)


def _long_track(device: torch.device, frames: int) -> Rows:
    """Device memory must not grow with the length of a video."""
    what = f"device memory over {frames} frames of 8 objects"
    tracker = VideoTracker(
        build_model("demo", device=device), MovingDiscs(frames + 1, 256), history_frames=16
    )
    for each in range(8):
        tracker.prompt(0, each, box=[20 + 8 * each, 30, 120 + 8 * each, 160])
    held = []
    begun = time.perf_counter()
    for step in islice(tracker.propagate(0), frames):
        if step.frame >= min(100, frames // 2):
            held.append(torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)
    rate = frames / (time.perf_counter() - begun)
    yield Row(PART, "demo: tracked frames a second, 8 objects", f"{rate:.1f}")
    if device.type != "cuda":
        yield Row.missing(PART, what, "the device is not a GPU")
        return
    growth = (max(held[-50:]) - max(held[:50])) / 1e6
    yield Row.at_most(PART, f"{what}: growth, MB", growth, 1.0)
