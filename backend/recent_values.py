"""The most recently used values, for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The ``entries`` most recently used values, each for ``seconds`` after it was put."""

    def __init__(
        self, *, entries: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries = entries
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[float, T, int]] = OrderedDict()
        self._taken = 0

    def get(self, key: Hashable) -> T | None:
        """The value of ``key`` if it was put less than ``seconds`` ago."""
        with self._lock:
            found = self._values.get(key)
            if found is None or self._clock() - found[0] > self._seconds:
                return None
            self._values.move_to_end(key)
            return found[1]

    def put(self, key: Hashable, value: T, *, entries: int = 1) -> None:
        """Remember ``value``, which counts as so many ``entries``; the least recently used ones go
        if there is no room."""
        with self._lock:
            self._drop(key)
            self._values[key] = (self._clock(), value, entries)
            self._taken += entries
            while self._taken > self._entries:
                self._drop(next(iter(self._values)))

    def values(self, matches: Callable[[Any], bool]) -> list[T]:
        """The recent values whose key ``matches``, the least recently used first."""
        with self._lock:
            oldest = self._clock() - self._seconds
            return [v for key, (at, v, _) in self._values.items() if at >= oldest and matches(key)]

    def forget(self, matches: Callable[[Any], bool]) -> None:
        """Drop every value whose key ``matches``."""
        with self._lock:
            for key in [key for key in self._values if matches(key)]:
                self._drop(key)

    def _drop(self, key: Hashable) -> None:
        if key in self._values:
            self._taken -= self._values.pop(key)[2]
