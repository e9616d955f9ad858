"""What the service does around the network, each part by itself on the frames of one clip."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backend.engine.packed_masks import PackedMask
from backend.engine.segmenting import clean
from backend.pixels.sandbox.video_decoding import open_video
from backend.settings import Settings
from backend.tracking.store import TrackedMask, TrackStore
from benchmarks.support.moving_clip import FRAMES_PER_SECOND

HEAD = (
    "variant",
    "size",
    "masks/frame",
    "network",
    "decode",
    "resize",
    "mask upscaling",
    "specks",
    "run lengths",
    "store",
    "read back",
    "JSON",
    "open, once",
)
MEANING = (
    "Milliseconds per frame, every part by itself, one after the other; in the service, decoding "
    "goes on in a\nprocess of its own beside the network. decode: and the way of the pixels "
    "from that process. resize: of the frame to\nthe network's input. mask upscaling: of the "
    "network's answer to the size of the video. run lengths: with zlib,\nas stored. store: "
    "SQLite. read back: the boxes around the masks, from their run lengths. JSON: of the\n"
    "prediction. open, once: starting the decoding process and reading "
    "the table of frames, in milliseconds per video."
)


class Measured(Protocol):
    """What is known from tracking; see ``video_to_prediction.Alone``."""

    wall: float
    around: dict[str, float]
    masks: dict[tuple[str, int], np.ndarray]


def breakdown(
    variant: str, file: Path, network: Measured, results: list[dict[str, Any]], folder: Path
) -> list[str]:
    """The row of one clip.

    Args:
        file: the video.
        network: a turn of the network alone.
        results: of the prediction.
        folder: for a store.
    """
    start = time.perf_counter()
    stream = file.open("rb")
    video = open_video(stream, read_ahead=0)
    opening = time.perf_counter() - start
    with stream, video:
        count = len(video)
        decode = _seconds(lambda: [video[number] for number in range(count)])
        size = f"{video.width} x {video.height}"
    masks = network.masks
    share = Settings().speck_percent / 100
    found = {key: clean(mask, share) for key, mask in masks.items()}
    packed = {key: PackedMask.pack(mask) for key, mask in found.items()}
    parts = {
        "network": network.wall,
        "decode": decode,
        **network.around,
        "specks": _seconds(lambda: [clean(mask, share) for mask in masks.values()]),
        "run lengths": _seconds(lambda: [PackedMask.pack(mask) for mask in found.values()]),
        "store": _store(packed, count, folder / "parts.sqlite3"),
        "read back": _seconds(lambda: [mask.box for mask in packed.values()]),
        "JSON": _seconds(lambda: json.dumps(results)),
    }
    per_frame = [f"{1000 * parts[name] / count:.1f}" for name in HEAD[3:-1]]
    return [variant, size, f"{len(masks) / count:.0f}", *per_frame, f"{1000 * opening:.0f}"]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _store(found: dict[tuple[str, int], PackedMask], frames: int, path: Path) -> float:
    """Seconds to store the masks frame by frame, as a job does."""
    names = sorted({name for name, _ in found})
    rows = [
        [TrackedMask(name, frame, "anchor", found[name, frame], 1.0, 1.0) for name in names]
        for frame in range(frames)
    ]
    store = TrackStore(path)
    try:
        job = store.add_job("job", "track", "digest", {"rate": FRAMES_PER_SECOND})

        def put() -> None:
            for number, masks in enumerate(rows):
                store.put_masks("track", masks, job_id=job.id, done=number)

        return _seconds(put)
    finally:
        store.close()
