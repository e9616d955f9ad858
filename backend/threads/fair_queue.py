"""A bounded queue that no single project can fill or hold up."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

from backend.expected import ExpectedError, counted

T = TypeVar("T")


class Busy(ExpectedError):
    """The service has no time for this now; ``str()`` is a sentence fit for the annotator."""


class FairQueue(Generic[T]):
    """Items by priority (the lowest number first); within a priority the owners take turns, and
    each owner's items keep their order. Safe to share between threads.

    Args:
        capacity: items that may wait.
        share: items of one owner that may wait; work without an owner is not counted.
    """

    def __init__(self, capacity: int, share: int) -> None:
        self._capacity = capacity
        self._share = share
        self._changed = threading.Condition()
        self._levels: dict[int, OrderedDict[str, deque[T]]] = {}
        self._places: dict[T, tuple[int, str]] = {}
        self._owned: Counter[str] = Counter()
        self._closed = False

    def __len__(self) -> int:
        return len(self._places)

    def depth(self, priority: int) -> int:
        """Items that wait at ``priority``."""
        with self._changed:
            return sum(len(items) for items in self._levels.get(priority, {}).values())

    def put(self, item: T, priority: int, owner: str = "") -> None:
        """Queue ``item``, which may be queued only once at a time.

        Raises:
            Busy: all of the queue, or the owner's share, is taken; or it is closed.
        """
        with self._changed:
            if self._closed:
                raise busy("the service is stopping")
            if len(self._places) >= self._capacity:
                raise busy(
                    f"{counted(len(self._places), 'request is', 'requests are')} waiting already"
                )
            if owner and self._owned[owner] >= self._share:
                raise busy(f"this project has {counted(self._share, 'request')} waiting already")
            self._owned[owner] += 1
            self._insert(item, priority, owner)
            self._changed.notify()

    def promote(self, item: T, priority: int) -> None:
        """Let ``item`` go at ``priority`` if that is earlier; nothing if it has gone."""
        with self._changed:
            place = self._places.get(item)
            if place is not None and priority < place[0]:
                self._remove(item)
                self._insert(item, priority, place[1])
                self._changed.notify()

    def get(self) -> T | None:
        """Wait for the next item; None once the queue is closed and empty."""
        with self._changed:
            while not self._places and not self._closed:
                self._changed.wait()
            return self._take() if self._places else None

    def get_before(self, priority: int) -> T | None:
        """The next item that goes before ``priority``; None, at once, if none waits."""
        with self._changed:
            waits = bool(self._levels) and min(self._levels) < priority
            return self._take() if waits else None

    def wait_before(self, priority: int, timeout: float) -> None:
        """Return when an item waits that goes before ``priority``, the queue is closed, or
        ``timeout`` seconds have passed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (self._levels and min(self._levels) < priority), timeout
            )

    def close(self) -> list[T]:
        """Refuse what comes from now on; returns what is waiting, which may still be got."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return list(self._places)

    def _take(self) -> T:
        level = self._levels[min(self._levels)]
        owner, items = next(iter(level.items()))
        item = items[0]
        self._remove(item)
        if owner in level:
            level.move_to_end(owner)  # the others' turn
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]
        return item

    def _insert(self, item: T, priority: int, owner: str) -> None:
        self._places[item] = priority, owner
        level = self._levels.setdefault(priority, OrderedDict())
        level.setdefault(owner, deque()).append(item)

    def _remove(self, item: T) -> None:
        priority, owner = self._places.pop(item)
        level = self._levels[priority]
        level[owner].remove(item)
        if not level[owner]:
            del level[owner]
        if not level:
            del self._levels[priority]


def busy(reason: str) -> Busy:
    return Busy(f"the service is busy ({reason}); try again in a moment")
