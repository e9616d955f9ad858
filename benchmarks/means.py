"""Each means that makes the network fast switched off in turn: time and accuracy without it.

    python -m benchmarks.means [--parts encoder batch memory] [--rounds 2] [--out FILE]

The means are no options of the product, so they are switched off here, by putting what would be
there without them in their place. "all" is the network as it is; every other row is the network
without one means, or with one that was tried and left out. All take turns. The part "encoder" is
the image encoder; "memory" is memory attention of several objects, over 7 spatial memories and 16
pointers each. Errors are those of the features against the official package's in float32, as a
fraction of their root mean square. ``torch.compile`` has a script of its own, ``compiled.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.embedding import DTYPES, relative_rms
from benchmarks.means_off import ENCODER_MEANS, MEMORY_MEANS, Means
from benchmarks.pairing import Timing, load, machine, take_turns
from benchmarks.reference import Pair, make_pair
from benchmarks.table import earlier_rows, table
from benchmarks.tracked_frame import Frame

HEAD = (
    "part",
    "dtype",
    "means",
    "s",
    "times slower",
    "CPU s",
    "times more CPU",
    "error",
    "load",
)
ALL = "all"
TOGETHER = "two pictures in one batch (left out)"
PARTS = ("encoder", "batch", "memory")


def encoder_rows(variant: str, rounds: int, size: int | None = None) -> Iterator[list[str]]:
    """Rows of the image encoder."""
    pair = make_pair(variant, size)
    side = pair.ours.image_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = pair.official.forward_image(image)["backbone_fpn"][2]
    for name in DTYPES:
        runs = _switched(ENCODER_MEANS, name, lambda: pair.ours.encode_image(image).embedding, pair)
        yield from _rows("encoder", name, runs, expected, rounds)


def batch_rows(variant: str, rounds: int, size: int | None = None) -> Iterator[list[str]]:
    """Rows of two pictures, as two users bring them: one after the other, and together."""
    pair = make_pair(variant, size)
    side = pair.ours.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = torch.cat(
        [pair.official.forward_image(i)["backbone_fpn"][2] for i in images.split(1)]
    )
    runs = {
        ALL: lambda: torch.cat([pair.ours.encode_image(i).embedding for i in images.split(1)]),
        TOGETHER: lambda: pair.ours.encode_image(images).embedding,
    }
    for name in DTYPES:
        yield from _rows("encoder, 2 pictures", name, runs, expected, rounds)


def memory_rows(
    variant: str, rounds: int, objects: int, size: int | None = None
) -> Iterator[list[str]]:
    """Rows of memory attention."""
    pair = make_pair(variant, size)
    frame = Frame(pair, objects)
    features = pair.ours.encode_image(frame.image).embedding
    expected = frame.official_conditioned()
    for name in DTYPES:
        runs = _switched(MEMORY_MEANS, name, lambda: frame.conditioned(features), pair)
        yield from _rows(f"memory, {objects} objects", name, runs, expected, rounds)


def _rows(
    part: str,
    dtype: str,
    runs: Mapping[str, Callable[[], Tensor]],
    expected: Tensor,
    rounds: int,
) -> Iterator[list[str]]:
    with torch.autocast("cpu", dtype=DTYPES[dtype], enabled=dtype != "float32"):
        timings, found = take_turns(runs, rounds)
    for name in runs:
        error = relative_rms(found[name], expected)
        yield [part, dtype, name, *_cells(timings[name], timings[ALL]), error, load()]


def _switched(
    means: Mapping[str, Means], dtype: str, compute: Callable[[], Tensor], pair: Pair
) -> dict[str, Callable[[], Tensor]]:
    """What is computed with all means, and without each that makes a difference."""
    chosen = {name: each for name, each in means.items() if dtype in each.dtypes}
    return {ALL: compute} | {name: _without(each, compute, pair) for name, each in chosen.items()}


def _without(means: Means, compute: Callable[[], Tensor], pair: Pair) -> Callable[[], Tensor]:
    patches = list(means.patches(pair.ours))

    def run() -> Tensor:
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            return compute()

    return run


def _cells(timing: Timing, everything: Timing) -> list[str]:
    return [
        f"{timing.median_wall:.2f}",
        f"{timing.median_wall / everything.median_wall:.2f}",
        f"{timing.median_cpu:.2f}",
        f"{timing.median_cpu / everything.median_cpu:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="sam2.1_hiera_tiny")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, help="side of the input; the variant's own if unset")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other rows of --out")
    arguments = parser.parse_args()
    measured = earlier_rows(arguments.out if arguments.add else None, HEAD, ())
    makers = {
        "encoder": lambda: encoder_rows(arguments.variant, arguments.rounds, arguments.size),
        "batch": lambda: batch_rows(arguments.variant, arguments.rounds, arguments.size),
        "memory": lambda: memory_rows(
            arguments.variant, arguments.rounds, arguments.objects, arguments.size
        ),
    }
    with torch.inference_mode():
        for part in arguments.parts:
            for row in makers[part]():
                print(*row, sep=" | ", flush=True)
                measured = [other for other in measured if other[:3] != row[:3]] + [row]
    text = _document(arguments.variant, measured, arguments.rounds)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def _document(variant: str, measured: list[list[str]], rounds: int) -> str:
    meanings = "\n".join(
        f"- **{name}**: {each.meaning}" for name, each in (ENCODER_MEANS | MEMORY_MEANS).items()
    )
    meanings += (
        f"\n- **{TOGETHER}**: pictures of two users encoded in one call. Nobody waits for "
        "a batch to fill."
    )
    return (
        "# What each means of the network brings\n\n"
        f"{variant}, medians of {rounds} rounds in turns. {machine()}. Printed by "
        "`python -m benchmarks.means`, whose head says how; one\nmeans is off in each row, all "
        "others are on.\n\n"
        f"{table(HEAD, measured)}\n\n{meanings}\n"
    )


if __name__ == "__main__":
    main()
