"""A cache bounded in bytes whose entries are made once, however many ask for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sam2model import ImageEmbedding


class EmbeddingCache:
    """Least recently used values go first once ``capacity_bytes`` is exceeded.

    A value larger than the whole cache is handed out but not kept.

    Args:
        leaving: called with what there is no room for any more, and its key.
    """

    def __init__(
        self,
        capacity_bytes: int,
        leaving: Callable[[str, ImageEmbedding], None] = lambda key, value: None,
    ) -> None:
        self._capacity, self._leaving = capacity_bytes, leaving
        self._lock = threading.Lock()
        self._values: OrderedDict[str, ImageEmbedding] = OrderedDict()
        self._pending: dict[str, Future[ImageEmbedding]] = {}
        self._bytes = 0
        self.evictions = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def claim(self, key: str) -> tuple[Future[ImageEmbedding], str]:
        """Look ``key`` up.

        Returns:
            What gives the value, now or when its maker is done; and ``hit`` (it is there),
            ``joined`` (somebody makes it) or ``miss``: the caller must make it, and call
            ``fulfil`` or ``fail``.
        """
        with self._lock:
            if key in self._pending:
                return self._pending[key], "joined"
            future: Future[ImageEmbedding] = Future()
            if key in self._values:
                self._values.move_to_end(key)
                future.set_result(self._values[key])
                return future, "hit"
            self._pending[key] = future
            return future, "miss"

    def fulfil(self, key: str, value: ImageEmbedding) -> None:
        """Store what the maker made and hand it to all who wait."""
        left: list[tuple[str, ImageEmbedding]] = []
        with self._lock:
            future = self._pending.pop(key)
            if value.nbytes <= self._capacity:
                self._values[key] = value
                self._bytes += value.nbytes
                while self._bytes > self._capacity:
                    name, oldest = self._values.popitem(last=False)
                    self._bytes -= oldest.nbytes
                    self.evictions += 1
                    left.append((name, oldest))
        future.set_result(value)
        for each in left:
            self._leaving(*each)

    def clear(self) -> None:
        """Forget all values; those being made are not touched."""
        with self._lock:
            self.evictions += len(self._values)
            self._values.clear()
            self._bytes = 0

    def fail(self, key: str, error: BaseException) -> None:
        """Tell all who wait; the next one to ask tries again."""
        with self._lock:
            future = self._pending.pop(key)
        future.set_exception(error)
