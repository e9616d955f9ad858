"""Threads for waiting work (downloads, jobs, predictions ahead), shared fairly by projects."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from backend.threads.caller import caller, keep_caller
from backend.threads.fair_queue import FairQueue

P = ParamSpec("P")
T = TypeVar("T")


class FairPool(Executor):
    """A ``ThreadPoolExecutor`` in which the projects take turns, whoever asked first or most.

    Calls run for the caller that submitted them. The threads are daemons: a download that hangs
    does not keep a stopping process alive.

    Args:
        threads: calls that run side by side.
        name: of the threads.
        capacity: calls that may wait, half of them for one project.
    """

    def __init__(self, threads: int, name: str, *, capacity: int = 10_000) -> None:
        self._queue: FairQueue[tuple[Future[Any], Callable[[], Any]]] = FairQueue(
            capacity, capacity // 2
        )
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call.

        Raises:
            Busy: too much is waiting, or the pool is shut down.
        """
        future: Future[T] = Future()
        self._queue.put((future, partial(keep_caller(call), *args, **kwargs)), 0, caller().project)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future, _ in self._queue.close():
            if cancel_futures:
                future.cancel()
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            future, call = waiting
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - thread boundary: the waiter gets it
                    future.set_exception(error)
            del waiting, future, call  # hold no picture while waiting for the next
