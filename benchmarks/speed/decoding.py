"""What decoding in another process costs: ``python -m benchmarks.speed.decoding``.

Prints, for pictures of several sizes and for a 720p video, the time here and there. The two are
measured in turns, so that other work on the machine weighs on both.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from PIL import Image

from backend.pixels.decoder import Decoder
from backend.pixels.images import decode, opened_image, strips
from backend.pixels.sandbox.image_decoding import ImageDecoder
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.video_limits import DEFAULT_LIMITS
from backend.pixels.videos import VideoFrames

SIZES = ((1280, 800), (1920, 1080), (4000, 3000), (11_500, 8_600))
FRAMES = 250


def main() -> None:
    """Measure and print."""
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, cores: {os.cpu_count()}\n")
    with tempfile.TemporaryDirectory() as folder:
        _pictures(Path(folder))
        _video(Path(folder))
    print(f"\nload of the machine: {os.getloadavg()[0]:.1f}")


def _pictures(folder: Path) -> None:
    decoder = ImageDecoder(max_pixels=100_000_000)
    print("| JPEG | file | in this process | in another | added |\n| --- | --- | --- | --- | --- |")
    for width, height in SIZES:
        path = folder / f"{width}.jpg"
        Image.fromarray(_scene(width, height)).save(path, quality=90)
        for _ in range(3):
            decoder.load(path)
        here, there = [], []
        for _ in range(31 if width < 10_000 else 3):
            here.append(_seconds(partial(_decode_here, path)))
            there.append(_seconds(partial(decoder.load, path)))
        a, b = (statistics.median(each) * 1e3 for each in (here, there))
        added = statistics.median(y - x for x, y in zip(here, there, strict=True)) * 1e3
        megapixels = width * height / 1e6
        size = path.stat().st_size / 1e6
        print(f"| {megapixels:.1f} MP | {size:.1f} MB | {a:.1f} ms | {b:.1f} ms | {added:.1f} ms |")
    decoder.close()


def _decode_here(path: Path) -> np.ndarray:
    with path.open("rb") as file, opened_image(file, 100_000_000) as image:
        return np.concatenate(list(strips(decode(image, 100_000_000), image.format)))


def _video(folder: Path) -> None:
    path = folder / "clip.mp4"
    scene = _scene(2000, 1500)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(FRAMES):
            part = scene[number : number + 720, 2 * number : 2 * number + 1280]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    print("\n| 720p H.264 | open and first frame | frames/s | CPU per frame |")
    print("| --- | --- | --- | --- |")
    ways: dict[str, Callable[[BinaryIO], VideoFrames]] = {
        "in this process": lambda file: VideoFrames(Decoder(file, DEFAULT_LIMITS, None)),
        "in another": open_video,
    }
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            with path.open("rb") as file:
                results[name].append(_play(partial(way, file)))
    for name, runs in results.items():
        first, rate, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {name} | {first * 1e3:.0f} ms | {rate:.0f} | {cpu * 1e3:.2f} ms |")
    pairs = zip(results["in another"], results["in this process"], strict=True)
    ratio = statistics.median(there[1] / here[1] for there, here in pairs)
    print(f"\nframes/s in another process, of those in this one: {ratio:.2f}")


def _play(opening: Callable[[], VideoFrames]) -> tuple[float, float, float]:
    """Seconds to the first frame, frames per second, CPU seconds per frame."""
    before = _cpu()
    began = time.perf_counter()
    with opening() as frames:
        frames[0]
        first = time.perf_counter() - began
        began = time.perf_counter()
        for _ in frames:
            pass
        rate = len(frames) / (time.perf_counter() - began)
    return first, rate, (_cpu() - before) / FRAMES


def _cpu() -> float:
    """Of this process and of its children that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _scene(width: int, height: int) -> np.ndarray:
    """A smooth picture with some noise: JPEG makes of it what it makes of a photo."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 16, width // 16, 3), np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-6, 7, (height, width, 1), np.int16)
    return np.clip(large + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
