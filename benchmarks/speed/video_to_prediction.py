"""A video file to the prediction in Label Studio, beside the network alone.

    python -m benchmarks.speed.video_to_prediction [--variants NAME ...] [--frames N] [--out FILE]

The service: ``python -m backend serve`` (gunicorn) is sent "track" for boxes on frame 1; time runs
until a scripted Label Studio, which also serves the video over HTTP, has received the prediction.
That is opening and decoding, resizing, the network, masks at the size of the video, specks removed,
run lengths, the store, key frames, JSON and delivery. The network alone: the same tracker in this
process, on frames that were decoded before, less the time in which it resizes frames and masks.
Both take turns, so that another load on the machine meets both; the first turn warms up.

CPU seconds of the service are those of its process and of the decoders it starts. "differing" are
the pixels in which the stored masks differ from those of the network alone, of all (specks are
removed from both). Weights are the shipped ones for the demo variant and random ones for the
others, whose masks are rougher than real ones: what follows them costs more than in earnest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import requests
import torch
from safetensors.torch import save_file

from backend.engine.segmenting import clean
from backend.labelstudio.geometry import box_to_pixels
from backend.pixels.sandbox.video_decoding import open_video
from backend.settings import Settings
from backend.tracking.store import TrackStore
from benchmarks.speed.around_the_model import HEAD as AROUND
from benchmarks.speed.around_the_model import MEANING, breakdown
from benchmarks.support.moving_clip import FRAMES_PER_SECOND, MovingClip
from benchmarks.support.pairing import Timing, load, machine
from benchmarks.support.reference import draw_weights
from benchmarks.support.scripted_label_studio import API_KEY, ScriptedLabelStudio, track_request
from benchmarks.support.server import Server, cpu_seconds
from benchmarks.support.table import earlier_rows, table
from sam2model import VideoTracker, build_model, video_tracker
from sam2model.memory_policy import POLICIES
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

SHOWN = ("demo", "sam2.1_hiera_tiny")
SIZES = {"demo": ((640, 360), (1280, 720)), "sam2.1_hiera_tiny": ((1280, 720),)}
FRAMES = {"demo": 200, "sam2.1_hiera_tiny": 8}
HISTORY_FRAMES = 16  # as the service tracks
PATIENCE = 900.0
HEAD = (
    "variant",
    "size",
    "objects",
    "frames",
    "dtype",
    "network alone, frames/s",
    "service, frames/s",
    "share, %",
    "network, CPU s/frame",
    "service, CPU s/frame",
    "share, CPU %",
    "differing",
    "load",
)
Masks = dict[tuple[str, int], np.ndarray]


@dataclass
class Alone:
    """One turn of the network alone.

    Attributes:
        wall, cpu: seconds, without resizing.
        around: seconds by what was left out.
        masks: by object and frame.
    """

    wall: float
    cpu: float
    around: dict[str, float]
    masks: Masks


@dataclass
class _LeftOut:
    """Calls whose time does not count."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **named)
            finally:
                self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        return run


def track_alone(model: SAM2, clip: MovingClip, frames: list[np.ndarray], objects: int) -> Alone:
    """Track through decoded frames, with the prompts and the memory of the service's jobs."""
    left_out = _LeftOut()
    masks: Masks = {}
    wall, cpu = time.perf_counter(), time.process_time()
    with (
        _counted(left_out, "preprocess", "resize"),
        _counted(left_out, "resize_masks", "mask upscaling"),
    ):
        policy = POLICIES[Settings().track_memory]
        tracker = VideoTracker(model, frames, history_frames=HISTORY_FRAMES, memory_policy=policy)
        for name, box in list(clip.boxes.items())[:objects]:
            tracker.prompt(0, name, box=box_to_pixels(box, clip.width, clip.height))
        for step in tracker.propagate(0, len(frames)):
            for each, mask in zip(step.object_ids, step.masks, strict=True):
                masks[str(each), step.frame] = mask
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    spent = sum(left_out.wall.values())
    return Alone(wall - spent, cpu - left_out.cpu, left_out.wall, masks)


def _counted(left_out: _LeftOut, function: str, name: str) -> Any:
    timed = left_out.timed(name, getattr(video_tracker, function))
    return mock.patch.object(video_tracker, function, timed)


@dataclass(frozen=True)
class Through:
    """One turn of the service: seconds, and the results that were delivered."""

    wall: float
    cpu: float
    results: list[dict[str, Any]]


