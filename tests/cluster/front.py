"""A front that works at four tracks: ``python -m tests.cluster.front HEAD STORE``.

It takes up what is unfinished in the store, begins what was never begun, and ends with the last.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from backend.cluster.deploy import Cluster, Declaration
from backend.engine.engine import Engine
from backend.metrics import Metrics
from backend.settings import Settings
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Direction, Goal, plan_spans
from backend.tracking.store import TrackStore
from tests.cluster.replicas import CHOICE, MAKE, SPECK_SHARE
from tests.cluster.scenes import on_disc, pages
from tests.waiting import LONGER

FRAMES = 24


def open_work(request: Mapping[str, Any]) -> Work:
    prompts = {0: on_disc()}
    spans = plan_spans(prompts, first=0, last=FRAMES - 1, direction=Direction.FORWARD)
    return Work(pages(FRAMES), [Goal("a", prompts, {0: "digest"}, spans)])


@contextmanager
def jobs(engine: Engine, path: Path) -> Iterator[tuple[TrackStore, JobRunner]]:
    with closing(TrackStore(path)) as store:
        runner = JobRunner(store, engine, open_work, hand_over=lambda job: None, workers=8)
        try:
            yield store, runner
        finally:
            runner.close()


def main() -> None:
    head, path = sys.argv[1:]
    cluster = Cluster.of(Settings.from_env(os.environ), head)
    from backend.cluster.ray_engine import RayEngine  # Ray, after its environment is set

    declared = Declaration(MAKE, SPECK_SHARE, CHOICE)
    with (
        closing(RayEngine(CHOICE, cluster, declared, Metrics())) as engine,
        jobs(engine, Path(path)) as (store, runner),
    ):
        runner.resume()
        if not store.jobs():
            for number in range(4):
                runner.submit(f"t{number}", {"name": number})
        for job in store.jobs(unfinished=True):
            runner.wait(job.id, LONGER)


if __name__ == "__main__":
    main()
