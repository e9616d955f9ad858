"""Many objects read through one cache, and what disk, memory and open files are meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backend.media.resolver import MediaResolver


@dataclass(frozen=True)
class Sample:
    """The state after some objects.

    Attributes:
        objects: read so far.
        disk, memory: bytes.
        files: open descriptors.
    """

    objects: int
    disk: int
    memory: int
    files: int


def soak(
    resolver: MediaResolver, folder: Path, uris: Sequence[str], *, threads: int, every: int
) -> list[Sample]:
    """Read all objects; those named ``.mp4`` at three places only, as one who looks for a frame.

    Args:
        folder: the cache's.
        every: objects between two samples.
    """
    samples: list[Sample] = []
    done, lock = 0, threading.Lock()

    def read(uri: str) -> None:
        nonlocal done
        if uri.endswith(".mp4"):
            with resolver.open(uri) as file:
                for position in (0, file.size // 2, file.size - 1000):
                    file.seek(position)
                    file.read(1000)
        else:
            resolver.fetch(uri)
        with lock:
            done += 1
            if done % every == 0:
                samples.append(take_sample(done, folder))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, uris))
    return samples


def take_sample(objects: int, folder: Path) -> Sample:
    """What is occupied now."""
    disk = 0
    for path in folder.rglob("*"):
        try:
            disk += path.stat().st_blocks * 512
        except FileNotFoundError:  # evicted meanwhile
            continue
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Sample(objects, disk, pages * os.sysconf("SC_PAGE_SIZE"), files)