class TrackingService:
    """The service as a process of its own, and the Label Studio that it serves.

    Args:
        folder: for everything that it writes.
        settings: environment variables.
    """

    def __init__(self, folder: Path, clip: MovingClip, settings: dict[str, str]) -> None:
        self.clip = clip
        folder.mkdir(parents=True)
        self.file = clip.write(folder / "clip.mp4")
        self.label_studio = ScriptedLabelStudio(self.file.read_bytes())
        self._state = folder / "state" / "tracks.sqlite3"
        environment = {
            "LABEL_STUDIO_URL": self.label_studio.url,
            "LABEL_STUDIO_API_KEY": API_KEY,
            "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
            "TRACK_BUDGET_SECONDS": "0.1",
            **settings,
        }
        self._server = Server(folder, environment)
        self._task = 0

    def __enter__(self) -> TrackingService:
        self._server.wait_ready(300)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self.label_studio.close()

    def run(self, objects: int) -> Through:
        """One task, from the command to the prediction."""
        self._task += 1
        boxes = {
            name: {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
            for name, box in list(self.clip.boxes.items())[:objects]
        }
        body = track_request(self._task, boxes, self.clip.frames, FRAMES_PER_SECOND)
        cpu, start = cpu_seconds(self._server.worker()), time.monotonic()
        requests.post(self._server.url + "/predict", json=body, timeout=60).raise_for_status()
        end, results = self.label_studio.prediction(self._task, PATIENCE)
        return Through(end - start, cpu_seconds(self._server.worker()) - cpu, results)

    def masks(self) -> Masks:
        """What the store holds of the newest task."""
        store = TrackStore(self._state)
        try:
            newest = store.jobs()[0]
            found = store.masks(newest.track)
            return {(each.object_id, each.frame): each.mask.unpack() for each in found}
        finally:
            store.close()


def rows(
    variant: str,
    clip: MovingClip,
    counts: list[int],
    folder: Path,
    *,
    rounds: int = 2,
    dtype: str = "auto",
    device: str = "auto",
) -> Iterator[tuple[list[str], list[str]]]:
    """For each number of objects, a row of the table and one of the table of what is around.

    Args:
        folder: a new one, for what the service writes.
        rounds: turns that count; one goes before them.
    """
    weights = _weights(variant, folder)
    model = build_model(variant, checkpoint=weights, dtype=dtype, device=device)
    settings = {"SAM2_VARIANT": variant, "SAM2_DTYPE": dtype, "SAM2_DEVICE": device}
    if weights is not None:
        settings["SAM2_CHECKPOINT"] = str(weights)
    with TrackingService(folder / "service", clip, settings) as service:
        frames = _decoded(service.file)
        for count in counts:
            alone, through = Timing(), Timing()
            for turn in range(rounds + 1):
                network, whole = track_alone(model, clip, frames, count), service.run(count)
                if turn:
                    alone.wall.append(network.wall)
                    alone.cpu.append(network.cpu)
                    through.wall.append(whole.wall)
                    through.cpu.append(whole.cpu)
            yield (
                [
                    variant,
                    f"{clip.width} x {clip.height}",
                    str(count),
                    str(len(frames)),
                    str(model.compute_dtype).removeprefix("torch."),
                    *_rates(alone, through, len(frames)),
                    compare_masks(service.masks(), network.masks),
                    load(),
                ],
                breakdown(variant, service.file, network, whole.results, folder),
            )


def _weights(variant: str, folder: Path) -> Path | None:
    """A file of random weights under which every object is present; None: the shipped ones."""
    folder.mkdir(parents=True, exist_ok=True)
    if variant == "demo":
        return None
    drawn = draw_weights(SAM2(VARIANTS[variant]).state_dict(), seed=0)
    drawn["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 1000
    path = folder / f"{variant}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in drawn.items()}, path)
    return path


def _decoded(file: Path) -> list[np.ndarray]:
    with file.open("rb") as stream, open_video(stream, read_ahead=0) as frames:
        return [np.array(frames[number]) for number in range(len(frames))]


def _rates(alone: Timing, through: Timing, frames: int) -> list[str]:
    network, service = alone.median_wall, through.median_wall
    return [
        f"{frames / network:.2f}",
        f"{frames / service:.2f}",
        f"{100 * network / service:.0f}",
        f"{alone.median_cpu / frames:.3f}",
        f"{through.median_cpu / frames:.3f}",
        f"{100 * alone.median_cpu / through.median_cpu:.0f}",
    ]


def compare_masks(stored: Masks, alone: Masks) -> str:
    """The pixels that differ once specks are removed, of all.

    Raises:
        ValueError: the masks are not of the same objects and frames.
    """
    if stored.keys() != alone.keys():
        raise ValueError(f"stored are {len(stored)} masks, tracked were {len(alone)}")
    share = Settings().speck_percent / 100
    differing = sum(int((stored[key] != clean(alone[key], share)).sum()) for key in alone)
    return f"{differing / sum(mask.size for mask in alone.values()):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=SHOWN, choices=list(VARIANTS))
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--frames", type=int, help="of each clip; its default depends on variant")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other rows of --out")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    earlier = arguments.out if arguments.add else None
    measured = earlier_rows(earlier, HEAD, arguments.variants)
    around = earlier_rows(earlier, AROUND, arguments.variants)
    with tempfile.TemporaryDirectory() as name:
        for variant in arguments.variants:
            for size in SIZES.get(variant, ((1280, 720),)):
                clip = MovingClip(arguments.frames or FRAMES.get(variant, 12), *size)
                folder = Path(name) / f"{variant} {size[0]}"
                for row, parts in rows(
                    variant,
                    clip,
                    arguments.objects,
                    folder,
                    rounds=arguments.rounds,
                    dtype=arguments.dtype,
                ):
                    print(*row, "|", *parts, flush=True)
                    measured.append(row)
                    around.append(parts)
    text = _document(measured, around, arguments.rounds)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def _document(measured: list[list[str]], around: list[list[str]], rounds: int) -> str:
    return (
        "# A video file to the stored prediction\n\n"
        f"Medians of {rounds} turns. {machine()}; torch's threads are "
        f"{torch.get_num_threads()} in the service too. Printed by\n"
        "`python -m benchmarks.speed.video_to_prediction`, whose head says what is compared.\n\n"
        f"{table(HEAD, measured)}\n\n"
        "## The time around the network\n\n"
        f"{MEANING}\n\n"
        f"{table(AROUND, around)}\n"
    )


if __name__ == "__main__":
    main()
