"""What ``torch.compile`` brings on this machine, and what it costs.

    python -m benchmarks.speed.compiled [--variant sam2.1_hiera_tiny] [--out FILE]

The image encoder, and memory attention over 7 spatial memories and 16 pointers, each as it is and
through ``torch.compile`` (inductor, static shapes), in turns. "first" is the first call of the
compiled one: what a new process pays, with an empty cache. Weights are random; "error" is the
largest difference of the outputs, as a fraction of the largest value.

With ``freezing``, by which inductor casts and packs the weights itself; the layers' own call of
oneDNN and what they keep of weights are left out of what is compiled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor import config as inductor

from benchmarks.support.pairing import load, machine, take_turns
from benchmarks.support.reference import draw_weights, relative_error
from benchmarks.support.report import write_section
from benchmarks.support.table import table
from sam2model.sam2 import (
    MAX_OBJECT_POINTERS,
    NUM_MASK_MEMORIES,
    SAM2,
    ObjectPointer,
    SpatialMemory,
)
from sam2model.variants import VARIANTS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parts(model: SAM2) -> Iterator[tuple[str, str, Callable[[], Tensor]]]:
    """What is compiled: a name, the module's name, and a call that runs it."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    side, size, dim = model.embedding_size, model.image_size, model.variant.d_model
    image = noise(1, 3, size, size)
    embedding = noise(1, dim, side, side)
    memories = [
        SpatialMemory(ago, noise(1, 64, side, side).to(torch.bfloat16))
        for ago in range(NUM_MASK_MEMORIES)
    ]
    pointers = [ObjectPointer(ago, noise(1, dim)) for ago in range(1, MAX_OBJECT_POINTERS + 1)]
    yield "image encoder", "image_encoder", lambda: model.encode_image(image).embedding.float()
    yield (
        "memory attention",
        "memory_attention",
        lambda: model.condition_on_memory(
            embedding, memories, pointers, MAX_OBJECT_POINTERS - 1
        ).float(),
    )


def measure(
    model: SAM2, module: str, run: Callable[[], Tensor], rounds: int
) -> tuple[float, float, float, float]:
    """Seconds of the first compiled call; CPU seconds as it is and compiled; error."""
    run()  # casts and packs what the layers keep, which is not what "first" is about
    plain = getattr(model, module)
    compiled = torch.compile(plain, dynamic=False)

    def as_compiled() -> Tensor:
        setattr(model, module, compiled)
        try:
            with inductor.patch(freezing=True):
                return run()
        finally:
            setattr(model, module, plain)

    start = time.perf_counter()
    as_compiled()
    first = time.perf_counter() - start
    timings, results = take_turns({"plain": run, "compiled": as_compiled}, rounds)
    error = relative_error(results["compiled"], results["plain"])
    return first, timings["plain"].median_cpu, timings["compiled"].median_cpu, error


def rows(variant: str, dtypes: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """A row per dtype and part."""
    for name in dtypes:
        model = SAM2(VARIANTS[variant]).eval()
        model.load_state_dict(draw_weights(model.state_dict(), seed=0))
        model.compute_dtype = _DTYPES[name]
        for part, module, run in parts(model):
            torch.compiler.reset()
            with torch.inference_mode(), model.autocast():
                first, plain, compiled, error = measure(model, module, run, rounds)
            yield [
                *(part, name, f"{first:.0f}", f"{plain:.2f}", f"{compiled:.2f}"),
                *(f"{plain / compiled:.2f}", f"{error:.1e}", load()),
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="sam2.1_hiera_tiny", choices=VARIANTS)
    parser.add_argument("--dtypes", nargs="+", choices=_DTYPES, default=list(_DTYPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    head = ["part", "dtype", "first, s", "as it is, CPU s", "compiled, CPU s", "times less CPU"]
    measured = []
    for row in rows(arguments.variant, arguments.dtypes, arguments.rounds):
        print(*row, flush=True)
        measured.append(row)
    said = f"{arguments.variant}, medians of {arguments.rounds}; {machine()}."
    lines = [said, "", table([*head, "error", "load"], measured)]
    write_section(arguments.out, "compiled", lines)


if __name__ == "__main__":
    main()
