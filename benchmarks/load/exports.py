"""Exports of large projects: memory, time, and what a second one costs.

    python -m benchmarks.load.exports [--pictures 1000 10000] [--formats coco yolo] [--out FILE]

A Label Studio made here has so many tasks, each a picture with two brush masks. Each row is a
process of its own, ``python -m backend export``, of which the system says how much memory it held
at most; then the same again, when nothing has changed. The last rows take the ZIP of the same
project from ``python -m backend serve`` and throw it away: memory is what the service held at most
meanwhile beyond what it held before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import requests

from backend.engine.device_memory import resident_bytes
from backend.labelstudio.brush_rle import encode_brush
from benchmarks.support.pairing import load, machine
from benchmarks.support.recording_server import Reply, Seen, recording_server
from benchmarks.support.server import ROOT, Server
from benchmarks.support.table import table

HEAD = ("format", "pictures", "what", "s", "CPU s", "most memory, MB", "size, MB", "load")
WIDTH, HEIGHT = 96, 72  # small, so that it is the number of pictures that counts
PER_TASK = 2
KINDS = 40  # different masks
KEY = "key"
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
</View>"""


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--formats", nargs="+", default=["coco", "yolo"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder, recording_server() as server:
        studio = Studio()
        server.route("/api/", studio.answer)
        server.serve("/data/upload/", studio.picture)
        for kind in arguments.formats:
            for count in arguments.pictures:
                studio.count = count
                for row in measured(kind, count, server.url, Path(folder) / f"{kind}-{count}"):
                    rows.append(row)
                    print(*row, flush=True)
    text = (
        f"# Exports of large projects\n\n`python -m benchmarks.load.exports`: {machine()}\n\n"
        f"{table(HEAD, rows)}"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


class Studio:
    """A Label Studio with one project."""

    def __init__(self) -> None:
        self.count = 0
        self._brushes = [encode_brush(_blob(seed)) for seed in range(KINDS)]
        noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.picture = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 3))[1].tobytes()

    def answer(self, seen: Seen) -> Reply:
        parts = [part for part in seen.path.split("/") if part]
        query = {name: each[-1] for name, each in parse_qs(urlsplit(seen.target).query).items()}
        found: dict[str, Any] = {"id": 5, "label_config": CONFIG}
        found["created_at"] = "2026-11-22T05:44:50.372135Z"
        if parts[1] == "tasks":
            size, page = int(query["page_size"]), int(query["page"])
            numbers = range((page - 1) * size + 1, min(page * size, self.count) + 1)
            found = {"tasks": [self._task(each) for each in numbers], "total": self.count}
        return Reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _task(self, number: int) -> dict[str, Any]:
        results = [
            {
                "id": f"r{each}",
                "from_name": "mask",
                "to_name": "image",
                "type": "brushlabels",
                "original_width": WIDTH,
                "original_height": HEIGHT,
                "value": {
                    "format": "rle",
                    "rle": self._brushes[(number * PER_TASK + each) % KINDS],
                    "brushlabels": [("Cat", "Dog")[each % 2]],
                },
            }
            for each in range(PER_TASK)
        ]
        return {
            "id": number,
            "project": 5,
            "data": {"image": f"/data/upload/5/0a1b2c3d-{number}.jpg"},
            "annotations": [{"id": number, "result": results}],
        }


def measured(kind: str, count: int, studio: str, folder: Path) -> list[list[str]]:
    """Rows for one format and size."""
    settings = {
        "LABEL_STUDIO_URL": studio,
        "LABEL_STUDIO_API_KEY": KEY,
        "STATE_DIR": str(folder / "state"),
        "CACHE_DIR": str(folder / "cache"),
    }
    out = folder / "out"
    rows = []
    for what in ("first", "again"):
        used = _export(kind, out, settings)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        rows.append([kind, str(count), what, *used, f"{size / 1e6:.0f}", load()])
    rows.append([kind, str(count), "as ZIP", *_zip(kind, folder, settings), load()])
    return rows


def _export(kind: str, out: Path, settings: dict[str, str]) -> list[str]:
    command = [sys.executable, "-m", "backend", "--env-file", os.devnull, "export"]
    command += ["--project", "5", "--format", kind, "--out", str(out)]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{kind}: the export ended with {status}")
    seconds = time.perf_counter() - begun
    cpu = usage.ru_utime + usage.ru_stime
    return [f"{seconds:.0f}", f"{cpu:.0f}", f"{usage.ru_maxrss / 1024:.0f}"]


def _zip(kind: str, folder: Path, settings: dict[str, str]) -> list[str]:
    server = Server(folder / "service", settings)
    try:
        worker = server.wait_ready(300).worker()
        before = most = resident_bytes(worker)
        ended = threading.Event()

        def watch() -> None:
            nonlocal most
            while not ended.wait(0.2):
                most = max(most, resident_bytes(worker))

        watching = threading.Thread(target=watch)
        watching.start()
        begun, size = time.perf_counter(), 0
        address = f"{server.url}/projects/5/export?format={kind}"
        with requests.get(address, stream=True, timeout=600) as reply:
            reply.raise_for_status()
            for piece in reply.iter_content(1 << 16):
                size += len(piece)
        seconds = time.perf_counter() - begun
        ended.set()
        watching.join()
    finally:
        server.stop()
    return [f"{seconds:.0f}", "", f"{(most - before) / 1e6:.0f}", f"{size / 1e6:.0f}"]


def _blob(seed: int) -> Any:
    noise = np.random.default_rng(seed).standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 8)
    return smooth > 1.2 * smooth.std()


if __name__ == "__main__":
    main()
