"""What is killed while it works: nothing that was finished is lost or changed, all goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.engine.engine import Answer, Engine
from backend.engine.scheduler import Priority
from backend.job_state import JobState
from backend.tracking.runner import Goal, JobRunner, Work
from backend.tracking.spans import Direction, plan_spans
from backend.tracking.store import Job, TrackStore
from tests.cluster.conftest import NODES, LocalCluster
from tests.cluster.replicas import Control
from tests.cluster.scenes import DISC, on_disc, pages, picture
from tests.waiting import LONGER, until

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray's
]
FRAMES = 24
BUDGET = 60.0  # of a click, on a machine that others use


def open_work(request: Mapping[str, Any]) -> Work:
    prompts = {0: on_disc()}
    spans = plan_spans(prompts, first=0, last=FRAMES - 1, direction=Direction.FORWARD)
    return Work(pages(FRAMES), [Goal("a", prompts, {0: "digest"}, spans)])


@contextmanager
def jobs(engine: Engine, path: Path) -> Iterator[tuple[TrackStore, JobRunner]]:
    with closing(TrackStore(path)) as store:
        runner = JobRunner(store, engine, open_work, hand_over=lambda job: None, workers=8)
        yield store, runner
        runner.close()


def stored(store: TrackStore, job: Job) -> list[Any]:
    found = [store.mask(job.track, "a", frame) for frame in range(FRAMES)]
    return [each and (each.mask, each.iou, each.presence) for each in found]


@pytest.fixture(autouse=True)
def whole(cluster: LocalCluster, control: Control) -> Iterator[None]:
    cluster.wait_whole()
    yield
    control.clear()
    cluster.wait_whole()


@pytest.fixture(scope="module")
def expected(
    local: Engine, control: Control, tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    """The masks of a job that nothing happens to, on the engine of this machine."""
    with jobs(local, tmp_path_factory.mktemp("jobs") / "tracks.sqlite3") as (store, runner):
        job = runner.wait(runner.submit("t", {"name": "expected"}).id, LONGER)
        assert job.state is JobState.DONE
        found = stored(store, job)
    control.clear()
    assert None not in found[1:]  # the first frame is the human's
    return found


def processes(control: Control) -> set[int]:
    """Of the replicas that track."""
    return {process for process, _ in control.begun()}


def kill_replica(control: Control) -> None:
    os.kill(control.begun()[-1][0], signal.SIGKILL)


def kill_node(cluster: LocalCluster, host: str) -> None:
    """The machine goes dark: all of its processes at once."""
    node = cluster.nodes.pop(host)
    listed = subprocess.run(
        ["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    for line in listed.splitlines():
        pid, _, arguments = line.strip().partition(" ")
        if f"={host} " in f"{arguments} " and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    node.kill()
    node.wait()


def agrees(kept: list[Any], expected: list[Any]) -> bool:
    """Whether what is stored is what it is to be, as far as it is."""
    return all(mask is None or mask == wanted for mask, wanted in zip(kept, expected, strict=True))


class Clicking:
    """Somebody who clicks all the time: how long each answer took, and what was none."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds: list[float] = []
        self.failed: list[Exception] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Clicking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            begun = time.monotonic()
            try:
                [answer] = self._engine.answer(picture(number % 8), [DISC], Priority.CLICK, BUDGET)
                assert isinstance(answer, Answer)
            except Exception as error:  # noqa: BLE001 - looked at
                self.failed.append(error)
            self.seconds.append(time.monotonic() - begun)


FAULTS: dict[str, Callable[[LocalCluster, Control], None]] = {
    "a replica": lambda cluster, control: kill_replica(control),
    "a node": lambda cluster, control: kill_node(cluster, NODES[0]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_killed_costs_no_mask_and_no_click(
    cluster: LocalCluster, control: Control, tmp_path: Path, expected: list[Any], fault: str
) -> None:
    control.seconds.write_text("0.1")
    with (
        jobs(cluster.engine, tmp_path / "tracks.sqlite3") as (store, runner),
        Clicking(cluster.engine) as clicking,
    ):
        begun = [runner.submit(f"t{number}", {"name": number}) for number in range(4)]
        until(lambda: all(stored(store, job)[3] for job in begun))
        until(lambda: len(processes(control)) == 2)
        FAULTS[fault](cluster, control)
        before = [stored(store, job) for job in begun]
        ended = [runner.wait(job.id, LONGER) for job in begun]
        after = [stored(store, job) for job in begun]
    assert [job.state for job in ended] == [JobState.DONE] * 4
    assert all(agrees(kept, expected) for kept in before)
    for early, late in zip(before, after, strict=True):
        assert None not in late[1:]  # none lost
        # None changed: only what came after the fault follows from the last mask that was stored.
        assert all(a is None or a == b for a, b in zip(early, late, strict=True))
    assert [job.crashes for job in ended] == [0] * 4  # no attempt
    assert clicking.failed == []


def test_a_job_that_ends_every_replica_is_given_up(
    cluster: LocalCluster, control: Control, tmp_path: Path
) -> None:
    control.deadly.write_text("5")
    with jobs(cluster.engine, tmp_path / "tracks.sqlite3") as (store, runner):
        job = runner.wait(runner.submit("t", {"name": "deadly"}).id, LONGER)
        assert job.state is JobState.FAILED
        assert "given up" in job.message
        # What it stored before stays: frame 4 was computed, and 5 never.
        assert stored(store, job)[3] is not None
        assert stored(store, job)[5] is None
    ended = [frame for _, frame in control.begun()].count(5)
    assert 3 <= ended <= 4  # the first may have ended it with a frame stored since
