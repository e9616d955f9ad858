"""What it costs to have an embedding from a lower tier instead of encoding anew.

    python -m benchmarks.speed.embedding_tiers [--variant NAME] [--clicks 12] [--device cpu]
        [--out FILE]

Two tables. *Moves*, in this process: encoding a photo, packing the embedding for the tiers below,
writing it to the disk and reading it back with its checksum, and unpacking it on the device; and
the masks of clicks on it beside those on the fresh one. *Clicks*, whole ``/predict`` requests to
``python -m backend serve``, whose own cache holds a single picture: the first click on a picture
that was never seen, then further ones; the first click on each again, when only the disk has it;
and the same after a restart. Weights are random ones, as time does not depend on them, but the demo
variant's. Files come from the system's page cache, as they do shortly after they were written.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from backend.engine.embedding_disk import EmbeddingDisk
from backend.engine.embedding_tiers import pack, unpack
from backend.labelstudio.geometry import mask_iou
from benchmarks.speed.click_latency import our_click, serve_photos
from benchmarks.support.pairing import Timing, load, machine
from benchmarks.support.reference import build_official, draw_weights
from benchmarks.support.server import Server, cpu_seconds
from benchmarks.support.table import table
from demo.sample_photos import PHOTOS
from sam2model import VARIANTS, ImagePredictor, build_model

MOVES = ("dtype", "move", "ms", "CPU ms", "of encoding, %", "MB", "worst IoU of masks")
CLICKS = ("dtype", "click", "median ms", "CPU ms", "times a further one", "load")
DTYPES = ("float32", "bfloat16")
ROUNDS = 7
PLACES = [(x, y) for x in (0.3, 0.5, 0.7) for y in (0.35, 0.65)]


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="sam2.1_hiera_tiny")
    parser.add_argument("--clicks", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = _weights(arguments.variant, folder)
        moved, clicked = [], []
        for dtype in DTYPES:
            built = build_model(
                arguments.variant, checkpoint=weights, device=arguments.device, dtype=dtype
            )
            moved += list(moves(ImagePredictor(built), dtype, folder / dtype))
            del built
            clicked += list(clicks(arguments, dtype, weights, folder / f"serve-{dtype}"))
    text = (
        f"# Embeddings from the tiers below, {arguments.variant}\n\n"
        f"`python -m benchmarks.speed.embedding_tiers`, device {arguments.device}: {machine()}\n\n"
        f"## Moves\n\n{table(MOVES, moved)}\n## Clicks\n\n{table(CLICKS, clicked)}"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def _weights(variant: str, folder: Path) -> Path | None:
    """A file of random weights; None for those that come with the variant."""
    if variant == "demo":
        return None
    state = draw_weights(build_official(variant, VARIANTS[variant].image_size).state_dict(), 0)
    path = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def moves(predictor: ImagePredictor, dtype: str, folder: Path) -> Iterator[list[str]]:
    """A row for each move."""
    with Image.open(sorted(PHOTOS.glob("*.jpg"))[0]) as image:
        photo = np.array(image.convert("RGB"))
    device = predictor.model.device
    disk = EmbeddingDisk(folder, 1 << 40, 86_400.0)

    def synchronised(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            found = call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return found

        return run

    encode, fresh = _timed(synchronised(lambda: predictor.embed(photo)))
    packing, packed = _timed(synchronised(lambda: pack(fresh)))
    writing, _ = _timed(lambda: disk.store("photo", packed))
    reading, read = _timed(lambda: disk.load("photo"))
    unpacking, again = _timed(synchronised(lambda: unpack(read, device)))
    worst = min(_agreement(predictor, fresh, again))
    size = f"{packed.nbytes / 1e6:.1f}"
    both = Timing(
        [a + b for a, b in zip(reading.wall, unpacking.wall, strict=True)],
        [a + b for a, b in zip(reading.cpu, unpacking.cpu, strict=True)],
    )
    for name, timing in (
        ("encoding", encode),
        ("down: packing", packing),
        ("down: writing", writing),
        ("up from host memory: unpacking", unpacking),
        ("up from the disk: reading, checksum, unpacking", both),
    ):
        share = 100 * timing.median_wall / encode.median_wall
        costs = [f"{1000 * each:.1f}" for each in (timing.median_wall, timing.median_cpu)]
        up = name.startswith("up")
        yield [dtype, name, *costs, f"{share:.1f}", size, f"{worst:.4f}" if up else ""]


def _agreement(predictor: ImagePredictor, fresh: Any, again: Any) -> Iterator[float]:
    height, width = fresh.original_size
    for x, y in PLACES:
        asked: dict[str, Any] = {"points": [[x * width, y * height]], "labels": [1]}
        one, other = (predictor.predict(each, **asked).masks[0] for each in (fresh, again))
        yield mask_iou(one, other) if one.any() or other.any() else 1.0


def _timed(call: Callable[[], Any]) -> tuple[Timing, Any]:
    timing, found = Timing(), call()
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        found = call()
        timing.wall.append(time.perf_counter() - wall)
        timing.cpu.append(time.process_time() - cpu)
    return timing, found


def clicks(
    arguments: argparse.Namespace, dtype: str, weights: Path | None, folder: Path
) -> Iterator[list[str]]:
    """A row for each kind of click."""
    folder.mkdir()
    base = serve_photos(folder, arguments.clicks)
    kinds = {name: Timing() for name in ("never seen", "on the disk", "after a restart", "further")}
    for rounds in (["never seen", "on the disk"], ["after a restart"]):
        server = _server(arguments, dtype, weights, folder)
        try:
            _click_through(server, base, arguments.clicks, rounds, kinds)
        finally:
            server.stop()
    further = kinds["further"].median_wall
    for name, timing in kinds.items():
        cpu = f"{1000 * statistics.mean(timing.cpu):.0f}"
        shown = "a further one" if name == "further" else f"first, {name}"
        ratio = f"{timing.median_wall / further:.2f}"
        yield [dtype, shown, f"{1000 * timing.median_wall:.0f}", cpu, ratio, load()]


def _click_through(
    server: Server, base: str, pictures: int, rounds: list[str], kinds: dict[str, Timing]
) -> None:
    """Click twice on each picture, in every round; the first picture warms up what a process does
    once."""
    worker = server.wait_ready(300).worker()

    def post(body: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = server.predict(body, timeout=300).json()
        return reply

    for number, kind in enumerate(rounds):
        for picture in range(pictures):
            for each, x in ((kind, 30), ("further", 35)):
                cpu, uri = cpu_seconds(worker), f"{base}/{picture}.jpg"
                seconds, _ = our_click(post, uri, picture, x + 10 * number)
                if picture or number:
                    kinds[each].wall.append(seconds)
                    kinds[each].cpu.append(cpu_seconds(worker) - cpu)


def _server(
    arguments: argparse.Namespace, dtype: str, weights: Path | None, folder: Path
) -> Server:
    settings = {
        "SAM2_VARIANT": arguments.variant,
        "SAM2_DTYPE": dtype,
        "SAM2_DEVICE": arguments.device,
        "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
        "CLICK_BUDGET_SECONDS": "300",
        "EMBEDDING_CACHE_MB": "20",  # one picture
        "EMBEDDING_DISK_MB": "4096",
        **({} if weights is None else {"SAM2_CHECKPOINT": str(weights)}),
    }
    return Server(folder / "service", settings)


if __name__ == "__main__":
    main()
