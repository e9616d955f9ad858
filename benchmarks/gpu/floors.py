"""The least time that a computation can take on a device: for its products, and for its memory.

What is computed is counted on torch's meta device, in bfloat16; the rates are measured. Bytes are
those of the launches as they are, each reading and writing its tensors once: caches and fused
kernels can be faster than that, nothing else can.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.gpu.check import Row, Rows, timed
from benchmarks.speed.launches import FULL, full_track
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.launches import META, Launches, counting, meta_model, transferring
from sam2model.sam2 import SAM2


@dataclass(frozen=True)
class Rates:
    """Floating-point operations a second in bfloat16, and bytes a second, read and written."""

    products: float
    copies: float

    @classmethod
    def measured(cls, device: torch.device, rounds: int) -> Rates:
        """Of a product and of a copy that are large enough for the device."""
        side, size = (8192, 1 << 30) if device.type == "cuda" else (512, 1 << 24)
        a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
        product = timed(lambda: a @ a, device, rounds)
        values = torch.empty(size, dtype=torch.uint8, device=device)
        copy = timed(values.clone, device, rounds)
        return cls(2 * side**3 / product.wall, 2 * size / copy.wall)

    def rows(self, part: str, name: str, objects: list[int]) -> Rows:
        """Of a variant: the floors of an embedding, of one and of eight, and of tracked frames."""
        with transferring():
            model = meta_model(name)
            for batch in (1, 8):
                yield from self._of(
                    part, f"{name}: embedding, batch {batch}", embedded(model, batch)
                )
            for count in objects:
                what = f"{name}: tracked frame, {count} objects"
                yield from self._of(part, what, tracked(model, count))

    def _of(self, part: str, what: str, work: Launches) -> Rows:
        for kind, amount, unit, rate in (
            ("FLOP", work.flop, "GFLOP", self.products),
            ("bytes", work.moved, "GB", self.copies),
        ):
            shown = f"{amount / 1e9:.2f} {unit}"
            yield Row(part, f"{what}, floor of {kind}", f"{1000 * amount / rate:.2f} ms", shown)


def embedded(model: SAM2, batch: int) -> Launches:
    """The work of encoding that many pictures together.

    Args:
        model: without values.
        batch: number of pictures.
    """
    side = model.image_size
    pixels = torch.empty(batch, 3, side, side, device=META)
    with model.inference():
        model.encode_image(pixels)  # casts and lays out weights, once
        with counting() as work:
            model.encode_image(pixels)
    return work


def tracked(model: SAM2, objects: int) -> Launches:
    """The work of a frame with a full memory, at the model's own size."""
    tracker = full_track(model, objects, MovingDiscs(FULL + 1, model.image_size))
    with counting() as work:
        next(tracker.propagate(FULL, 1))
    return work
