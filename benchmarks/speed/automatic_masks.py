"""Masks of all objects of a picture, beside the official ``SAM2AutomaticMaskGenerator``.

    python -m benchmarks.speed.automatic_masks [--rounds 3] [--threads N] [--out FILE]
    python -m benchmarks.speed.automatic_masks --memory ours 9000 9000
    python -m benchmarks.speed.automatic_masks --memory sam2 3000 2000

Both look at the same picture with the same weights and settings, in turns, in float32. Beside the
times stand how many masks there are, in how many pixels those of the same place in both lists
differ, and the largest difference of a score. With ``--memory`` one picture is looked at in this
process, and the line is a row of the table of memory: size, megapixels, whose generator, masks, and
by how many MB the highest resident size grew beyond that with the model loaded and run once.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.support.official_masks import build_generator, xyxy
from benchmarks.support.pairing import compared, load, machine, take_turns
from benchmarks.support.reference import Pair, make_pair
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from sam2model import AutomaticMask, AutomaticMaskGenerator, build_model

HEAD = (
    "weights",
    "setting",
    "masks",
    "ours, s",
    "peer, s",
    "times faster",
    "ours, CPU s",
    "peer, CPU s",
    "times less CPU",
    "pixels differing",
    "score error",
    "load",
)
SIZE = (1024, 768)

# The network's own size and its own thresholds say little with random weights: their masks are
# noise, and all of them overlap. So one setting keeps all, one about half by predicted IoU.
_NOISE = {"points_per_side": 4, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
_DISCS: dict[str, Any] = {
    "points_per_side": 16,
    "pred_iou_thresh": 0.65,
    "stability_score_thresh": 0.5,
}
_FEW = {**_DISCS, "points_per_side": 8}
SETTINGS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "demo": (
        ("64 points", _FEW),
        ("64 points, crops", {**_FEW, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}),
        ("36 points, use_m2m", {**_FEW, "points_per_side": 6, "use_m2m": True}),
    ),
    "sam2.1_hiera_tiny": (
        ("every mask kept", {**_NOISE, "pred_iou_thresh": 0.0}),
        ("half of the masks kept", {**_NOISE, "pred_iou_thresh": None}),
        ("no mask kept", {**_NOISE, "pred_iou_thresh": 1.0}),
    ),
}


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Forty discs on noise."""
    rng = np.random.default_rng(0)
    image = rng.integers(40, 80, (height, width, 3), dtype=np.uint8)
    side = min(width, height)
    for _ in range(40):
        radius = int(rng.integers(side // 40, side // 8))
        x, y = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius))
        rows, columns = np.ogrid[-radius:radius, -radius:radius]
        part = image[y - radius : y + radius, x - radius : x + radius]
        part[rows * rows + columns * columns < radius * radius] = rng.integers(0, 255, 3)
    return image


def make_pair_of(weights: str) -> Pair:
    """Both models with random weights, or those of the demo."""
    pair = make_pair(weights)
    if weights == "demo":
        trained = build_model("demo", device="cpu", dtype="float32").state_dict()
        pair.official.load_state_dict(trained)
        pair.ours.load_state_dict(trained)
    return pair


def row(
    pair: Pair, setting: str, asked: Mapping[str, Any], rounds: int, size: tuple[int, int]
) -> list[str]:
    """Both generators on one picture."""
    image = picture(*size)
    settings = dict(asked)
    if settings["pred_iou_thresh"] is None:
        settings["pred_iou_thresh"] = _middle_iou(pair, settings, image)
    official = build_generator(pair, settings)
    ours = AutomaticMaskGenerator(pair.ours, **settings)
    runs = {"ours": lambda: ours.generate(image), "sam2": lambda: official.generate(image)}
    timings, found = take_turns(runs, rounds, warm_up=rounds > 1)
    masks, pixels, error = differences(found["ours"], found["sam2"])
    return [pair.name, setting, masks, *compared(timings, "ours", "sam2"), pixels, error, load()]


def differences(ours: list[AutomaticMask], official: list[dict[str, Any]]) -> tuple[str, str, str]:
    """How many masks there are, and how far they differ."""
    if len(ours) != len(official):
        return f"{len(ours)} and {len(official)}", "-", "-"
    pixels, error = 0, 0.0
    for mask, record in zip(ours, official, strict=True):
        pixels += int(np.count_nonzero(mask.mask != record["segmentation"]))
        pixels += int(not np.array_equal(mask.box, xyxy(record)))
        error = max(
            error,
            abs(mask.predicted_iou - record["predicted_iou"]),
            abs(mask.stability_score - record["stability_score"]),
        )
    return str(len(ours)), str(pixels), f"{error:.0e}"


def _middle_iou(pair: Pair, settings: Mapping[str, Any], image: NDArray[np.uint8]) -> float:
    """The predicted IoU that half of the masks have."""
    every = AutomaticMaskGenerator(pair.ours, **{**settings, "pred_iou_thresh": 0.0})
    return float(np.median([mask.predicted_iou for mask in every.generate(image)]))


def measure_memory(which: str, width: int, height: int) -> list[str]:
    """What one picture takes beyond the model, in this process: the highest resident size."""
    pair = make_pair_of("demo")
    settings = _DISCS
    generator = (
        AutomaticMaskGenerator(pair.ours, **settings)
        if which == "ours"
        else build_generator(pair, settings)
    )
    generator.generate(picture(64, 64))
    image = picture(width, height)
    before = _peak_megabytes()
    masks = generator.generate(image)
    after = _peak_megabytes()
    megapixels = f"{width * height / 1e6:.1f}"
    return [f"{width} x {height}", megapixels, which, str(len(masks)), f"{after - before:.0f}"]


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--memory", nargs=3, metavar=("WHICH", "WIDTH", "HEIGHT"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory:
        which, width, height = arguments.memory
        print("|", " | ".join(measure_memory(which, int(width), int(height))), "|")
        return
    rows = []
    for weights, settings in SETTINGS.items():
        pair = make_pair_of(weights)
        for name, asked in settings:
            rows.append(row(pair, name, asked, arguments.rounds, SIZE))
            print(*rows[-1], flush=True)
    said = (
        f"A picture of {SIZE[0]} x {SIZE[1]} pixels, medians of rounds: {arguments.rounds}, "
        f"float32. {machine()}."
    )
    write_section(arguments.out, "times", [said, "", table(HEAD, rows)])


if __name__ == "__main__":
    main()
