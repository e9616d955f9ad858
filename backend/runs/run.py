"""One run at work: its tasks one after another, a few side by side, whatever comes and goes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

from backend.engine.engine import EngineError, NotReady, State
from backend.expected import ExpectedError
from backend.job_state import MAX_CRASHES
from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.project_task import ProjectTask
from backend.media.errors import MediaError, Reason
from backend.predict.dispatch import Dispatcher
from backend.runs.labeller import Stopped, TrackFailed
from backend.runs.projects import Project, read_project
from backend.runs.prompt_sources import OpenSource, SourceLate, SourceUnavailable
from backend.runs.run_request import RunError
from backend.runs.run_store import Mark, Run, RunState, RunStore, RunTask, TaskResult, TaskState
from backend.runs.storing import TakenMeanwhile
from backend.threads.caller import keep_caller, serving
from backend.threads.fair_queue import Busy
from backend.tracking.database import StoreError

logger = logging.getLogger(__name__)
T = TypeVar("T")

PAUSES_S = (2.0, 5.0, 15.0, 60.0)
ATTEMPTS = 4  # at a task, where what is wrong may pass
STREAK = 6  # tasks that failed in a row: something is down, and is not asked in haste
MEASURED_TASKS = 200
BESIDE_CLICKS_S = 0.5  # until it is asked again whether somebody clicks
_DOWN = (None, 401, 403, 429, 502, 503, 504)  # answers of Label Studio that say nothing of a task
_PASSING = (Reason.UNREACHABLE, Reason.TIMEOUT, Reason.FAILED, Reason.TRUNCATED, Reason.STORAGE)
GIVEN_UP = f"given up: {MAX_CRASHES} starts of it ended the backend; tell whoever runs it"


@dataclass(frozen=True)
class TaskEnd:
    """What became of a task; the attributes as of ``RunStore.end_task``."""

    state: TaskState
    message: str
    score: float | None = None
    prediction: int | None = None
    mark: Mark | None = None
    found: TaskResult = field(default_factory=TaskResult)


class TaskWork(Protocol):
    """What a kind of run does with each task; called from several threads."""

    def plan(self, task: ProjectTask) -> TaskEnd:
        """What would become of a task, for a dry run. Raises as ``carry_out``."""

    def carry_out(self, task: ProjectTask, of_run: RunTask) -> TaskEnd:
        """Work on a task as Label Studio has it now.

        Raises:
            Stopped: the run was stopped; what is done is stored, and found there again.
            TakenMeanwhile: somebody else has done it.
            ExpectedError: why it cannot be done.
        """

    def tidy(self) -> str:
        """After the last task; returns what whoever started the run should know, or nothing."""


@dataclass(frozen=True)
class RunParts:
    """What runs work with.

    Attributes:
        kinds: by the name that a request has: makes the work of a run.
        sources: likewise, where prompts come from.
        pauses: seconds before each further attempt; the last one is repeated.
    """

    store: RunStore
    service: Dispatcher
    client: LabelStudioClient
    kinds: Mapping[str, OpenKind]
    sources: Mapping[str, OpenSource]
    pauses: Sequence[float] = PAUSES_S


@dataclass(frozen=True)
class Setting:
    """What the work of one run is told.

    Attributes:
        stopping: says whether the run is being stopped.
        got_on: to be called when work on a task has got on, with its position.
    """

    run: Run
    project: Project
    parts: RunParts
    stopping: Callable[[], bool]
    got_on: Callable[[int], None]


OpenKind = Callable[[Setting], TaskWork]


class RunAtWork:
    """Works through a run in threads of its own, until it is done or stopped.

    Args:
        ended: called at the end, from its thread.
    """

    def __init__(self, run: Run, parts: RunParts, ended: Callable[[], None]) -> None:
        self._run, self._parts, self._store = run, parts, parts.store
        self._ended = ended
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._taken: set[int] = set()  # positions of the tasks under way
        self._later: dict[int, float] = {}  # by position: not before, on ``time.monotonic``
        self._attempts: dict[int, int] = {}  # by position: that failed
        self._failures = 0  # in a row
        self._is_waiting = False
        self._ends: deque[float] = deque(maxlen=MEASURED_TASKS)
        self._thread = threading.Thread(target=self._main, name=f"run-{run.id}", daemon=True)

    @property
    def project(self) -> int:
        return self._run.request.project

    @property
    def under_way(self) -> int:
        """Tasks that are worked on."""
        return len(self._taken)

    @property
    def tasks_per_hour(self) -> float | None:
        """As it has been lately; None before two tasks have ended."""
        ends = list(self._ends)
        if len(ends) < 3:
            return None
        return (len(ends) - 1) / max(time.monotonic() - ends[0], 1e-3) * 3600

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin to stop, within the frames under way."""
        self._stopping.set()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    # The thread of the run.

    def _main(self) -> None:
        with serving(run=self._run.id):
            try:
                self._work()
            except ExpectedError as error:
                logger.error("the run failed: %s", error)
                self._finish(RunState.FAILED, str(error))
            except Exception:  # thread boundary: the run ends, with the cause in the log
                logger.exception("the run failed")
                self._finish(RunState.FAILED, "the backend failed on this run; its log says why")
            finally:
                self._ended()

    def _work(self) -> None:
        if not self._store.turn(
            self._run.id, [RunState.QUEUED, RunState.RUNNING, RunState.WAITING], RunState.RUNNING
        ):
            return  # paused or cancelled meanwhile
        logger.info("the run begins: project %d", self.project)
        project = self._until_possible(self._prepare)
        if project is None:
            return
        with serving(project=project.uid):
            setting = Setting(
                self._run, project, self._parts, self._stopping.is_set, self._has_got_on
            )
            work = self._parts.kinds[self._run.request.kind](setting)
            self._ends.append(time.monotonic())
            threads = [
                threading.Thread(
                    target=keep_caller(self._work_through),
                    args=(work, project),
                    name=f"run-{self._run.id}-{number}",
                    daemon=True,
                )
                for number in range(self._run.request.concurrency)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._finish(RunState.DONE, self._until_possible(work.tidy) or "")

    def _finish(self, state: RunState, message: str) -> None:
        if self._stopping.is_set():
            return  # it goes on another time
        try:
            at_work = [RunState.RUNNING, RunState.WAITING]
            if self._store.turn(self._run.id, at_work, state, message):
                logger.info("the run is %s", state)
        except StoreError as error:  # it is taken up at the next start
            logger.error("the end of the run cannot be stored: %s", error)

    def _prepare(self) -> Project:
        engine = self._parts.service.engine
        while engine.status().state is State.LOADING and not self._stopping.wait(0.2):
            pass
        if (status := engine.status()).state is State.FAILED:
            raise RunError(status.detail)
        request, client = self._run.request, self._parts.client
        project = read_project(client, request.project)
        if not project.config.usable:
            problems = "; ".join(project.config.problems)
            raise RunError(problems or "the label config takes no masks")
        self._store.name_model(self._run.id, engine.model_version)
        if self._store.get(self._run.id).total is None:
            self._store.put_tasks(self._run.id, self._list())
        return project

    def _list(self) -> list[int]:
        request = self._run.request
        if request.tasks is not None:
            return [*request.tasks][: request.limit]
        every = self._parts.client.list_task_numbers(
            request.project, view=request.view, only_unlabelled=request.only_unlabelled
        )
        return list(islice(every, request.limit))

    def _until_possible(self, call: Callable[[], T]) -> T | None:
        """What ``call`` returns once what it needs is there; None where the run is stopped."""
        while not self._stopping.is_set():
            try:
                found = call()
            except ExpectedError as error:
                if not self._is_down(error):
                    raise
                self._wait(error)
            else:
                self._succeeded()
                return found
        return None

    # The threads of the tasks.

    def _work_through(self, work: TaskWork, project: Project) -> None:
        while not self._stopping.is_set():
            try:
                task = self._take()
                if task is None:
                    return
                try:
                    self._one(work, project, task)
                finally:
                    with self._lock:
                        self._taken.discard(task.position)
            except StoreError as error:
                self._wait(error)

    def _take(self) -> RunTask | None:
        """The next task; waits for those that are put off, and while somebody clicks for the one
        under way: what other processes do for it takes cores, whatever its priority at the model.
        None where there is none left."""
        while not self._stopping.is_set():
            with self._lock:
                now = time.monotonic()
                put_off = {position for position, at in self._later.items() if at > now}
                if self._taken and self._parts.service.is_clicked:
                    waits: float | None = now + BESIDE_CLICKS_S
                elif found := self._store.next_tasks(self._run.id, 1, self._taken | put_off):
                    self._taken.add(found[0].position)
                    return found[0]
                else:
                    waits = min((self._later[each] for each in put_off - self._taken), default=None)
            if waits is None:
                return None
            self._stopping.wait(max(0.01, waits - now))
        return None

    def _one(self, work: TaskWork, project: Project, task: RunTask) -> None:
        if task.starts >= MAX_CRASHES:
            logger.error("task %d is given up: starts of it ended the process", task.task)
            self._end(task, TaskEnd(TaskState.FAILED, GIVEN_UP))
            return
        self._store.begin_task(self._run.id, task.position)
        try:
            end = self._outcome(work, project, task)
        except Stopped:
            end = None
        except ExpectedError as error:
            end = self._put_off_or_failed(task, error)
        except Exception:  # thread boundary: one task must not spoil the others
            logger.exception("task %d failed", task.task)
            end = TaskEnd(TaskState.FAILED, "failed: a fault of this program; its log says where")
        if end is None:
            self._has_got_on(task.position)
        else:
            self._end(task, end)

    def _outcome(self, work: TaskWork, project: Project, task: RunTask) -> TaskEnd:
        request, client = self._run.request, self._parts.client
        try:
            found = client.get_task(task.task)
        except LabelStudioError as error:
            if error.status == 404:
                return TaskEnd(TaskState.FAILED, "failed: there is no such task")
            raise
        if found.get("project") != request.project:
            line = f"failed: it is a task of project {found.get('project')}"
            return TaskEnd(TaskState.FAILED, line)
        if request.only_unlabelled and found.get("annotations"):
            return TaskEnd(TaskState.SKIPPED, "has an annotation")
        whole = project.with_task(found)
        if request.dry_run:
            return work.plan(whole)
        try:
            end = work.carry_out(whole, task)
        except TakenMeanwhile:
            return TaskEnd(TaskState.SKIPPED, "was stored meanwhile by somebody else")
        return end

    def _put_off_or_failed(self, task: RunTask, error: ExpectedError) -> TaskEnd | None:
        """What to make of an error: wait, and try again; or try again later; or the end."""
        if self._is_down(error):
            self._wait(error)
            return None
        attempts = self._attempts[task.position] = self._attempts.get(task.position, 0) + 1
        if not _may_pass(error) or attempts >= ATTEMPTS:
            logger.warning("task %d failed: %s", task.task, error)
            return TaskEnd(TaskState.FAILED, f"failed: {error}")
        self._failures += 1
        pauses = self._parts.pauses
        pause = pauses[min(attempts, len(pauses) - 1)]
        logger.warning("task %d is tried again in %.0f s: %s", task.task, pause, error)
        with self._lock:
            self._later[task.position] = time.monotonic() + pause
        if self._failures >= STREAK:
            self._wait(error)
        return None

    def _end(self, task: RunTask, end: TaskEnd) -> None:
        self._store.end_task(
            self._run.id,
            task.position,
            end.state,
            end.message,
            score=end.score,
            prediction=end.prediction,
            mark=end.mark,
            found=end.found,
        )
        logger.info("task %d: %s", task.task, end.message)
        self._ends.append(time.monotonic())
        if end.state is not TaskState.FAILED:
            self._succeeded()

    def _has_got_on(self, position: int) -> None:
        with suppress(StoreError):  # it is counted as started then, and is not given up for that
            self._store.got_on(self._run.id, position)

    # What is not there, and may come back.

    def _is_down(self, error: ExpectedError) -> bool:
        """Whether an error says nothing of a task, but that something is not there now."""
        if isinstance(error, LabelStudioError):
            return error.status in _DOWN or not self._label_studio_answers()
        if isinstance(error, MediaError) and error.reason in _PASSING:  # perhaps by way of it
            return not self._label_studio_answers()
        return isinstance(error, SourceUnavailable | Busy | StoreError | NotReady)

    def _label_studio_answers(self) -> bool:
        try:
            self._parts.client.whoami()
        except LabelStudioError as error:
            return error.status not in _DOWN
        return True

    def _wait(self, error: ExpectedError) -> None:
        """Say what is waited for, and wait; less than it says where the run is stopped."""
        self._failures += 1
        pauses = self._parts.pauses
        pause = pauses[min(self._failures, len(pauses)) - 1]
        line = f"waits and tries again every {pause:.0f} s: {error}"
        if not self._is_waiting:
            logger.warning("the run %s", line)
        with suppress(StoreError):  # it may be what is waited for
            self._store.say(self._run.id, RunState.WAITING, line)
        self._is_waiting = True
        self._stopping.wait(pause)

    def _succeeded(self) -> None:
        self._failures = 0
        if self._is_waiting:
            self._is_waiting = False
            logger.info("the run goes on")
            self._store.say(self._run.id, RunState.RUNNING, "")


def _may_pass(error: ExpectedError) -> bool:
    """Whether to try a task again that failed by itself."""
    if isinstance(error, LabelStudioError):
        return error.status is not None and error.status >= 500
    if isinstance(error, MediaError):
        return error.reason in _PASSING
    return isinstance(error, EngineError | TrackFailed | SourceLate)
