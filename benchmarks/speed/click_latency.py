"""How long a click takes, beside the usual Label Studio SAM 2 backend's way.

Ours: the whole ``/predict`` request of a click to ``python -m backend serve`` (gunicorn): JSON in,
the photo over HTTP, network, mask, brush RLE, JSON out; on an image never seen (miss) and on one
seen before (hit). The usual way, as in Label Studio's own ``segment_anything_2_image`` example:
open the file, encode it and predict, on every click, with the official ``sam2`` package; in this
process, so without the HTTP and JSON that it has as well. Both take turns on the same files with
the same weights: the shipped ones for the demo variant, random ones for the others (time does not
depend on the values). Times are medians; CPU times, which are counted in steps of 10 ms, are means,
of the service's process and its decoders. The masks are compared; to this end the service neither
removes specks nor looks closer at small objects here, which the official package does not do.

    python -m benchmarks.speed.click_latency [--variants NAME ...] [--clicks 20] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_studio_sdk.converter.brush import decode_rle, encode_rle
from PIL import Image
from safetensors.torch import save_file

from benchmarks.support import torchvision_stand_in
from benchmarks.support.pairing import Timing, load, machine
from benchmarks.support.reference import build_official, draw_weights
from benchmarks.support.server import Server, cpu_seconds
from benchmarks.support.table import earlier_rows, table
from demo.sample_photos import PHOTOS
from sam2model import VARIANTS, build_model

VARIANTS_SHOWN = ("demo", "sam2.1_hiera_tiny", "sam2.1_hiera_base_plus")
WIDTH, HEIGHT = 1280, 853
HEAD = (
    "variant",
    "first click, ms",
    "further click, ms",
    "usual way, ms",
    "first, times faster",
    "further, times faster",
    "first, CPU ms",
    "further, CPU ms",
    "usual way, CPU ms",
    "further, times less CPU",
    "IoU",
    "load",
)
Post = Callable[[dict[str, Any]], dict[str, Any]]

CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Object"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>
</View>"""


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=VARIANTS_SHOWN)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other rows of --out")
    arguments = parser.parse_args()
    earlier = arguments.out if arguments.add else None
    rows = earlier_rows(earlier, HEAD, arguments.variants)
    with tempfile.TemporaryDirectory() as folder:
        base = serve_photos(Path(folder), arguments.clicks)
        for variant in arguments.variants:
            rows.append(measure(variant, arguments.clicks, Path(folder), base))
            print(*rows[-1], flush=True)
    text = _report(rows, arguments.clicks)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def serve_photos(folder: Path, count: int) -> str:
    """``count`` different JPEG files of one size, served over HTTP; returns the address."""
    sources = sorted(PHOTOS.glob("*.jpg"))
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as photo:
            shift = 4 * number  # another crop, so another file
            picture = photo.convert("RGB").resize((WIDTH + 100, HEIGHT + 100))
            picture.crop((shift, shift, shift + WIDTH, shift + HEIGHT)).save(
                folder / f"{number}.jpg", quality=92
            )
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: the table is the output."""


def measure(variant: str, clicks: int, folder: Path, base: str) -> list[str]:
    """The row of a variant.

    Args:
        folder: with the photos; the service writes there too.
        base: their address.
    """
    state = build_model(variant).state_dict() if variant == "demo" else None
    official = build_official(variant, VARIANTS[variant].image_size)
    if state is None:
        state = draw_weights(official.state_dict(), seed=0)
    official.load_state_dict(state, strict=True)
    weights = folder / f"{variant}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    usual = _UsualWay(official, VARIANTS[variant].image_size)
    timings = {name: Timing() for name in ("first", "further", "usual")}
    agreement = []
    server = _server(variant, weights, folder)
    try:
        worker = server.wait_ready(300).worker()

        def post(body: dict[str, Any]) -> dict[str, Any]:
            reply: dict[str, Any] = server.predict(body, timeout=300).json()
            return reply

        def timed(kind: str, number: int, x: float) -> np.ndarray:
            """A click on a photo, kept unless it warms up."""
            name = f"{min(number, clicks - 1)}.jpg"
            cpu = time.process_time() if kind == "usual" else cpu_seconds(worker)
            if kind == "usual":
                seconds, mask = usual.click(folder / name, x)
            else:
                seconds, mask = our_click(post, f"{base}/{name}?{number}", number, x)
            spent = (time.process_time() if kind == "usual" else cpu_seconds(worker)) - cpu
            if number:
                timings[kind].wall.append(seconds)
                timings[kind].cpu.append(spent)
            return mask

        for number in range(clicks + 1):  # the first round warms both up
            timed("first", number, 30)
            found = timed("further", number, 50)
            agreement.append(mask_iou(found, timed("usual", number, 50)))
    finally:
        server.stop()
    return [variant, *_cells(timings), f"{min(agreement):.4f}", load()]


def _server(variant: str, weights: Path, folder: Path) -> Server:
    settings = {
        "SAM2_VARIANT": variant,
        "SAM2_CHECKPOINT": str(weights),
        "SAM2_DTYPE": "float32",
        "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
        "CLICK_BUDGET_SECONDS": "300",
        # The official package does neither.
        "SPECK_PERCENT": "0",
        "ZOOM_SMALL_OBJECTS": "false",
    }
    return Server(folder / variant, settings)


def _cells(timings: dict[str, Timing]) -> list[str]:
    first, further, usual = (timings[name] for name in ("first", "further", "usual"))
    return [
        *(f"{1000 * each.median_wall:.0f}" for each in (first, further, usual)),
        f"{usual.median_wall / first.median_wall:.2f}",
        f"{usual.median_wall / further.median_wall:.1f}",
        *(f"{1000 * statistics.mean(each.cpu):.0f}" for each in (first, further, usual)),
        f"{statistics.mean(usual.cpu) / statistics.mean(further.cpu):.1f}",
    ]


def our_click(post: Post, uri: str, task: int, x: float) -> tuple[float, np.ndarray]:
    """Seconds and the mask of a click.

    Args:
        post: sends a body to ``/predict``.
        uri: of the photo.
        task: its id.
        x: in percent.
    """
    item = {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {"x": x, "y": 50, "keypointlabels": ["Object"]},
        "is_positive": True,
        "id": f"{task}-{x}",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
    }
    body = {
        "tasks": [{"id": task, "data": {"image": uri}}],
        "project": "1.1",
        "label_config": CONFIG,
        "params": {"context": {"result": [item]}},
    }
    start = time.perf_counter()
    reply = post(body)
    seconds = time.perf_counter() - start
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for region in reply["results"][0]["result"]:
        pixels = np.reshape(decode_rle(region["value"]["rle"]), (HEIGHT, WIDTH, 4))
        mask = pixels[:, :, 3] > 0
    return seconds, mask


class _UsualWay:
    """Open, encode, predict, encode the answer: on every click."""

    def __init__(self, model: Any, image_size: int) -> None:
        with torchvision_stand_in.installed():
            from sam2.sam2_image_predictor import SAM2ImagePredictor

        self._predictor = SAM2ImagePredictor(model)
        # The official predictor hard-codes the sizes for 1024 pixels.
        side = image_size // 16
        self._predictor._bb_feat_sizes = [(4 * side,) * 2, (2 * side,) * 2, (side,) * 2]

    def click(self, path: Path, x: float) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        with Image.open(path) as photo:
            pixels = np.array(photo.convert("RGB"))
        with torch.inference_mode():
            self._predictor.set_image(pixels)
            masks, scores, _ = self._predictor.predict(
                point_coords=np.array([[x / 100 * WIDTH, 0.5 * HEIGHT]]),
                point_labels=np.array([1]),
                multimask_output=True,
            )
        order = np.argsort(-scores)
        held = masks[order, HEIGHT // 2, int(x / 100 * WIDTH)] > 0
        mask = masks[order[held.argmax()]] > 0  # the best that holds the click, as ours does
        rgba = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
        json.dumps({"rle": encode_rle(rgba)})
        return time.perf_counter() - start, mask


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _report(rows: list[list[str]], clicks: int) -> str:
    return (
        "# The time of a click\n\n"
        f"Medians of {clicks} clicks on JPEG photos of {WIDTH} x {HEIGHT} pixels, float32. "
        f"{machine()}. Load is the load average of the\nlast minute; 2 is this benchmark alone. "
        "Printed by `python -m benchmarks.speed.click_latency`, whose head says what is "
        "compared;\nIoU is the smallest agreement of our mask with the official package's.\n\n"
        f"{table(HEAD, rows)}\n"
    )


if __name__ == "__main__":
    main()
