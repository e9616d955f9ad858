"""Curves of a run as PNG: losses and held-out scores over steps."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_IMAGE_CURVES = ("iou_click", "iou_box", "iou_1_correction", "iou_3_corrections")
_CLIP_CURVES = ("j_plain", "j_occluder", "j_held_still", "presence_balanced")


def plot_run(run: Path) -> Path:
    """Draw ``losses.csv`` and ``held-out.jsonl`` of a run into its ``curves.png``."""
    matplotlib.use("agg")
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    losses, images, clips = figure.subplots(1, 3)
    _plot_losses(losses, run / "losses.csv")
    rows = _held_out_rows(run / "held-out.jsonl")
    for axes, names, title in (
        (images, _IMAGE_CURVES, "held-out images: mean IoU"),
        (clips, _CLIP_CURVES, "held-out clips: mean J, presence"),
    ):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker=".", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path = run / "curves.png"
    figure.savefig(path, dpi=90)
    return path


def _plot_losses(axes: Axes, path: Path) -> None:
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name in ("dice", "iou", "presence"):
                    # A resumed run repeats some steps: the later row counts.
                    curves[f"{row['kind']} {name}"][int(row["step"])] = float(row[name])
                curves[f"{row['kind']} 20 x focal"][int(row["step"])] = 20 * float(row["focal"])
    for name, points in sorted(curves.items()):
        axes.plot(*zip(*sorted(points.items()), strict=True), label=name, linewidth=0.8)
    axes.set_title("training losses")
    axes.set_xlabel("step")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(fontsize=7)


def _held_out_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
