"""What is killed, stopped or replaced while it works: nothing that was finished is lost or changed,
all goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.engine.engine import Answer, Engine, ModelChoice, Moved, NotReady, State
from backend.engine.scheduler import Priority
from backend.job_state import JobState
from backend.tracking.runner import JobRunner
from backend.tracking.store import Job, TrackStore
from tests.cluster.conftest import NODES, LocalCluster, kill_all
from tests.cluster.front import FRAMES, jobs
from tests.cluster.replicas import CHOICE, SPECK_SHARE, Control, make
from tests.cluster.scenes import DISC, on_disc, pages, picture
from tests.waiting import LONGER, until

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray's
]
BUDGET = 60.0  # of a click, on a machine that others use


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


def runs_of(masks: list[Any]) -> list[Any]:
    """Comparable, without the frame that is the human's."""
    return [each and each[0].runs for each in masks[1:]]


def processes(control: Control) -> set[int]:
    """Of the replicas that track."""
    return {process for process, _ in control.begun()}


def four_tracks(store: TrackStore, runner: JobRunner, control: Control) -> list[Job]:
    """Begun and under way, on both replicas."""
    begun = [runner.submit(f"t{number}", {"name": number}) for number in range(4)]
    until(lambda: all(stored(store, job)[3] for job in begun))
    until(lambda: len(processes(control)) == 2)
    return begun


def kill_replica(control: Control) -> None:
    os.kill(control.begun()[-1][0], signal.SIGKILL)


def kill_node(cluster: LocalCluster, host: str) -> None:
    """The machine goes dark: all of its processes at once."""
    node = cluster.nodes.pop(host)
    kill_all(f"={host} ")
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
        begun = four_tracks(store, runner, control)
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
        # What it stored before stays; two frames more were asked for ahead.
        assert stored(store, job)[2] is not None
        assert stored(store, job)[5] is None
        last = max(frame for frame, kept in enumerate(stored(store, job)) if kept)
    # By process its first frame, which is the last one that was stored.
    starts = [*reversed(dict(reversed(control.begun())).values())]
    assert [frame for _, frame in control.begun()].count(5) == len(starts)
    in_a_row = [0]  # processes that ended since a frame was stored
    for start, kept in zip(starts, [*starts[1:], last], strict=True):
        in_a_row.append(1 if kept > start else in_a_row[-1] + 1)
    assert in_a_row.index(3) == len(starts)


def test_a_track_whose_replica_is_gone_is_told_that_it_has_ended(
    cluster: LocalCluster, control: Control
) -> None:
    """However the call fails that finds it out, and also where Serve has sent it elsewhere."""
    with closing(cluster.engine.open_tracker(pages())) as tracker:
        tracker.prompt(0, "a", on_disc())
        next(tracker.step(0, 2, reverse=False))
        kill_replica(control)
        for _ in range(2):  # the second goes to another replica
            with pytest.raises(Moved) as told:
                tracker.prompt(1, "a", on_disc())
            assert told.value.died


