"""How long a click takes, beside the usual Label Studio SAM 2 backend's way.

Ours: the whole ``/predict`` request of a click (JSON in, media, network, mask, brush RLE, JSON
out), on an image never seen (miss) and on one seen before (hit). The usual way, as in Label
Studio's own ``segment_anything_2_image`` example: open the file, encode it and predict, on
every click, with the official ``sam2`` package. Both run in this process, in turns, on the same
files with the same weights: the shipped ones for the demo variant, random ones for the others
(time does not depend on the values). The masks are compared.

    python -m benchmarks.click_latency [--variants NAME ...] [--clicks 20] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_studio_sdk.converter.brush import decode_rle, encode_rle
from PIL import Image
from safetensors.torch import save_file

from backend.app import create_app
from backend.metrics import Metrics
from backend.settings import Settings
from backend.wsgi import build_service
from benchmarks import torchvision_stand_in
from benchmarks.reference import build_official, draw_weights
from sam2model import VARIANTS, build_model

VARIANTS_SHOWN = ("demo", "sam2.1_hiera_tiny", "sam2.1_hiera_base_plus")
PHOTOS = Path(__file__).parents[1] / "demo" / "photos"
WIDTH, HEIGHT = 1280, 853

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
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base = _serve_photos(Path(folder), arguments.clicks)
        for variant in arguments.variants:
            rows.append(_measure(variant, arguments.clicks, Path(folder), base))
    text = _report(rows, arguments.clicks)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def _serve_photos(folder: Path, count: int) -> str:
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


def _measure(variant: str, clicks: int, folder: Path, base: str) -> dict[str, Any]:
    state = build_model(variant).state_dict() if variant == "demo" else None
    official = build_official(variant, VARIANTS[variant].image_size)
    if state is None:
        state = draw_weights(official.state_dict(), seed=0)
    official.load_state_dict(state, strict=True)
    weights = folder / f"{variant}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    client, service = _our_service(variant, weights, folder)
    usual = _UsualWay(official, VARIANTS[variant].image_size)
    miss, hit, peer, agreement = [], [], [], []
    try:
        for number in range(clicks + 1):  # the first round warms both up
            name = f"{min(number, clicks - 1)}.jpg"
            seconds, _ = _our_click(client, f"{base}/{name}?{number}", number, 30)
            again, mask = _our_click(client, f"{base}/{name}?{number}", number, 50)
            theirs, reference = usual.click(folder / name, 50)
            if number:
                miss.append(seconds)
                hit.append(again)
                peer.append(theirs)
                agreement.append(_iou(mask, reference))
    finally:
        service.close()
    times = {"miss": miss, "hit": hit, "peer": peer}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"variant": variant, **medians, "iou": min(agreement)}


def _our_service(variant: str, weights: Path, folder: Path) -> tuple[Any, Any]:
    settings = Settings(
        variant=variant,
        checkpoint=weights,
        dtype="float32",
        cache_dir=folder / "cache" / variant,
        state_dir=folder / "state" / variant,
        allowed_private_hosts=("127.0.0.1",),
        click_budget_seconds=300.0,
        speck_percent=0.0,  # the official package removes none
    )
    metrics = Metrics()
    service = build_service(settings, metrics)
    service.engine.wait_ready(300)
    return create_app(settings, service, metrics).test_client(), service


def _our_click(client: Any, uri: str, task: int, x: float) -> tuple[float, np.ndarray]:
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
    reply = client.post("/predict", json=body).json
    seconds = time.perf_counter() - start
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for region in reply["results"][0]["result"]:
        pixels = np.reshape(decode_rle(region["value"]["rle"]), (HEIGHT, WIDTH, 4))
        mask = pixels[:, :, 3] > 0
    return seconds, mask


class _UsualWay:
    """Open, encode, predict, encode the answer: on every click."""

    def __init__(self, model: Any, image_size: int) -> None:
        torchvision_stand_in.install()
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
        mask = masks[int(scores.argmax())] > 0
        rgba = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
        json.dumps({"rle": encode_rle(rgba)})
        return time.perf_counter() - start, mask


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _report(rows: list[dict[str, Any]], clicks: int) -> str:
    lines = [
        "# The time of a click",
        "",
        f"Medians of {clicks} clicks on JPEG photos of {WIDTH} x {HEIGHT} pixels. "
        f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, "
        f"float32, CPU, load average {os.getloadavg()[0]:.1f} at the end (2 is this program "
        "alone). Printed by `python -m benchmarks.click_latency`, whose head says what is "
        "compared; IoU is the smallest agreement of our mask with the official package's.",
        "",
        "| variant | first click | every further click | usual way, every click "
        "| further click, times faster | first click, ratio | IoU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['variant']} | {row['miss'] * 1000:.0f} ms | {row['hit'] * 1000:.0f} ms "
            f"| {row['peer'] * 1000:.0f} ms | {row['peer'] / row['hit']:.1f} "
            f"| {row['peer'] / row['miss']:.2f} | {row['iou']:.4f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
