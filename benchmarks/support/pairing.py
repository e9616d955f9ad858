"""Two implementations in turns in one process, so that another load on the machine meets both."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Timing:
    """Seconds of every round.

    Attributes:
        wall: by the clock, which includes waiting for a core that others use.
        cpu: of all threads of this process, which does not.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median_wall(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)


def take_turns(
    runs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: bool = True
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Call each in turn.

    Args:
        runs: what to call, by name.
        rounds: how often.
        warm_up: call each once before, without timing it.

    Returns:
        The times, and what each returned in the last round.
    """
    timings = {name: Timing() for name in runs}
    results = {name: run() for name, run in runs.items()} if warm_up else {}
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = run()
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
    return timings, results


def compared(timings: Mapping[str, Timing], ours: str, theirs: str) -> list[str]:
    """Cells: wall and CPU seconds of ours and theirs, each followed by how many times faster."""
    a, b = timings[ours], timings[theirs]
    return [
        f"{a.median_wall:.2f}",
        f"{b.median_wall:.2f}",
        f"{b.median_wall / a.median_wall:.2f}",
        f"{a.median_cpu:.2f}",
        f"{b.median_cpu:.2f}",
        f"{b.median_cpu / a.median_cpu:.2f}",
    ]


def machine() -> str:
    """One line: processor, threads, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}"
    )


def load() -> str:
    """Load average of the last minute; the number of threads is what a run causes by itself."""
    return f"{os.getloadavg()[0]:.1f}"
