"""Fine-tuning jobs: processes that are begun, watched, ended, and taken up again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.expected import ExpectedError
from backend.finetune.finetune_jobs import FinetuneJobs
from backend.job_state import JobState
from tests.processes import running
from tests.waiting import until

SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path

folder = Path(sys.argv[1])
def wait():
    while os.read(0, 100):
        pass
    os._exit(130)
threading.Thread(target=wait, daemon=True).start()
def say(**what):
    (folder / "partial").write_text(json.dumps(what))
    (folder / "partial").rename(folder / "progress.json")
starts = folder / "starts"
starts.write_text((starts.read_text() if starts.exists() else "") + f"{os.getpid()}\\n")
curve = [{"step": 0, "score": 0.2}, {"step": 25, "score": 0.3}]
say(stage="training", step=25, steps=50, curve=curve)
while not (folder / "finish").exists():
    time.sleep(0.02)
if (folder / "finish").read_text() == "fail":
    sys.exit("something is wrong with the annotations")
say(stage="done", step=50, steps=50, message="better: 0.2 before, 0.4 after", version="demo-ft1-p5")
"""


class Bench:
    """Jobs whose processes run until a test lets them finish."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)
        self.unseen: set[int] = set()
        self.made: list[FinetuneJobs] = []
        self.jobs = self.restart()

    def restart(self) -> FinetuneJobs:
        self.jobs = FinetuneJobs(
            self.folder / "finetune",
            check=self._check,
            command=lambda project: [sys.executable, str(self.script), str(self.at(project))],
        )
        self.made.append(self.jobs)
        return self.jobs

    def at(self, project: int) -> Path:
        return self.folder / "finetune" / f"project-{project}"

    def finish(self, project: int, how: str = "well") -> None:
        (self.at(project) / "finish").write_text(how)

    def state(self, project: int) -> JobState | None:
        job = self.jobs.job(project)
        return job.state if job else None

    def processes(self, project: int) -> list[int]:
        starts = self.at(project) / "starts"
        return [int(line) for line in starts.read_text().split()] if starts.exists() else []

    def _check(self, project: int) -> None:
        if project in self.unseen:
            raise ExpectedError(f"There is no project {project}.")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for jobs in bench.made:
        jobs.close()


def test_a_job_runs_in_its_own_process_and_says_how_far_it_is(bench: Bench) -> None:
    bench.jobs.request(5)
    until(lambda: bench.jobs.progress(5).get("step") == 25)
    assert bench.state(5) is JobState.RUNNING
    [pid] = bench.processes(5)
    assert pid != os.getpid()
    bench.finish(5)
    until(lambda: bench.state(5) is JobState.DONE)
    job = bench.jobs.job(5)
    assert job is not None and job.message == "better: 0.2 before, 0.4 after"


def test_a_project_has_one_job_at_a_time(bench: Bench) -> None:
    bench.jobs.request(5)
    until(lambda: bench.processes(5))
    assert "already" in bench.jobs.request(5)
    bench.finish(5)
    until(lambda: 5 not in bench.jobs._asked)
    assert len(bench.processes(5)) == 1
    (bench.at(5) / "finish").unlink()
    bench.jobs.request(5)
    until(lambda: len(bench.processes(5)) == 2)


def test_projects_wait_for_each_other(bench: Bench) -> None:
    bench.jobs.request(5)
    until(lambda: bench.processes(5))
    bench.jobs.request(6)
    assert bench.state(6) is JobState.QUEUED
    bench.finish(5)
    until(lambda: bench.processes(6))
    bench.finish(6)
    until(lambda: bench.state(6) is JobState.DONE)


def test_a_project_that_cannot_be_seen_is_not_begun(bench: Bench) -> None:
    bench.unseen.add(5)
    bench.jobs.request(5)
    until(lambda: bench.state(5) is JobState.FAILED)
    job = bench.jobs.job(5)
    assert job is not None and job.message == "There is no project 5."
    assert bench.processes(5) == []


def test_a_process_that_fails_leaves_its_last_words(bench: Bench) -> None:
    bench.jobs.request(5)
    until(lambda: bench.processes(5))
    bench.finish(5, "fail")
    until(lambda: bench.state(5) is JobState.FAILED)
    job = bench.jobs.job(5)
    assert job is not None and job.message == "something is wrong with the annotations"


def test_a_job_can_be_cancelled_and_does_not_come_back(bench: Bench) -> None:
    bench.jobs.request(5)
    until(lambda: bench.jobs.progress(5))
    bench.jobs.cancel(5)
    until(lambda: bench.state(5) is JobState.CANCELLED)
    [pid] = bench.processes(5)
    assert not running(pid)
    bench.jobs.close()
    assert bench.restart().unfinished() == []
    assert bench.processes(5) == [pid]
    assert bench.jobs.cancel(99) is None


def test_a_restart_takes_up_what_was_running_and_waiting(bench: Bench) -> None:
    bench.jobs.request(5)
    until(lambda: bench.processes(5))
    bench.jobs.request(6)
    bench.jobs.close()
    [pid] = bench.processes(5)
    assert not running(pid)
    assert bench.state(5) is JobState.RUNNING
    waiting = [job.project for job in bench.restart().unfinished()]
    assert waiting == [5, 6]
    for project in waiting:
        bench.jobs.request(project)
    for project in (5, 6):
        (bench.at(project) / "finish").write_text("well")
        until(lambda project=project: bench.state(project) is JobState.DONE)
    assert len(bench.processes(5)) == 2
    assert len(bench.processes(6)) == 1


SERVICE = """
import sys, time
from pathlib import Path
from backend.finetune.finetune_jobs import FinetuneJobs
folder = Path(sys.argv[1])
words = [sys.executable, str(folder / "script.py"), str(folder / "finetune/project-5")]
jobs = FinetuneJobs(folder / "finetune", check=lambda project: None, command=lambda project: words)
jobs.request(5)
time.sleep(600)
"""


def killed_service(bench: Bench) -> int:
    """Kill a service while it fine-tunes on project 5; returns the id of the job's process."""
    begun = len(bench.processes(5))
    root = Path(__file__).parents[2]
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(bench.folder)], cwd=root)
    try:
        until(lambda: len(bench.processes(5)) > begun)
    finally:
        service.kill()
        service.wait()
    return bench.processes(5)[-1]


def test_the_process_ends_with_the_service_even_if_that_is_killed(bench: Bench) -> None:
    pid = killed_service(bench)
    until(lambda: not running(pid))


def test_a_job_that_the_service_does_not_outlive_is_given_up(bench: Bench) -> None:
    for _ in range(3):
        pid = killed_service(bench)
        until(lambda pid=pid: not running(pid))
    bench.jobs.request(5)
    until(lambda: bench.state(5) is JobState.FAILED)
    job = bench.jobs.job(5)
    assert job is not None and job.message.startswith("given up, because the service ended")
    assert len(bench.processes(5)) == 3


def test_stops_are_not_counted_against_a_job(bench: Bench) -> None:
    for starts in range(1, 6):
        bench.jobs.request(5)
        until(lambda starts=starts: len(bench.processes(5)) == starts)
        bench.jobs.close()
        bench.restart()
    bench.jobs.request(5)
    bench.finish(5)
    until(lambda: bench.state(5) is JobState.DONE)
