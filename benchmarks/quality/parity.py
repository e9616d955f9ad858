"""Compare every part of the network with the official ``sam2`` package, in float32.

EdgeTAM, which is not in that package, is compared with that of ``transformers``.

    python -m benchmarks.quality.parity            print the table
    python -m benchmarks.quality.parity --write    write it to docs/measurements/parity.md

The test suite asserts the bound on the same measurements (tests/sam2model/test_parity.py,
test_edgetam_parity.py).
"""

import argparse
from pathlib import Path

import torch

from benchmarks.support import edgetam_parity
from benchmarks.support.parity import BOUND, VARIANT_NAMES, measure


def table() -> str:
    """The errors of SAM 2's variants as a Markdown table."""
    columns = {name: dict(measure(name)) for name in (*VARIANT_NAMES, "demo")}
    lines = ["| part | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for part in next(iter(columns.values())):
        cells = " | ".join(f"{errors[part]:.1e}" for errors in columns.values())
        lines.append(f"| {part} | {cells} |")
    return "\n".join(lines)


def edgetam_table() -> str:
    """The errors of EdgeTAM, with what they are measured against."""
    rows = [f"| {part} | {error:.1e} |" for part, error in edgetam_parity.measure()]
    return "\n".join(
        [
            "EdgeTAM beside `EdgeTamVideoModel` of `transformers` 5.24.0, with the trunk of `timm` "
            "1.0.31, which computes\nbatch norms and branches one by one:",
            "",
            "| part | edgetam |",
            "|---|---|",
            *rows,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/measurements/parity.md")
    arguments = parser.parse_args()
    rows = f"{table()}\n\n{edgetam_table()}"
    print(rows)
    if arguments.write:
        _write(rows)


def _write(rows: str) -> None:
    path = Path(__file__).parents[2] / "docs" / "measurements" / "parity.md"
    path.write_text(
        "# Parity with the official implementation\n\n"
        "Largest difference between this network and Meta's `sam2` 1.1.0, as a fraction of "
        "the largest\nvalue of the reference, in float32 on the CPU, with every weight drawn at "
        "random (default\ninitialisation has layer scales of 1e-6, which hide errors). Image "
        "features at the variant's\nown image size, everything else at 256 pixels. Memory "
        "attention stands beside the official\npackage in float64, whose own float32 rounds nearly "
        "as much as the bound on some CPUs. The tests\n"
        f"require at most {BOUND:.0e}.\n\n"
        "Preprocessing equals the official transform; that goes through a stand-in for "
        "torchvision in the\ntests, and was compared once with torchvision 0.28.0 itself: no "
        "difference at 8 sizes.\n\n"
        "Regenerate with `python -m benchmarks.quality.parity --write`; torch "
        f"{torch.__version__} wrote this table.\n\n{rows}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
