"""Fine-tuning jobs: one process at a time, of lowest priority, apart from the model's.

    STATE_DIR/finetune/project-12/job.json       what the service knows of the project's last job
                                  progress.json  what the process says of itself
                                  log            what it has written

A job that a stopped service left behind is taken up at the next start, and its process goes on
from its own checkpoint. The process ends with the service, whatever ends that: it reads a pipe
that closes then.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from backend.expected import ExpectedError
from backend.files import read_json, replace_text
from backend.job_state import MAX_CRASHES, JobState, iso_time

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"project-(\d{1,9})")
_POLL_SECONDS = 0.5
_END_SECONDS = 10.0
_MAX_WAITING = 20  # projects
_GIVEN_UP = (
    f"given up, because the service ended during {MAX_CRASHES} starts of it before it got any "
    "further: give the machine more memory, or fine-tune a smaller model"
)


@dataclass(frozen=True)
class FinetuneJob:
    """The last job of a project; times in seconds since 1970.

    Attributes:
        crashes: starts during which the service ended uncleanly, since the last step.
        under_way: it was started, and this start has not ended cleanly yet.
    """

    project: int
    state: JobState
    created: float
    updated: float
    message: str = ""
    crashes: int = 0
    under_way: bool = False


def finetune_command(project: int) -> list[str]:
    """The process that fine-tunes on a project; its settings are those of this one."""
    return [sys.executable, "-m", "training", "finetune", "--project", str(project), "--background"]


class FinetuneJobs:
    """Runs jobs one after the other, each in a process of its own.

    Args:
        folder: where jobs and their files are.
        check: raises an ``ExpectedError`` where a project cannot be had; called before a job
            begins.
        command: starts the process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        check: Callable[[int], object],
        command: Callable[[int], Sequence[str]] = finetune_command,
    ) -> None:
        self._folder = folder
        self._check = check
        self._command = command
        self._lock = threading.Lock()
        self._waiting: queue.Queue[int | None] = queue.Queue()
        self._asked: set[int] = set()  # projects that wait or are being worked on
        self._cancelled: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="finetune", daemon=True)
        self._thread.start()

    def request(self, project: int) -> str:
        """Begin a job, or join the one under way; returns what happens, in a sentence.

        Nothing is asked of Label Studio here: it waits for the answer, one second at most.
        """
        with self._lock:
            if project in self._asked:
                return f"project {project} is being fine-tuned on already"
            if len(self._asked) >= _MAX_WAITING:
                return "too many projects wait for fine-tuning; try again later"
            self._asked.add(project)
            self._cancelled.discard(project)
        job = self.job(project)
        if job is None or job.state.ended:  # else: one that was interrupted
            self._at(project).mkdir(parents=True, exist_ok=True)
            now = time.time()
            self._write(FinetuneJob(project, JobState.QUEUED, now, now))
        self._waiting.put(project)
        return f"fine-tuning on project {project} begins in the background"

    def unfinished(self) -> list[FinetuneJob]:
        """Jobs that have not ended, the oldest first; ``request`` takes one up again."""
        return [job for job in reversed(self.jobs()) if not job.state.ended]

    def cancel(self, project: int) -> FinetuneJob | None:
        """End a job; the weights stay as they are. None where the project has none."""
        with self._lock:
            if project in self._asked:
                self._cancelled.add(project)
        return self.job(project)

    def job(self, project: int) -> FinetuneJob | None:
        """The last job of a project."""
        return read_json(self._at(project) / "job.json", partial(_job, project))

    def jobs(self) -> list[FinetuneJob]:
        """The last job of every project, the newest first."""
        names = [_FOLDER.fullmatch(path.name) for path in self._folder.glob("project-*")]
        found = [job for name in names if name and (job := self.job(int(name[1])))]
        return sorted(found, key=lambda job: -job.created)

    def progress(self, project: int) -> dict[str, Any]:
        """What the process says of itself; empty where it has said nothing yet."""
        return read_json(self._at(project) / "progress.json", _progress) or {}

    def close(self) -> None:
        """End the process; its job goes on at the next start."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(_END_SECONDS + 5.0)

    def _at(self, project: int) -> Path:
        return self._folder / f"project-{int(project)}"

    def _work(self) -> None:
        while (project := self._waiting.get()) is not None and not self._stopping.is_set():
            try:
                self._run(project)
            except Exception:  # thread boundary: the next job must get its turn
                logger.exception("fine-tuning on project %d failed", project)
                self._note(project, JobState.FAILED, "the backend failed; its log says why")
            if not self._stopping.is_set():
                with self._lock:
                    self._asked.discard(project)

    def _run(self, project: int) -> None:
        try:
            self._check(project)
        except ExpectedError as error:
            logger.warning("no fine-tuning on project %d: %s", project, error)
            self._note(project, JobState.FAILED, str(error))
            return
        if not self._begin(project):
            logger.error("fine-tuning on project %d is given up", project)
            self._note(project, JobState.FAILED, _GIVEN_UP)
            return
        logger.info("fine-tuning on project %d begins", project)
        with (self._at(project) / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, and a number
                [*self._command(project)], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        with process:
            self._watch(project, process)
        if self._stopping.is_set():
            self._note(project, JobState.RUNNING, "")  # until the next start
        else:
            self._conclude(project, process.returncode)

    def _begin(self, project: int) -> bool:
        """Count a start before it is made, so that the next one knows if the service ended during
        it; False after too many that it did not outlive."""
        job = self.job(project)
        if job is None:
            return False
        crashes = job.crashes + job.under_way
        begun = replace(job, state=JobState.RUNNING, message="", crashes=crashes, under_way=True)
        if crashes < MAX_CRASHES:
            self._write(replace(begun, updated=time.time()))
        return crashes < MAX_CRASHES

    def _forgive(self, project: int) -> None:
        """The job has come further than before, whatever ended its earlier starts."""
        job = self.job(project)
        if job is not None and job.crashes:
            self._write(replace(job, crashes=0))

    def _watch(self, project: int, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end; hand on what it says of itself."""
        said, before = "", _step(self.progress(project))
        while process.poll() is None:
            if self._stopping.is_set() or project in self._cancelled:
                _end(process)
                return
            self._stopping.wait(_POLL_SECONDS)
            progress = self.progress(project)
            if _step(progress) > before:
                self._forgive(project)
            line = _summary(progress)
            if line and line != said:
                logger.info("fine-tuning on project %d: %s", project, line)
                said = line

    def _conclude(self, project: int, code: int) -> None:
        message = str(self.progress(project).get("message", ""))
        if project in self._cancelled:
            self._cancelled.discard(project)
            (self._at(project) / "progress.json").unlink(missing_ok=True)  # it is not to go on
            state, message = JobState.CANCELLED, ""
        elif code == 0:
            state = JobState.DONE
        else:
            state, message = JobState.FAILED, message or _last_line(self._at(project) / "log")
        self._note(project, state, message)
        logger.info("fine-tuning on project %d: %s %s", project, state, message)

    def _note(self, project: int, state: JobState, message: str) -> None:
        job = self.job(project)
        if job is not None:
            noted = replace(job, state=state, message=message, under_way=False)
            self._write(replace(noted, updated=time.time()))

    def _write(self, job: FinetuneJob) -> None:
        replace_text(self._at(job.project) / "job.json", json.dumps(asdict(job)) + "\n")


def _job(project: int, found: Any) -> FinetuneJob:
    """A job as ``_write`` wrote it; raises what wrong types and values raise."""
    job = FinetuneJob(**{**found, "state": JobState(found["state"])})
    iso_time(job.created), iso_time(job.updated), int(job.crashes)
    if job.project != project:
        raise ValueError(f"it is of project {job.project}")
    return job


def _progress(found: Any) -> dict[str, Any]:
    """What the process has said; raises what wrong types and values raise."""
    progress = dict(found)
    _step(progress), _summary(progress)
    return progress


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _step(progress: dict[str, Any]) -> int:
    return int(progress.get("step") or 0)


def _summary(progress: dict[str, Any]) -> str:
    """Where a run is, in a line of the log; empty while there is nothing to say."""
    curve = progress.get("curve") or []
    if progress.get("stage") != "training" or not curve:
        return ""
    last, first = curve[-1], curve[0]
    steps = f"step {last['step']:.0f} of {progress.get('steps')}"
    return f"{steps}, held-out IoU {last['score']:.3f}, was {first['score']:.3f}"


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "the process ended without a word"
