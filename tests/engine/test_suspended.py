"""Trackers that are suspended: the same masks, nothing held, what is kept is bounded."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.engine.building import ModelChoice
from backend.engine.engine import EngineError
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.suspended import KeptInMemory, KeptOnDisk, SuspendedMemory
from backend.metrics import Metrics
from benchmarks.support.clips import MovingDiscs
from sam2model.track_memory import ObjectTrack, SuspendedTracks
from tests.backend.fakes import AsGiven
from tests.waiting import PATIENCE


def tracks(nbytes: int) -> SuspendedTracks:
    return SuspendedTracks({"a": ObjectTrack()}, {0: (4, 6)}, None, nbytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "suspended"


@pytest.fixture
def kept(folder: Path) -> SuspendedMemory:
    return SuspendedMemory(folder, memory_bytes=100, disk_bytes=150)


def test_memory_first_then_the_disk_then_nothing_more(kept: SuspendedMemory, folder: Path) -> None:
    first, second = kept.keep(tracks(80)), kept.keep(tracks(60))
    assert kept.held == {"memory": 80, "disk": 60}
    with pytest.raises(EngineError, match="no more tracks can wait"):
        kept.keep(tracks(101))
    small = kept.keep(tracks(10))
    assert [type(each) for each in (first, second, small)] == [
        KeptInMemory,
        KeptOnDisk,
        KeptInMemory,
    ]
    assert list(folder.iterdir()) == []  # nothing that a kill would leave behind
    assert second.take() == tracks(60)
    first.drop()
    first.drop()
    assert kept.held == {"memory": 10, "disk": 0}
    assert small.take() == tracks(10)
    assert kept.held == {"memory": 0, "disk": 0}
    for each in (first, second, small):
        with pytest.raises((EngineError, ValueError)):
            each.take()


def test_a_full_disk_is_told_and_holds_nothing(
    kept: SuspendedMemory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backend.engine.suspended.pickle.dump", full)
    with pytest.raises(EngineError, match="there is no room in"):
        kept.keep(tracks(120))
    assert kept.held == {"memory": 0, "disk": 0}


class Bench:
    def __init__(self, suspended: SuspendedMemory) -> None:
        self.metrics = Metrics()
        self.engine = LocalEngine(
            ModelChoice("demo", device="cpu", image_size=64),
            AsGiven(),  # type: ignore[arg-type]
            cache_bytes=100_000_000,
            metrics=self.metrics,
            suspended=suspended,
        )
        self.engine.wait_ready(PATIENCE)
        self.frames: Any = MovingDiscs(8, 96)

    def tracked(self, chosen: Sequence[int] | None, *, suspend: bool) -> list[tuple[int, Any]]:
        tracker = self.engine.open_tracker(self.frames, chosen)
        found: list[tuple[int, Any]] = []

        def note(frame: int, objects: Any) -> None:
            found.append((frame, objects))
            if suspend:
                tracker.suspend()
                tracker.suspend()  # told twice
                assert self.held() > 0
                assert self.owned("tracks") == 0
            else:
                assert self.owned("tracks") > 0

        for place, (x, y) in enumerate([(38, 29), (67, 38)]):
            prompt = PixelPrompt(np.array([[x, y]], np.float32), np.array([True]))
            note(place, tracker.prompt(2 * place, "ab"[place], prompt))
        for frame, objects in tracker.step(0, 8, reverse=False):
            note(frame, objects)
        tracker.close()
        assert self.held() == self.owned("tracks") == 0
        return found

    def owned(self, owner: str) -> float:
        found = self.metrics.registry.get_sample_value("sam2_device_memory_bytes", {"owner": owner})
        assert found is not None
        return found

    def held(self) -> float:
        value = self.metrics.registry.get_sample_value
        found = [value("sam2_suspended_bytes", {"where": each}) for each in ("memory", "disk")]
        return sum(each or 0.0 for each in found)


@pytest.fixture(params=["memory", "disk"])
def bench(request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    limit = 0 if request.param == "disk" else 1 << 28
    made = Bench(SuspendedMemory(folder, memory_bytes=limit))
    yield made
    made.engine.close()


@pytest.mark.parametrize("chosen", [None, [0, 2, 3, 5, 7]])
def test_the_masks_are_those_of_a_tracker_that_was_never_suspended(
    bench: Bench, chosen: Sequence[int] | None
) -> None:
    expected = bench.tracked(chosen, suspend=False)
    assert bench.tracked(chosen, suspend=True) == expected
    assert any(each.mask.area for _, objects in expected[2:] for each in objects)
