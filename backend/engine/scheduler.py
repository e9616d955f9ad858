"""One thread that runs everything that touches the model, most urgent first.

PyTorch calls from several threads compete for the same cores or device, and compiled
graphs must stay on one thread (pytorch/pytorch#123177), so requests queue here instead.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Priority(IntEnum):
    """Who goes first; a lower number is more urgent."""

    CLICK = 0
    TRACK = 3
    RETRIEVE = 5
    PREFETCH = 9


class QueueFull(Exception):
    """More work is waiting than the service is willing to queue."""


class Job(Generic[T]):
    """A queued call. ``future`` carries its result; see ``InferenceThread.promote``."""

    def __init__(self, call: Callable[[], T], priority: Priority) -> None:
        self.call = call
        self.priority = priority
        self.claimed = False
        self.future: Future[T] = Future()


class InferenceThread:
    """Runs jobs one at a time in the order of priority, then of arrival.

    Args:
        capacity: jobs that may wait; ``submit`` raises ``QueueFull`` beyond it.
    """

    def __init__(self, *, capacity: int = 256) -> None:
        self._capacity = capacity
        self._heap: list[tuple[int, int, Job[Any]]] = []
        self._arrival = itertools.count()
        self._changed = threading.Condition()
        self._waiting = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs queued and not started."""
        return self._waiting

    def submit(self, call: Callable[[], T], priority: Priority) -> Job[T]:
        """Queue ``call``.

        Raises:
            QueueFull: the queue holds ``capacity`` jobs, or the thread is stopping.
        """
        job = Job(call, priority)
        with self._changed:
            if self._stopping:
                raise QueueFull("the service is stopping")
            if self._waiting >= self._capacity:
                raise QueueFull(f"{self._waiting} requests are waiting for the model")
            self._waiting += 1
            heapq.heappush(self._heap, (priority, next(self._arrival), job))
            self._changed.notify()
        return job

    def promote(self, job: Job[Any], priority: Priority) -> None:
        """Let a waiting job go earlier; nothing happens to one that already runs."""
        with self._changed:
            if priority < job.priority and not job.claimed:
                job.priority = priority
                # The old heap entry stays; whichever comes first claims the job.
                heapq.heappush(self._heap, (priority, next(self._arrival), job))

    def stop(self, timeout: float | None = None) -> None:
        """Finish the running job, cancel the waiting ones, end the thread."""
        with self._changed:
            self._stopping = True
            for _, _, job in self._heap:
                job.future.cancel()
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if job.future.set_running_or_notify_cancel():
                _finish(job)
            del job  # hold no image or result while waiting for the next

    def _next(self) -> Job[Any] | None:
        with self._changed:
            while True:
                while not self._heap and not self._stopping:
                    self._changed.wait()
                if not self._heap:
                    return None
                _, _, job = heapq.heappop(self._heap)
                if not job.claimed:  # else: the later entry of a promoted job
                    job.claimed = True
                    self._waiting -= 1
                    return job


def _finish(job: Job[Any]) -> None:
    try:
        result = job.call()
    except BaseException as error:  # noqa: BLE001 - thread boundary: the waiter gets the cause
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
