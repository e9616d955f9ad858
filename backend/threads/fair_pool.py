"""Threads for waiting work (downloads, jobs, predictions ahead), shared fairly by projects."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from backend.expected import counted
from backend.threads.caller import caller, keep_caller
from backend.threads.fair_queue import busy

P = ParamSpec("P")
T = TypeVar("T")


def may_take(running: int, free: int) -> bool:
    """Whether an owner that runs so many calls may begin another while so many places are free.

    One owner alone gets half of the places, the next half of what is left, and so on: whatever the
    first ones do with theirs, there is one for the next.
    """
    return running < free


@dataclass(frozen=True)
class _Call:
    owner: str
    host: str
    future: Future[Any]
    run: Callable[[], Any]


class FairPool(Executor):
    """A ``ThreadPoolExecutor`` that shares out what runs, and not only what waits.

    No project, and no host, runs more than its share (``may_take``, ``_host_may_take``), however
    many of its calls wait and however long they take; within that the projects take turns, and so
    do the hosts of a project. Calls run for the caller that submitted them. The threads are
    daemons: a download that hangs does not keep a stopping process alive.

    Args:
        threads: calls that run side by side, half of them for one project; started when needed.
        name: of the threads.
        capacity: calls that may wait, half of them for one project.
    """

    def __init__(self, threads: int, name: str, *, capacity: int = 10_000) -> None:
        self._most, self._name, self._capacity = threads, name, capacity
        self._changed = threading.Condition()  # everything below
        self._threads: list[threading.Thread] = []
        self._waiting: OrderedDict[str, OrderedDict[str, deque[_Call]]] = OrderedDict()
        self._waits: Counter[str] = Counter()  # by owner
        self._runs: Counter[str] = Counter()  # by owner
        self._on_host: Counter[str] = Counter()  # calls that run, by host
        self._closed = False

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call.

        Raises:
            Busy: too much is waiting, or the pool is shut down.
        """
        return self.submit_for("", call, *args, **kwargs)

    def submit_for(
        self, host: str, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Queue a call that waits for a host; "" where none can hold it up. Else as ``submit``."""
        future: Future[T] = Future()
        owner, run = caller().owner, partial(keep_caller(call), *args, **kwargs)
        with self._changed:
            self._refuse_too_many(owner)
            self._lane(owner, host).append(_Call(owner, host, future, run))
            self._queued(owner)
        return future

    def submit_rest(self, call: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue the rest of a call that ends now to let others go first: the first of its project,
        whose turn comes after the other projects'. Whatever waits already, there is room for it.

        Raises:
            Busy: the pool is shut down.
        """
        owner, run = caller().owner, partial(keep_caller(call), *args, **kwargs)
        with self._changed:
            self._refuse_if_closed()
            self._lane(owner, "").appendleft(_Call(owner, "", Future(), run))
            self._waiting[owner].move_to_end("", last=False)
            self._waiting.move_to_end(owner)
            self._queued(owner)

    def others_wait(self) -> bool:
        """Whether a call of another project would run if the one that asks, in its thread of this
        pool, ended now."""
        owner = caller().owner
        with self._changed:
            free = self._most - self._runs.total()
            return any(
                not may_take(self._runs[other], free)
                and may_take(self._runs[other], free + 1)
                and any(map(self._host_may_take, hosts))
                for other, hosts in self._waiting.items()
                if other != owner
            )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._closed = True
            lanes = [lane for hosts in self._waiting.values() for lane in hosts.values()]
            left = [call for lane in lanes for call in lane]
            self._changed.notify_all()
        if cancel_futures:
            for call in left:
                call.future.cancel()
        if wait:
            for thread in self._threads:
                thread.join()

    def _lane(self, owner: str, host: str) -> deque[_Call]:
        return self._waiting.setdefault(owner, OrderedDict()).setdefault(host, deque())

    def _queued(self, owner: str) -> None:
        self._waits[owner] += 1
        if len(self._threads) < min(self._most, self._runs.total() + self._waits.total()):
            self._start_thread()
        self._changed.notify()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise busy("the service is stopping")

    def _refuse_too_many(self, owner: str) -> None:
        self._refuse_if_closed()
        if self._waits.total() >= self._capacity:
            raise busy(
                f"{counted(self._waits.total(), 'request is', 'requests are')} waiting already"
            )
        share = max(1, self._capacity // 2)
        if owner and self._waits[owner] >= share:
            raise busy(f"this project has {counted(share, 'request')} waiting already")

    def _start_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            if call.future.set_running_or_notify_cancel():
                try:
                    call.future.set_result(call.run())
                except BaseException as error:  # noqa: BLE001 - thread boundary: the waiter gets it
                    call.future.set_exception(error)
            self._ended(call.owner, call.host)
            del call  # hold no picture while waiting for the next

    def _next(self) -> _Call | None:
        """Wait for the next call whose turn it is; None once the pool is shut down and empty."""
        with self._changed:
            while (call := self._take()) is None:
                if self._closed and not self._waiting:
                    self._changed.notify_all()  # those that waited for an owner's place
                    return None
                self._changed.wait()
            return call

    def _take(self) -> _Call | None:
        free = self._most - self._runs.total()
        for owner, hosts in self._waiting.items():
            if not may_take(self._runs[owner], free):
                continue
            host = next((host for host in hosts if self._host_may_take(host)), None)
            if host is not None:
                call = self._remove(owner, host)
                self._runs[owner] += 1
                self._on_host[host] += 1
                return call
        return None

    def _host_may_take(self, host: str) -> bool:
        """Three quarters: more than one project's, so that none can take a host from the others."""
        return not host or self._on_host[host] < max(1, self._most - self._most // 4)

    def _remove(self, owner: str, host: str) -> _Call:
        hosts = self._waiting[owner]
        call = hosts[host].popleft()
        self._waits[owner] -= 1
        if hosts[host]:
            hosts.move_to_end(host)
        else:
            del hosts[host]
        if hosts:
            self._waiting.move_to_end(owner)  # the others' turn
        else:
            del self._waiting[owner], self._waits[owner]
        return call

    def _ended(self, owner: str, host: str) -> None:
        with self._changed:
            for counter, key in ((self._runs, owner), (self._on_host, host)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
            self._changed.notify_all()
