"""One thread that runs everything that touches the model, most urgent first.

PyTorch calls from several threads compete for the same cores or device, and compiled
graphs must stay on one thread (pytorch/pytorch#123177), so requests queue here instead.

Long jobs call ``yield_point`` between their steps, where clicks that wait go first: within that
call, on top of the job's own frames of the stack. So nothing has to be taken apart into pieces
that can be queued. Only clicks do so: a job that lies below another one cannot go on before that
has ended, however urgent it becomes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar

from backend.threads.fair_queue import Busy, FairQueue

T = TypeVar("T")

STOPPING = "the service is being restarted; try again in a moment"
FOLLOW_UP_SECONDS = 0.05  # in which the second call of a click comes


class Stopped(Exception):
    """A job ended before it was finished, because it was not wanted any more."""


class Priority(IntEnum):
    """Who goes first; a lower number is more urgent."""

    CLICK = 0
    TRACK = 3
    RETRIEVE = 5
    PREFETCH = 9
    RUN = 11  # a whole project, for which nobody waits in an editor


@dataclass(eq=False)
class Job(Generic[T]):
    """A queued call. ``future`` carries its result; see ``InferenceThread.promote``."""

    call: Callable[[], T]
    priority: Priority
    stopped: Callable[[], bool]
    followed: bool = False
    queued: float = field(default_factory=time.monotonic)
    future: Future[T] = field(default_factory=Future)


class InferenceThread:
    """Runs jobs one at a time: in the order of priority, within one the projects in turns.

    Args:
        capacity: jobs that may wait, half of them for one project; ``submit`` raises
            ``Busy`` beyond it.
        on_start: called with the priority of each job that begins, and the seconds it waited.
    """

    def __init__(
        self,
        *,
        capacity: int = 256,
        on_start: Callable[[Priority, float], None] = lambda priority, seconds: None,
    ) -> None:
        self._queue: FairQueue[Job[Any]] = FairQueue(capacity, max(1, capacity // 2))
        self._on_start = on_start
        self._begun: float | None = None
        self._running: Job[Any] | None = None  # the innermost one
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs queued and not started."""
        return len(self._queue)

    @property
    def busy_seconds(self) -> float:
        """How long the running job has been at its present step; 0 while nothing runs."""
        begun = self._begun
        return time.monotonic() - begun if begun is not None else 0.0

    def depth(self, priority: Priority) -> int:
        """Jobs of one priority that wait."""
        return self._queue.depth(priority)

    def submit(
        self,
        call: Callable[[], T],
        priority: Priority,
        owner: str = "",
        *,
        stopped: Callable[[], bool] = lambda: False,
        followed: bool = False,
    ) -> Job[T]:
        """Queue ``call``.

        Args:
            owner: the project it is for; projects take turns.
            stopped: asked at the yield points of the call; where it says so, the call is ended,
                and its future raises ``Stopped``.
            followed: it is not the last call of its click: the next one comes as soon as this one's
                result is there, and is waited for.

        Raises:
            Busy: the queue or the owner's share of it is full, or the thread is stopping.
        """
        job = Job(call, priority, stopped, followed)
        self._queue.put(job, priority, owner)
        return job

    def promote(self, job: Job[Any], priority: Priority) -> None:
        """Let a waiting job go earlier; one that runs as a click yields to nobody."""
        job.priority = min(job.priority, priority)
        self._queue.promote(job, priority)

    def cancel_waiting(self) -> None:
        """Take nothing more and cancel what waits; the running job goes on."""
        for job in self._queue.close():
            job.future.cancel()

    def stop(self, timeout: float | None = None) -> None:
        """Finish the running job, cancel the waiting ones, end the thread."""
        self.cancel_waiting()
        self._thread.join(timeout)

    def yield_point(self) -> None:
        """Run the clicks that wait; for the running job to call between two steps.

        Raises:
            Stopped: the job is not wanted any more.
        """
        job = self._running
        if job is None or threading.current_thread() is not self._thread:
            return
        if job.stopped():
            raise Stopped("the job was stopped")
        while job.priority > Priority.CLICK:
            click = self._queue.get_before(Priority.CLICK + 1)
            if click is None:
                break
            self._execute(click)
        self._begun = time.monotonic()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._execute(job)
            del job  # hold no image or result while waiting for the next

    def _execute(self, job: Job[Any]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        interrupted, self._running = self._running, job
        self._begun = time.monotonic()
        self._on_start(job.priority, self._begun - job.queued)
        _finish(job)
        self._running, self._begun = interrupted, None
        if job.priority is Priority.CLICK and job.followed:
            # The frame of a track that went between encoding and answering would double the wait.
            self._queue.wait_before(Priority.CLICK + 1, FOLLOW_UP_SECONDS)


def _finish(job: Job[Any]) -> None:
    try:
        result = job.call()
    except BaseException as error:  # noqa: BLE001 - thread boundary: the waiter gets the cause
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def wait_for_job(future: Future[T], deadline: float | None = None, what: str = "answer") -> T:
    """What a job brings.

    Raises:
        Busy: it has not ended by the deadline, on ``time.monotonic``, or never will.
        Exception: as the job's.
    """
    left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    try:
        return future.result(left)
    except TimeoutError as error:
        raise Busy(f"the model had no time to {what} yet; try again in a moment") from error
    except CancelledError as error:
        raise Busy(STOPPING) from error


def failure_of(future: Future[Any]) -> BaseException | None:
    """Why a job that has ended brings nothing; None where it does."""
    if future.cancelled():
        return Busy(STOPPING)
    return future.exception()
