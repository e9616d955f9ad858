"""How much memory of a GPU each variant takes, computed without one.

    python -m benchmarks.speed.memory [--variants ...] [--out FILE]

The network runs on torch's meta device (``benchmarks/support/launches.py``) in bfloat16, as the
service runs it there; tensors are counted while they live. What CUDA, its libraries and torch's
allocator take beside tensors cannot be known here: the table of cards sets ``BESIDE`` aside.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

from backend.engine.device_memory import model_bytes
from benchmarks.speed.launches import FULL, PICTURE, VARIANTS, full_track
from benchmarks.support.launches import META, counting, meta_model, tensors, transferring
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from sam2model import ImagePredictor
from sam2model.sam2 import SAM2

BATCH = 8  # objects that a tracker computes at once
OBJECTS = (1, BATCH, 16, 32)
CARDS = (4, 6, 8)  # GB; larger ones carry what these do
BESIDE = 1.0  # GB for CUDA's context and libraries, and what the allocator cannot use
EMBEDDINGS = 1.0  # GB, the default of EMBEDDING_CACHE_MB
TRACKS = 2  # of one project at a time, the default of TRACK_JOBS
GB = 1e9


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that were made inside and still live; ``peak`` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        known = {id(each.untyped_storage()) for each in tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for each in tensors(out):
            storage = each.untyped_storage()
            if each.device == META and id(storage) not in known and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return out

    def _gone(self, nbytes: int) -> None:
        self.now -= nbytes


class Tracked(NamedTuple):
    """Bytes of a track with a full memory: what is kept between frames, and the most that a frame
    takes beside that."""

    kept: int
    beside: int


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that a call takes beside what was there before."""
    with Living() as living, counting():
        call()
    return living.peak


def tracked(model: SAM2, objects: int) -> Tracked:
    """Of that many objects, each with one prompt."""
    tracker = full_track(model, objects)
    beside = peak_of(lambda: next(tracker.propagate(FULL, 1)))
    return Tracked(tracker.device_bytes, beside)


def with_more(fewer: Tracked, batch: Tracked, objects: int) -> Tracked:
    """Of more objects than are computed at once: they add what is kept of them.

    Args:
        fewer: of one object.
        batch: of ``BATCH``.
    """
    of_one = (batch.kept - fewer.kept) // (BATCH - 1)
    return Tracked(fewer.kept + (objects - 1) * of_one, batch.beside)


class Needed(NamedTuple):
    """Bytes that a variant takes of a device."""

    weights: int
    embedding: int
    encoding: int
    tracks: dict[int, Tracked]

    def serving(self, objects: int) -> float:
        """GB of a service with tracks of that many objects beside one another."""
        track = self.tracks[objects]
        computing = max(self.encoding, track.beside)
        held = self.weights + TRACKS * track.kept + computing
        return held / GB + EMBEDDINGS + BESIDE


def needed(name: str) -> Needed:
    """What one variant takes."""
    with transferring():
        model = meta_model(name)
        model.narrow()
        predictor, picture = ImagePredictor(model), np.zeros(PICTURE, np.uint8)
        embedding = predictor.embed(picture)
        predictor.predict(embedding, points=[[9, 9]])
        encoding = peak_of(lambda: predictor.embed(picture))
        tracks = {count: tracked(model, count) for count in (1, BATCH)}
        for count in OBJECTS[2:]:
            tracks[count] = with_more(tracks[1], tracks[BATCH], count)
        return Needed(model_bytes(model), embedding.nbytes, encoding, tracks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {name: needed(name) for name in arguments.variants}
    rows = [
        (
            name,
            f"{each.weights / GB:.2f}",
            f"{each.embedding / 1e6:.0f} MB",
            f"{each.encoding / GB:.2f}",
            *(
                f"{each.tracks[n].kept / GB:.2f} + {each.tracks[n].beside / GB:.2f}"
                for n in OBJECTS
            ),
        )
        for name, each in found.items()
    ]
    head = ["GB", "weights", "an embedding", "encoding", *(f"track of {n}" for n in OBJECTS)]
    cards = [
        (
            f"{card} GB",
            *(
                "yes" if each.serving(OBJECTS[-1]) <= card else _objects(each, card)
                for each in found.values()
            ),
        )
        for card in CARDS
    ]
    lines = table(head, rows).splitlines()
    lines += ["", *table(["card", *found], cards).splitlines()]
    write_section(arguments.out, "memory", lines)


def _objects(each: Needed, card: int) -> str:
    fitting = [count for count in OBJECTS if each.serving(count) <= card]
    return f"up to {fitting[-1]} objects" if fitting else "no"


if __name__ == "__main__":
    main()
