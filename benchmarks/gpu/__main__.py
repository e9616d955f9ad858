"""All that is to be known of a GPU: does it compute what the CPU does, how fast, and in service.

    python -m benchmarks.gpu [--part right|fast|service ...] [--variants NAME ...] [--out FOLDER]

Each part ends after ``--limit`` seconds, and says that it had no time for more; ``--variants`` asks
for a few of them. A peer that is not installed leaves its rows out, and says so. Exits with 1 where
a bound is missed. ``--out`` takes ``gpu.json``, and ``gpu.md`` with the table of
docs/measurements/gpu.md, written anew after every row. ``--device cpu`` tries the script itself
without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu import fast, right, service
from benchmarks.gpu.check import Row, Rows
from benchmarks.support.table import table
from sam2model.precision import resolve_device

PARTS = ("right", "fast", "service")
VARIANTS = (
    "edgetam",
    "sam2.1_hiera_tiny",
    "sam2.1_hiera_small",
    "sam2.1_hiera_base_plus",
    "sam2.1_hiera_large",
)


def main(arguments: list[str] | None = None) -> int:
    """Run parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="of clicks (20)")
    parser.add_argument("--frames", type=int, default=5000, help="of the long track (5000)")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds of a part (570)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    given = parser.parse_args(arguments)
    try:
        device = resolve_device(given.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    parts: dict[str, Callable[[], Rows]] = {
        "right": lambda: right.rows(given.variants, device, given.objects),
        "fast": lambda: fast.rows(given.variants, device, given.objects, given.rounds),
        "service": lambda: service.rows("demo", device, given.seconds, given.frames),
    }
    os.environ.setdefault("TQDM_DISABLE", "1")  # of the official package
    found: list[Row] = []
    for part in given.part:
        begun = time.monotonic()
        for row in parts[part]():
            print("  ".join(str(value) for value in asdict(row).values() if value), flush=True)
            found.append(row)
            _write(given.out, found, device)
            if time.monotonic() - begun > given.limit:
                found.append(Row.missing(part, "what comes after that", "no time was left"))
                break
        found.append(Row(part, "seconds that this part took", f"{time.monotonic() - begun:.0f}"))
    _write(given.out, found, device)
    print(f"\n{_report(found, device)}")
    return int(any(row.ok is False for row in found))


def _write(folder: Path | None, found: list[Row], device: torch.device) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.md").write_text(_report(found, device), encoding="utf-8")
    values = {"machine": _machine(device), "rows": [asdict(row) for row in found]}
    (folder / "gpu.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def _report(found: list[Row], device: torch.device) -> str:
    verdicts = {True: "yes", False: "NO", None: ""}
    rows = [(each.part, each.what, each.value, each.bound, verdicts[each.ok]) for each in found]
    return f"{_machine(device)}\n\n{table(['part', 'what', 'found', 'bound', 'met'], rows)}\n"


def _machine(device: torch.device) -> str:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return (
        f"{card}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
