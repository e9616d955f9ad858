"""What the first frame of a large video on S3 costs: bytes fetched and time.

A real S3 server on this machine holds videos of 1920 x 1080 pixels, 10 Mbit/s, with B-frames and
sound. Each is opened with an empty cache the way the service opens it, its first frame decoded,
then one from its middle; beside that stands downloading it whole, on the same machine.

    python -m benchmarks.speed.first_frame [--megabytes 300 1000] [--out docs/media.md]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from backend.media.resolver import MediaResolver
from backend.media.s3 import Bucket, S3Settings
from backend.pixels.sandbox.video_decoding import open_video
from benchmarks.support.report import write_section
from benchmarks.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from demo.processes import free_port

SIZE = 1920, 1080
RATE = 25
SECONDS = 8  # encoded; the rest repeats it
PERIOD = SECONDS + Fraction(1, 5)  # the encoded sound is a little longer
BIT_RATE = 10_000_000
MIB = 2**20


@dataclass(frozen=True)
class Kind:
    """A way to store the same pictures."""

    name: str
    suffix: str
    options: dict[str, str]
    largest: bool = True  # also in the larger sizes


KINDS = (
    Kind("MP4, index at the end", "mp4", {}),
    Kind("MP4, index at the start", "mp4", {"movflags": "faststart"}),
    Kind("MP4, fragmented", "mp4", {"movflags": "frag_keyframe+empty_moov"}, largest=False),
    Kind("Matroska", "mkv", {}, largest=False),
)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = encode(folder / "clip.mp4")
        for megabytes in arguments.megabytes:
            for kind in KINDS:
                if kind.largest or megabytes == min(arguments.megabytes):
                    rows.append(measure(folder, clip, kind, megabytes))
                    print(rows[-1], flush=True)
    lines = [
        "Printed by `python -m benchmarks.speed.first_frame`, "
        f"load average {os.getloadavg()[0]:.1f}.",
        "",
        "| video | size | first frame | of the file | time | frame in the middle | time "
        "| whole file |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    write_section(arguments.out, "first frame", lines)


def encode(path: Path) -> Path:
    """A clip with sound, of noise that moves, so that the bit rate is what it should be."""
    noise = np.random.default_rng(1).integers(0, 255, (SIZE[1], SIZE[0] * 2, 3), np.uint8)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "bf": "2", "g": "50"}
        video = container.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.bit_rate = BIT_RATE
        sound = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        for number in range(SECONDS * RATE):
            shifted = noise[:, number * 4 : number * 4 + SIZE[0]] // 4 + 96
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shifted), format="rgb24")
            for packet in video.encode(frame):
                container.mux(packet)
        for number in range(SECONDS * 48000 // 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 48000, number * 1024
            for packet in sound.encode(silence):
                container.mux(packet)
        for stream in (video, sound):
            for packet in stream.encode(None):
                container.mux(packet)
    return path


def repeat(clip: Path, path: Path, kind: Kind, megabytes: int) -> Path:
    """The clip over and over in one file of about that size, without encoding it again."""
    times = max(1, round(megabytes * 1e6 / clip.stat().st_size))
    with av.open(str(path), "w", options=kind.options) as container, av.open(str(clip)) as source:
        streams = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for number in range(times):
            source.seek(0)
            for packet in source.demux():
                if packet.dts is None or packet.pts is None:
                    continue
                ticks = round(number * PERIOD / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    return path


def measure(folder: Path, clip: Path, kind: Kind, megabytes: int) -> str:
    """One row of the table."""
    path = repeat(clip, folder / f"video.{kind.suffix}", kind, megabytes)
    size = path.stat().st_size
    with served(folder, path) as endpoint:
        uri = f"s3://videos/{path.name}"
        path.unlink()
        with resolver(folder, endpoint) as media:
            first, first_time, middle, middle_time = _frames(media, uri)
        with resolver(folder, endpoint) as media:
            start = time.perf_counter()
            media.fetch(uri)
            whole = time.perf_counter() - start
    return (
        f"| {kind.name} | {size / 1e6:.0f} MB | {first / 1e6:.1f} MB | {100 * first / size:.1f} % "
        f"| {first_time:.2f} s | + {middle / 1e6:.1f} MB | + {middle_time:.2f} s | {whole:.1f} s |"
    )


def _frames(media: MediaResolver, uri: str) -> tuple[int, float, int, float]:
    """Bytes and seconds of the first frame, and of one from the middle after it."""
    start = time.perf_counter()
    with media.open(uri) as file, open_video(file, read_ahead=0) as frames:
        frames[0]
        first_time, first = time.perf_counter() - start, media.stats.bytes_fetched
        start = time.perf_counter()
        frames[len(frames) // 2]
        middle_time = time.perf_counter() - start
    return first, first_time, media.stats.bytes_fetched - first, middle_time


@contextmanager
def served(folder: Path, path: Path) -> Iterator[str]:
    """The file on an S3 server of its own, in the bucket ``videos``; gives the server's URL."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        server = S3Server(Path(name), free_port(21_000))
        try:
            server.wait_until_ready()
            client = server.client()
            client.create_bucket(Bucket="videos")
            client.upload_file(str(path), "videos", path.name)
            yield server.url
        finally:
            server.stop()


@contextmanager
def resolver(folder: Path, endpoint: str) -> Iterator[MediaResolver]:
    """With an empty cache."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        media = MediaResolver(
            cache_directory=Path(name),
            cache_bytes=4096 * MIB,
            max_bytes=4096 * MIB,
            s3=S3Settings(Bucket(endpoint=endpoint)),
        )
        try:
            yield media
        finally:
            media.close()


if __name__ == "__main__":
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    main()
