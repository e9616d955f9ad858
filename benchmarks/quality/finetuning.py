"""What fine-tuning brings on a domain that the demo weights do badly on, by number of annotations.

Writes Label Studio exports with 20, 50 and 100 annotated pictures (``benchmarks.quality.cracks``),
runs ``python -m training finetune`` on each, and scores the weights before and after on 60 other
pictures that no run has seen: IoU after one click, for a box, and after three corrective clicks.

    python -m benchmarks.quality.finetuning [--counts 20 50 100] [--out docs/finetuning.md]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from backend.labelstudio.brush_rle import encode_brush
from benchmarks.quality.cracks import CrackPicture, crack_picture
from sam2model import build_model
from training.finetuning.dataset import AnnotatedObject, AnnotatedPage, Dataset, prepare
from training.finetuning.parts import What
from training.finetuning.scores import MEASURES, Scores, evaluate
from training.finetuning.tuner import Plan

LABEL_CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Crack"/></BrushLabels>
</View>"""
TEST_PICTURES = range(10_000, 10_060)
SHOWN = {"click": "one click", "box": "box", "corrections": "three corrections"}
START, END = (
    "<!-- figures: written by benchmarks/quality/finetuning.py -->",
    "<!-- end of figures -->",
)


@dataclass(frozen=True)
class Row:
    """One run."""

    annotations: int
    message: str
    scores: Scores
    seconds: float


def main() -> None:
    """Run, print the table, and put it with the plot where ``--out`` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--what", choices=list(What), type=What, default=What.DECODER)
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Pictures, not embeddings: with ``--what all`` every run has an encoder of its own.
        model = build_model("demo", device="cpu", dtype="float32")
        test = prepare(folder / "test", _test_pages(), model, views=1, keep_pixels=True)
        before = _score(None, test)
        how = ["--what", arguments.what, "--steps", str(arguments.steps)]
        with ThreadPoolExecutor(len(arguments.counts)) as side_by_side:
            run = partial(_finetuned, how=how, folder=folder, test=test)
            rows = list(side_by_side.map(run, arguments.counts))
    text = _table(before, rows)
    print(text)
    if arguments.out:
        _write(arguments.out, text, before, rows)


def write_export(folder: Path, numbers: Sequence[int]) -> tuple[Path, Path]:
    """A JSON export of annotated cracks, as Label Studio writes it, and its label config."""
    tasks = []
    for number in numbers:
        picture = crack_picture(number)
        _, png = cv2.imencode(".png", picture.image[..., ::-1])
        address = "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()
        tasks.append(
            {"id": number + 1, "data": {"image": address}, "annotations": [_annotation(picture)]}
        )
    export, config = folder / f"cracks-{len(numbers)}.json", folder / "config.xml"
    export.write_text(json.dumps(tasks), encoding="utf-8")
    config.write_text(LABEL_CONFIG, encoding="utf-8")
    return export, config


def _annotation(picture: CrackPicture) -> dict[str, Any]:
    height, width = picture.image.shape[:2]
    results = [
        {
            "id": f"crack-{index}",
            "type": "brushlabels",
            "from_name": "mask",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Crack"]},
        }
        for index, mask in enumerate(picture.masks)
    ]
    return {"id": 1, "result": results, "was_cancelled": False}


def _finetuned(count: int, how: Sequence[str], folder: Path, test: Dataset) -> Row:
    export, config = write_export(folder, range(count))
    weights = folder / f"finetuned-{count}.safetensors"
    environment = {
        **os.environ,
        "STATE_DIR": str(folder / f"state-{count}"),
        "CACHE_DIR": str(folder / f"cache-{count}"),
        "SAM2_VARIANT": "demo",
        "SAM2_CHECKPOINT": "",
    }
    command = [sys.executable, "-m", "training", "finetune", "--annotations", str(export)]
    command += ["--label-config", str(config), "--out", str(weights), *how]
    said = folder / f"{count}.txt"
    with said.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, env=environment, stdout=out)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the run with {count} pictures failed")
    message = said.read_text(encoding="utf-8").splitlines()[0]
    seconds = used.ru_utime + used.ru_stime
    print(f"{count}: {seconds:.0f} s of CPU: {message}", flush=True)
    return Row(count, message, _score(weights if weights.exists() else None, test), seconds)


def _test_pages() -> Iterator[AnnotatedPage]:
    for number in TEST_PICTURES:
        picture = crack_picture(number)
        objects = [AnnotatedObject(str(i), mask) for i, mask in enumerate(picture.masks)]
        yield AnnotatedPage(number, 0, False, f"test{number}", picture.image, objects)


def _score(weights: Path | None, test: Dataset) -> Scores:
    model = build_model("demo", weights, device="cpu", dtype="float32")
    return evaluate(model, test, [*test.train, *test.held_out])


def _table(before: Scores, rows: Sequence[Row]) -> str:
    lines = [
        f"| annotated pictures | {' | '.join(SHOWN.values())} | CPU time of the run |",
        "| --- | --- | --- | --- | --- |",
        f"| none: the demo weights | {_cells(before)} | |",
    ]
    lines += [f"| {row.annotations} | {_cells(row.scores)} | {row.seconds:.0f} s |" for row in rows]
    quoted = "\n".join(f"- {row.annotations}: {row.message}" for row in rows)
    objects = before.objects
    return (
        f"Mean IoU on {objects} cracks of {len(TEST_PICTURES)} pictures that no run has seen:\n\n"
        + "\n".join(lines)
        + f"\n\nWhat the runs said of their own held-out pictures:\n\n{quoted}\n"
    )


def _cells(scores: Scores) -> str:
    return " | ".join(f"{scores.means[name]:.3f}" for name in MEASURES)


def _write(path: Path, text: str, before: Scores, rows: Sequence[Row]) -> None:
    picture = path.parent / "images" / "finetuning.png"
    _plot(picture, before, rows)
    link = f"![Held-out IoU by number of annotations]({picture.relative_to(path.parent)})"
    figures = f"{START}\n{text}\n{link}\n{END}"
    page = path.read_text(encoding="utf-8") if path.exists() else f"{START}{END}\n"
    found = re.sub(
        f"{re.escape(START)}.*{re.escape(END)}", lambda _: figures, page, flags=re.DOTALL
    )
    path.write_text(found, encoding="utf-8")


def _plot(path: Path, before: Scores, rows: Sequence[Row]) -> None:
    """The curve, and one test picture beside its truth."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    curve, sample = figure.subplots(1, 2, width_ratios=(3, 2))
    for name in MEASURES:
        values = [before.means[name], *(row.scores.means[name] for row in rows)]
        curve.plot([0, *(row.annotations for row in rows)], values, marker="o", label=SHOWN[name])
    curve.set_xlabel("annotated pictures")
    curve.set_ylabel("mean IoU on unseen pictures")
    curve.set_ylim(0, 1)
    curve.grid(alpha=0.3)
    curve.legend(fontsize=8)
    picture = crack_picture(TEST_PICTURES[0])
    shown = picture.image.copy()
    shown[picture.masks.any(axis=0)] = (230, 25, 75)
    sample.imshow(np.concatenate([picture.image, shown], axis=1))
    sample.set_title("a test picture, and what was annotated", fontsize=8)
    sample.axis("off")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
