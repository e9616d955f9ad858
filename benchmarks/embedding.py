"""Time of an image embedding, beside the official ``sam2`` package.

    python -m benchmarks.embedding [--variants NAME ...] [--rounds 3] [--out FILE]

Both encode the same image with the same random weights, in turns. Errors are those of the features
of stride 16 against the official ones in float32, as a fraction of their root mean square; in
bfloat16 the official package's own error stands beside ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pairing import COMPARED, compared, load, machine, take_turns
from benchmarks.reference import Pair, make_pair
from benchmarks.table import table

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rows(variant: str, rounds: int) -> Iterator[list[str]]:
    """A row per dtype."""
    pair = make_pair(variant)
    size = pair.ours.image_size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = _official(pair, image)
    for name, dtype in DTYPES.items():
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            timings, features = take_turns(
                {
                    "ours": lambda: pair.ours.encode_image(image).embedding,
                    "sam2": lambda: _official(pair, image),
                },
                rounds,
            )
        ours, theirs = (_error(features[which], expected) for which in ("ours", "sam2"))
        yield [variant, name, *compared(timings, "ours", "sam2"), ours, theirs, load()]


def _official(pair: Pair, image: Tensor) -> Tensor:
    features: Tensor = pair.official.forward_image(image)["backbone_fpn"][2]
    return features


def _error(features: Tensor, expected: Tensor) -> str:
    difference = (features.float() - expected).square().mean().sqrt()
    return f"{float(difference / expected.square().mean().sqrt()):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    variants = ["sam2.1_hiera_tiny", "sam2.1_hiera_base_plus"]
    parser.add_argument("--variants", nargs="+", default=variants)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured = []
    with torch.inference_mode():
        for variant in arguments.variants:
            for row in rows(variant, arguments.rounds):
                print(*row, flush=True)
                measured.append(row)
    head = ["variant", "dtype", *COMPARED, "error, ours", "error, sam2", "load"]
    text = (
        "# The time of an image embedding\n\n"
        f"Medians at 1024 pixels, rounds: {arguments.rounds}. {machine()}. Where others use the "
        "machine (load above\nthe number of threads), CPU seconds say more than seconds. Printed "
        "by `python -m benchmarks.embedding`, whose head says\nwhat is compared.\n\n"
        f"{table(head, measured)}\n"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
