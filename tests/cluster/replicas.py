"""The engine of a replica under test: the demo weights, which a file can hold up or end.

Made in this process for a local engine, and in replicas by its name; both look at the same folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.engine.building import ModelChoice, build_video_tracker
from backend.engine.local import LocalEngine
from backend.metrics import Metrics
from backend.settings import Settings
from backend.wiring import Wiring

MAKE = f"{__name__}:make"
CHOICE = ModelChoice("demo", device="cpu")
SPECK_SHARE = 0.005
FOLDER = "CLUSTER_TEST_FOLDER"  # the variable that names it


class Control:
    """What a test has the models do, by files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def held(self) -> Path:
        """While it is there, no frame is tracked."""
        return self.folder / "held"

    @property
    def steps(self) -> Path:
        """Has a line for each frame that is begun: the process, and the frame."""
        return self.folder / "steps"

    @property
    def deadly(self) -> Path:
        """Names the frame at which the process ends; no such file, none."""
        return self.folder / "deadly"

    @property
    def seconds(self) -> Path:
        """How long each frame takes, at least."""
        return self.folder / "seconds"

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def begun(self) -> list[tuple[int, int]]:
        """The frames that were begun, with the process of each."""
        if not self.steps.exists():
            return []
        pairs = (line.split() for line in self.steps.read_text().splitlines())
        return [(int(process), int(frame)) for process, frame in pairs]


class ControlledTracker:
    """A ``VideoTracker`` that does as the files say."""

    def __init__(self, tracker: Any, control: Control, yield_to: Callable[[], None]) -> None:
        self._tracker, self._control, self._yield_to = tracker, control, yield_to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def propagate(self, start: int, count: int, reverse: bool) -> Iterator[Any]:
        control = self._control
        frames = self._tracker.propagate(start, count, reverse=reverse)
        step = -1 if reverse else 1
        for frame in range(start, start + step * count, step):
            with control.steps.open("a") as file:
                file.write(f"{os.getpid()} {frame}\n")
            if control.deadly.exists() and int(control.deadly.read_text()) == frame:
                os._exit(1)
            seconds = float(control.seconds.read_text()) if control.seconds.exists() else 0.0
            end = time.monotonic() + seconds
            while control.held.exists() or time.monotonic() < end:
                self._yield_to()
                time.sleep(0.01)
            yield next(frames)


def make(choice: ModelChoice, *, speck_share: float) -> tuple[LocalEngine, Metrics]:
    """See ``replica.Make``."""
    wiring = Wiring(Settings.from_env(os.environ))
    control = Control(Path(os.environ[FOLDER]))
    engines: list[LocalEngine] = []

    def build_tracker(predictor: Any, frames: Any) -> Any:
        yield_to = engines[0]._thread.yield_point
        tracker = build_video_tracker(choice, yield_to, predictor, frames)
        return ControlledTracker(tracker, control, yield_to)

    choice = replace(choice, device="cpu")
    engine = wiring.local_engine(choice, speck_share, build_tracker=build_tracker)
    engines.append(engine)
    return engine, wiring.metrics
