"""How many predictions are worked on at once, so that some thread is always free to answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from backend.threads.fair_queue import Busy

RESERVED = 2  # threads for probes, metrics and "busy"


class Admission:
    """Counts requests under way; a project may take three quarters of the places.

    Args:
        threads: requests that the server answers at the same time.
    """

    def __init__(self, threads: int) -> None:
        self.places = max(1, threads - RESERVED)
        self.share = max(1, self.places - self.places // 4)
        self._lock = threading.Lock()
        self._inside: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """Requests under way."""
        return self._inside.total()

    @contextmanager
    def enter(self, project: str) -> Iterator[None]:
        """Hold a place inside the block.

        Raises:
            Busy: there is none.
        """
        with self._lock:
            if self._inside.total() >= self.places:
                raise Busy("the backend is busy with other requests; try again in a moment")
            if self._inside[project] >= self.share:
                raise Busy(
                    "the backend is busy with other requests of this project; try again in a moment"
                )
            self._inside[project] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[project] -= 1
                if not self._inside[project]:
                    del self._inside[project]
