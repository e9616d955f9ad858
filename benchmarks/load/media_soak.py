"""Whether disk and memory stay flat while many objects pass through a small cache.

Pictures of about 400 kB, and a video of 8 MB for every 20 of them, are read from a real S3 server
on this machine by several threads: the pictures whole, the videos in ranges. Disk is what the
cache's folder occupies, memory what this process does, files what it has open.

    python -m benchmarks.load.media_soak [--objects 2000] [--cache-megabytes 200] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from backend.media.resolver import MediaResolver
from backend.media.s3 import Bucket, S3Settings
from benchmarks.support.cache_soak import soak
from benchmarks.support.report import write_section
from benchmarks.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from demo.processes import free_port

PICTURE_BYTES = 400_000
VIDEO_BYTES = 8_000_000
VIDEO_EVERY = 20
THREADS = 4
MB = 1_000_000


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--cache-megabytes", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = S3Server(folder / "s3", free_port(21_000))
        try:
            server.wait_until_ready()
            uris = _fill(server, arguments.objects)
            lines = _measure(server, folder / "cache", uris, arguments.cache_megabytes)
        finally:
            server.stop()
    write_section(arguments.out, "soak", lines)


def _fill(server: S3Server, count: int) -> list[str]:
    client, chance = server.client(), random.Random(1)
    client.create_bucket(Bucket="soak")
    uris = []
    for number in range(count):
        video = number % VIDEO_EVERY == 0
        key = f"{number}.mp4" if video else f"{number}.jpg"
        size = (
            VIDEO_BYTES if video else chance.randrange(PICTURE_BYTES // 2, PICTURE_BYTES * 3 // 2)
        )
        client.put_object(Bucket="soak", Key=key, Body=chance.randbytes(size))
        uris.append(f"s3://soak/{key}")
    return uris


def _measure(server: S3Server, cache: Path, uris: Sequence[str], megabytes: int) -> list[str]:
    resolver = MediaResolver(
        cache_directory=cache,
        cache_bytes=megabytes * MB,
        s3=S3Settings(Bucket(endpoint=server.url)),
    )
    start = time.perf_counter()
    samples = soak(resolver, cache, uris, threads=THREADS, every=max(1, len(uris) // 10))
    seconds, stats = time.perf_counter() - start, resolver.stats
    resolver.close()
    return [
        f"Printed by `python -m benchmarks.load.media_soak`: {len(uris)} objects, "
        f"{stats.bytes_fetched / MB:.0f} MB fetched through a cache of {megabytes} MB by "
        f"{THREADS} threads in {seconds:.0f} s, {stats.evictions} files evicted.",
        "",
        "| objects | disk | memory | open files |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {s.objects} | {s.disk / MB:.1f} MB | {s.memory / MB:.1f} MB | {s.files} |"
            for s in samples
        ),
    ]


if __name__ == "__main__":
    main()
