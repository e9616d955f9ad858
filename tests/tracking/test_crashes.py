"""Jobs that end the process are given up after three starts, and take no other job with them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from backend.job_state import JobState
from backend.tracking.probation import Probation
from backend.tracking.runner import GIVEN_UP
from backend.tracking.store import Job, TrackStore
from tests.tracking.crashing import FRAMES, DeadlyEngine, crashing_jobs, request
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]


def run(path: Path, *begun: str) -> int:
    """Run a process until all jobs of a store have ended, or it is killed by one of them; returns
    its exit status. ``begun`` are jobs that it begins."""
    command = [sys.executable, "-m", "tests.tracking.crashing", str(path), *begun]
    return subprocess.run(command, cwd=ROOT, timeout=PATIENCE, check=False).returncode


def jobs(path: Path) -> dict[str, Job]:
    with closing(TrackStore(path)) as store:
        return {job.track: job for job in store.jobs()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tracks.sqlite3"


def test_a_job_that_ends_the_process_has_failed_after_three_starts(path: Path) -> None:
    assert run(path, "at once") == -signal.SIGSEGV
    assert [run(path) for _ in range(3)] == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    job = jobs(path)["at once"]
    assert (job.state, job.message) == (JobState.FAILED, GIVEN_UP)
    # Asked for again, it is not begun again.
    assert run(path, "at once") == 0
    assert jobs(path)["at once"].state is JobState.FAILED


def test_frames_stored_between_are_no_reason_to_give_up(path: Path) -> None:
    """This job ends the process at every third frame, and comes to its end all the same."""
    ended = [run(path, "now and then")]
    while ended[-1] == -signal.SIGSEGV and len(ended) < FRAMES:
        ended.append(run(path))
    assert ended[:4] == [-signal.SIGSEGV] * 4
    assert ended[-1] == 0
    assert jobs(path)["now and then"].state is JobState.DONE


def test_neighbours_of_such_a_job_are_done(path: Path) -> None:
    """They run beside it when the process ends for the first time."""
    assert run(path, "healthy 1", "at once", "healthy 2", "healthy 3") == -signal.SIGSEGV
    codes = [run(path) for _ in range(3)]
    assert codes == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    states = {name: job.state for name, job in jobs(path).items()}
    assert states == {
        "at once": JobState.FAILED,
        **dict.fromkeys(("healthy 1", "healthy 2", "healthy 3"), JobState.DONE),
    }


def test_a_stop_is_no_crash(path: Path) -> None:
    with closing(TrackStore(path)) as store:
        for _ in range(5):
            reached, hold = threading.Event(), threading.Event()

            def wait(reached: threading.Event = reached, hold: threading.Event = hold) -> None:
                reached.set()
                assert hold.wait(PATIENCE)

            runner = crashing_jobs(store, DeadlyEngine(wait))
            runner.submit("waits", request("waits"))
            assert reached.wait(PATIENCE)
            runner.stop_soon()
            [job] = store.jobs()  # if the process is killed now, before the frame has ended
            assert (job.state, job.crashes, job.under_way) == (JobState.RUNNING, 0, False)
            hold.set()
            runner.close()
        [job] = store.jobs()
        assert (job.state, job.crashes, job.under_way) == (JobState.RUNNING, 0, False)


def test_a_failed_model_is_not_the_fault_of_jobs(path: Path) -> None:
    """The process may end while the model loads, however often."""
    for _ in range(4):
        assert run(path, *([] if path.exists() else ["healthy 1"]), "--broken-model") < 0
    assert run(path) == 0
    assert jobs(path)["healthy 1"].state is JobState.DONE


class TestProbation:
    @pytest.fixture
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(4) as pool:
            yield pool

    @pytest.fixture
    def probation(self) -> Probation:
        return Probation()

    def test_jobs_run_side_by_side(self, probation: Probation) -> None:
        assert all(probation.enter(name, suspect=False, given_up=never) for name in "ab")
        assert not probation.must_yield("a")

    def test_a_suspect_waits_until_it_is_alone_and_others_make_way(
        self, probation: Probation, threads: ThreadPoolExecutor
    ) -> None:
        probation.enter("healthy", suspect=False, given_up=never)
        suspect = threads.submit(probation.enter, "suspect", suspect=True, given_up=never)
        until(lambda: probation.must_yield("healthy"))
        late = threads.submit(probation.enter, "late", suspect=False, given_up=never)
        assert not suspect.done()
        assert not late.done()
        probation.leave("healthy")
        assert suspect.result(PATIENCE)
        assert not late.done()
        assert not probation.must_yield("suspect")
        probation.acquit("suspect")
        assert late.result(PATIENCE)

    def test_suspects_run_one_after_the_other(
        self, probation: Probation, threads: ThreadPoolExecutor
    ) -> None:
        probation.enter("one", suspect=True, given_up=never)
        two = threads.submit(probation.enter, "two", suspect=True, given_up=never)
        assert not probation.must_yield("one")  # not before it has shown what it is
        probation.acquit("one")
        until(lambda: probation.must_yield("one"))
        assert not two.done()
        probation.leave("one")
        assert two.result(PATIENCE)
        probation.leave("two")
        assert probation.enter("three", suspect=False, given_up=never)

    def test_a_job_that_is_given_up_leaves_no_trace(
        self, probation: Probation, threads: ThreadPoolExecutor
    ) -> None:
        probation.enter("healthy", suspect=False, given_up=never)
        answers: Sequence[bool] = [False, True]
        assert not probation.enter("suspect", suspect=True, given_up=iter(answers).__next__)
        assert not probation.must_yield("healthy")
        assert probation.enter("other", suspect=False, given_up=never)


never: Callable[[], bool] = bool
