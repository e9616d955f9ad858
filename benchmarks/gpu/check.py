"""What a part of the benchmark found: one row for each thing that was checked or measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One thing that was checked or measured.

    Attributes:
        part: of the benchmark.
        what: in words.
        value: as it was found.
        bound: what it must be, in words; "" where there is none.
        ok: whether it is; None where nothing is asked, or it could not be found out.
    """

    part: str
    what: str
    value: str
    bound: str = ""
    ok: bool | None = None

    @classmethod
    def at_most(cls, part: str, what: str, value: float, bound: float) -> Row:
        """A figure that must not be larger."""
        return cls(part, what, f"{value:.3g}", f"at most {bound:g}", value <= bound)

    @classmethod
    def at_least(cls, part: str, what: str, value: float, bound: float) -> Row:
        """A figure that must not be smaller."""
        return cls(part, what, f"{value:.3g}", f"at least {bound:g}", value >= bound)

    @classmethod
    def missing(cls, part: str, what: str, why: object) -> Row:
        """Something that could not be found out here."""
        lines = str(why).splitlines()
        return cls(part, what, f"not measured: {lines[0] if lines else type(why).__name__}")


Rows = Iterator[Row]


@dataclass(frozen=True)
class Seconds:
    """Medians: by the clock, and of the device (NaN where it has no clock of its own)."""

    wall: float
    device: float


def timed(call: Callable[[], object], device: torch.device, rounds: int) -> Seconds:
    """Call it a few times to warm up, then ``rounds`` times."""
    for _ in range(min(3, rounds)):
        call()
    walls, devices = [], []
    for _ in range(rounds):
        wait(device)
        begun = time.perf_counter()
        devices.append(_device_seconds(call, device))
        walls.append(time.perf_counter() - begun)
    return Seconds(statistics.median(walls), statistics.median(devices))


def _device_seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        call()
        return float("nan")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def wait(device: torch.device) -> None:
    """Return when the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Launched:
    """What a profile says of one call: kernels, and the share of its time in which none ran."""

    kernels: int
    idle: float


def launched(call: Callable[[], object], device: torch.device) -> Launched | None:
    """Profile one call; None on devices without kernels."""
    if device.type != "cuda":
        return None
    call()
    wait(device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        begun = time.perf_counter()
        call()
        wait(device)
        seconds = time.perf_counter() - begun
    kernels = [
        each for each in profile.events() if each.device_type == torch.autograd.DeviceType.CUDA
    ]
    busy = sum(each.device_time_total for each in kernels) / 1e6
    return Launched(len(kernels), max(0.0, 1 - busy / seconds))
