"""How fast the network is on a device, beside its floors and beside others, in one run.

What says most comes first, for all variants: our own times beside their floors, then those of
others, then those of others compiled, which are minutes in coming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.gpu.check import Row, Rows, launched, timed
from benchmarks.gpu.floors import Rates
from benchmarks.gpu.peers import FAILURES, Call, Compiled, Official, Peer, Transformers, boxes
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.reference import draw_weights
from sam2model import ImagePredictor, VideoTracker
from sam2model.precision import settle_kernels
from sam2model.preprocessing import preprocess
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

PART = "fast"
FULL = 17  # frames after which a track's memory is full
BATCHES = (1, 8)
CLICK = "further click"
# How many times faster than each we want to be, on a GPU.
AIMS = {
    (Official.name, "embedding, batch 1"): 2.0,
    (Official.name, "embedding, batch 8"): 2.0,
    (Official.name, "tracked frame, 1 objects"): 2.0,
    (Official.name, "tracked frame, 8 objects"): 4.0,
    (Compiled.name, "embedding, batch 1"): 1.2,
    (Compiled.name, "embedding, batch 8"): 1.2,
    (Compiled.name, "tracked frame, 1 objects"): 1.2,
}
Make = Callable[[str, Mapping[str, Tensor], torch.device], Peer]


def rows(variants: list[str], device: torch.device, objects: list[int], rounds: int) -> Rows:
    """Every variant beside its floors, then beside others."""
    objects = _telling_first(objects)
    rates = Rates.measured(device, rounds)
    yield Row(PART, "rate of bfloat16 products", f"{rates.products / 1e12:.1f} TFLOP/s")
    yield Row(PART, "rate of copies on the device", f"{rates.copies / 1e9:.0f} GB/s")
    taken: dict[str, float] = {}  # seconds by variant and what was computed
    for name in variants:
        yield from rates.rows(PART, name, [count for count in objects if count in (1, 8)])
        yield from _ours(_model(name, device), name, objects, rounds, taken)
    peers: list[Make] = [Official, Transformers]
    peers += [Compiled] if device.type == "cuda" else []
    for make in peers:
        for name in variants:
            if name != "edgetam":
                weights = _drawn(name)
                peer = make(name, weights, device)
                yield from _beside(peer, name, device, objects, rounds, taken)


def _telling_first(objects: Sequence[int]) -> list[int]:
    """One object and eight, which have floors and aims, before other numbers."""
    return sorted(objects, key=lambda count: (count not in (1, 8), count))


def _drawn(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = SAM2(VARIANTS[name]).state_dict()
    return draw_weights(shapes, seed=0)


def _model(name: str, device: torch.device) -> SAM2:
    settle_kernels(device, torch.bfloat16)
    model = SAM2(VARIANTS[name]).eval()
    model.load_state_dict(_drawn(name))
    model.compute_dtype = torch.bfloat16
    return model.to(device)


def _pixels(batch: int, side: int, device: torch.device) -> Tensor:
    picture = preprocess(MovingDiscs(1, side)[0], side, device)
    return picture.expand(batch, -1, -1, -1).contiguous()


def _clip(side: int, rounds: int) -> MovingDiscs:
    return MovingDiscs(FULL + rounds + 8, side)


def _ours(model: SAM2, name: str, objects: list[int], rounds: int, taken: dict[str, float]) -> Rows:
    """Our times, into ``taken`` too, and what a profile says."""
    device, side = model.device, model.image_size
    predictor = ImagePredictor(model)
    picture = predictor.embed(MovingDiscs(1, side)[0])
    calls: dict[str, Call] = {}
    for batch in BATCHES:
        calls[f"embedding, batch {batch}"] = _embedding(model, _pixels(batch, side, device))
    calls[CLICK] = lambda: predictor.predict(picture, points=[[9, 9]])
    for count in objects:
        calls[f"tracked frame, {count} objects"] = _frame(model, count, rounds)
    for what, call in calls.items():
        title = f"{name}: {what}"
        found = timed(call, device, rounds)
        taken[title] = found.wall
        yield Row(PART, title, _ms(found.wall), f"device {_ms(found.device)}")
        profile = launched(call, device)
        if profile is not None:
            yield Row(PART, f"{title}: kernels", str(profile.kernels))
            yield Row(PART, f"{title}: idle share of the device", f"{profile.idle:.0%}")


def _embedding(model: SAM2, pixels: Tensor) -> Call:
    def call() -> object:
        with model.inference():
            return model.encode_image(pixels)

    return call


def _frame(model: SAM2, objects: int, rounds: int) -> Call:
    """The next frame of a track, whose memory is full at the first call."""
    tracker = VideoTracker(model, _clip(model.image_size, rounds))
    for each, box in enumerate(boxes(objects)):
        tracker.prompt(0, each, box=box)
    frames = tracker.propagate(0)
    for _ in range(FULL):
        next(frames)
    return lambda: next(frames)


def _beside(
    peer: Peer,
    name: str,
    device: torch.device,
    objects: list[int],
    rounds: int,
    taken: Mapping[str, float],
) -> Rows:
    """How many times faster than another we are."""
    side = VARIANTS[name].image_size

    def tracked(count: int) -> Callable[[], Call]:
        def make() -> Call:
            call = peer.frame(_clip(side, rounds), count)
            for _ in range(FULL):
                call()
            return call

        return make

    made: dict[str, Callable[[], Call | None]] = {
        "embedding, batch 1": lambda: peer.embedding(_pixels(1, side, device)),
        CLICK: lambda: peer.click(MovingDiscs(1, side)[0]),
    }
    for count in objects:
        made[f"tracked frame, {count} objects"] = tracked(count)
    made["embedding, batch 8"] = lambda: peer.embedding(_pixels(8, side, device))
    for what, make in made.items():
        title = f"{name}: {what}, times faster than {peer.name}"
        try:
            call = make()
            if call is None:
                continue
            theirs = timed(call, device, rounds).wall
        except FAILURES as error:
            yield Row.missing(PART, title, error)
            continue
        ratio = theirs / taken[f"{name}: {what}"]
        least = AIMS.get((peer.name, what)) if device.type == "cuda" else None
        yield (
            Row(PART, title, f"{ratio:.2f}", _ms(theirs))
            if least is None
            else Row.at_least(PART, title, ratio, least)
        )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
