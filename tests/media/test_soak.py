"""Many objects through a small cache: disk, memory and open files stay flat."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.media.resolver import MediaResolver
from benchmarks.support.cache_soak import soak, take_sample
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply

CACHE_BYTES = 3_000_000
PICTURE, VIDEO = 30_000, 5_000_000


@pytest.mark.slow
def test_everything_stays_flat(
    server: RecordingServer, make_resolver: Callable[..., MediaResolver], tmp_path: Path
) -> None:
    def answer(seen: Seen) -> Reply:
        del server.seen[:]
        size = VIDEO if seen.path.endswith(".mp4") else PICTURE
        body = random.Random(seen.path).randbytes(1000) * (size // 1000)
        return file_reply(seen, body, {"ETag": f'"{seen.path}"'})

    server.route("/", answer)
    uris = [f"{server.url}/{n}.{'jpg' if n % 20 else 'mp4'}" for n in range(800)]
    resolver = make_resolver(cache_bytes=CACHE_BYTES)
    cache = tmp_path / "cache"
    half = len(uris) // 2
    samples = soak(resolver, cache, uris[:half], threads=4, every=100)
    earlier = take_sample(half, cache)
    samples += soak(resolver, cache, uris[half:], threads=4, every=100)
    later = take_sample(len(uris), cache)
    settled = samples[3:]
    # Beside the cached files: 256 folders of 4 kB, the index with its log, what is under way.
    assert max(sample.disk for sample in samples) < CACHE_BYTES + 3_000_000
    # What is under way comes and goes: two quiet moments are compared.
    assert later.disk < earlier.disk + 1_000_000
    # With nothing under way the limit holds after any number of objects, up to the blocks of disk.
    kept = [path for path in cache.glob("*/**/*") if path.is_file()]
    occupied = sum(path.stat().st_blocks * 512 for path in kept)
    assert CACHE_BYTES / 2 < occupied <= CACHE_BYTES + 4096 * len(kept)
    assert settled[-1].memory < settled[0].memory + 8_000_000
    assert max(sample.files for sample in settled) < min(sample.files for sample in settled) + 20
    stats = resolver.stats
    assert (stats.fetches, stats.streams) == (760, 40)
    assert stats.bytes_fetched < 760 * PICTURE + 40 * VIDEO