def test_a_replica_that_stands_still_keeps_no_click_waiting(
    cluster: LocalCluster, control: Control, tmp_path: Path, expected: list[Any]
) -> None:
    control.seconds.write_text("0.1")
    with jobs(cluster.engine, tmp_path / "tracks.sqlite3") as (store, runner):
        begun = four_tracks(store, runner, control)
        still = control.begun()[-1][0]
        os.kill(still, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(8) as people:
                clicks = [
                    people.submit(
                        cluster.engine.answer, picture(number), [DISC], Priority.CLICK, BUDGET
                    )
                    for number in range(8)  # of both replicas
                ]
            assert all(isinstance(click.result()[0], Answer) for click in clicks)
        finally:
            with suppress(ProcessLookupError):  # where it stood so long that it was replaced
                os.kill(still, signal.SIGCONT)
        ended = [runner.wait(job.id, LONGER) for job in begun]
        assert [job.state for job in ended] == [JobState.DONE] * 4
        assert all(runs_of(stored(store, job)) == runs_of(expected) for job in begun)


@pytest.fixture
def other_weights(
    cluster: LocalCluster, environment: Path, control: Control, tmp_path: Path
) -> Iterator[tuple[ModelChoice, list[Any]]]:
    """Another model, and the masks of a job that it does on this machine."""
    choice = replace(CHOICE, image_size=128)
    engine, _ = make(choice, speck_share=SPECK_SHARE)
    with jobs(engine, tmp_path / "other.sqlite3") as (store, runner):
        job = runner.wait(runner.submit("t", {"name": "expected"}).id, LONGER)
        found = stored(store, job)
    engine.close()
    control.clear()
    yield choice, found
    control.clear()
    cluster.engine.replace(CHOICE)


@pytest.mark.parametrize("killed", [False, True], ids=["", "and a replica is killed"])
def test_weights_are_replaced_while_tracks_and_clicks_run(
    cluster: LocalCluster,
    control: Control,
    tmp_path: Path,
    expected: list[Any],
    other_weights: tuple[ModelChoice, list[Any]],
    killed: bool,
) -> None:
    """A track keeps the weights that it began with; where its replica goes, it begins anew."""
    choice, expected_then = other_weights
    assert runs_of(expected) != runs_of(expected_then)
    control.seconds.write_text("0.3")
    with (
        jobs(cluster.engine, tmp_path / "tracks.sqlite3") as (store, runner),
        Clicking(cluster.engine) as clicking,
    ):
        begun = four_tracks(store, runner, control)
        control.held.touch()
        cluster.engine.replace(choice)
        if killed:
            kill_replica(control)
        control.held.unlink()
        if not killed:
            later = runner.submit("later", {"name": "later"})
            assert runner.wait(later.id, LONGER).state is JobState.DONE
            assert runs_of(stored(store, later)) == runs_of(expected_then)
        ended = [runner.wait(job.id, LONGER) for job in begun]
        found = [runs_of(stored(store, job)) for job in begun]
    assert [job.state for job in ended] == [JobState.DONE] * 4
    assert clicking.failed == []
    before, after = (found.count(runs_of(each)) for each in (expected, expected_then))
    assert before + after == 4  # no mixture
    assert after > 0 if killed else after == 0


def test_the_head_is_killed(
    cluster: LocalCluster, control: Control, tmp_path: Path, expected: list[Any]
) -> None:
    control.seconds.write_text("0.1")
    with jobs(cluster.engine, tmp_path / "tracks.sqlite3") as (store, runner):
        begun = [runner.submit(f"t{number}", {"name": number}) for number in range(2)]
        until(lambda: all(stored(store, job)[3] for job in begun))
        port = cluster.cluster.head.rpartition(":")[2]
        kill_all(f"--gcs_server_port={port} ")
        until(lambda: cluster.engine.status().state is not State.READY)
        assert "head" in cluster.engine.status().detail
        with pytest.raises(NotReady, match="head"):
            cluster.engine.answer(picture(), [DISC], Priority.CLICK, 0.1)
        before = [stored(store, job) for job in begun]
        cluster.wait_whole()
        answer = cluster.engine.answer(picture(), [DISC], Priority.CLICK, BUDGET)
        assert isinstance(answer[0], Answer)
        ended = [runner.wait(job.id, LONGER) for job in begun]
        after = [stored(store, job) for job in begun]
    assert [job.state for job in ended] == [JobState.DONE] * 2
    for early, late in zip(before, after, strict=True):
        assert None not in late[1:]  # none lost
        assert agrees(early, late)  # none changed


def test_the_front_is_killed(
    cluster: LocalCluster, control: Control, tmp_path: Path, expected: list[Any]
) -> None:
    """Another process has the jobs, and the one after it goes on with them."""
    control.seconds.write_text("0.1")
    path = tmp_path / "tracks.sqlite3"
    command = [sys.executable, "-m", "tests.cluster.front", cluster.cluster.head, str(path)]
    environment = {**os.environ, "STATE_DIR": str(cluster.settings.state_dir)}
    with closing(TrackStore(path)) as store:
        front = subprocess.Popen(command, env=environment)
        try:
            begun = until(lambda: len(store.jobs()) == 4 and store.jobs(), LONGER)
            until(lambda: all(stored(store, job)[3] for job in begun), LONGER)
        finally:
            front.kill()
            front.wait()
        before = [stored(store, job) for job in begun]
        assert all(agrees(kept, expected) for kept in before)
        assert subprocess.run(command, env=environment, check=False).returncode == 0
        after = [stored(store, job) for job in begun]
        assert [job.state for job in store.jobs()] == [JobState.DONE] * 4
    for early, late in zip(before, after, strict=True):
        assert None not in late[1:]  # none lost
        assert agrees(early, late)  # none changed
    [answer] = cluster.engine.answer(picture(), [DISC], Priority.CLICK, BUDGET)
    assert isinstance(answer, Answer)
