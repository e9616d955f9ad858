"""Where embeddings are: on the device, made once however many ask for them; in host memory and on
the disk what the device has no room for.

The device's own are in ``EmbeddingCache``. What leaves it goes to host memory, where that is
another; what was encoded goes to the disk, too, where the operator gave it room. Moving one up
costs a copy, and on the way from the disk a read and its checksum: far less than encoding.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from backend.engine.embedding_disk import ABOUT, EmbeddingDisk, PackedEmbedding
from backend.metrics import Metrics

if TYPE_CHECKING:
    import torch

    from sam2model import ImageEmbedding, ImagePredictor

logger = logging.getLogger(__name__)

WAITING = 16  # embeddings that wait to be written, of about 8 MB each
HOST, DISK = "host", "disk"
HOST_DEVICE = "cpu"  # whose memory is the host's


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


class EmbeddingTiers:
    """Keeps embeddings below the device; safe to share between threads.

    Args:
        host_bytes: of host memory, for a device that has memory of its own.
        disk: None to keep none there.
    """

    def __init__(self, host_bytes: int, disk: EmbeddingDisk | None) -> None:
        self.disk = disk
        self._host_bytes = host_bytes
        self._lock = threading.Lock()
        self._host: OrderedDict[str, PackedEmbedding] = OrderedDict()
        self._used = 0
        self._writing: queue.Queue[tuple[str, PackedEmbedding] | None] = queue.Queue(WAITING)
        self._writer: threading.Thread | None = None
        self.dropped = 0  # that could not be written in time

    @property
    def host_used(self) -> int:
        """Bytes in host memory."""
        return self._used

    def find(self, key: str) -> tuple[str, PackedEmbedding] | None:
        """Where an embedding is, and the embedding; None where it has to be made."""
        with self._lock:
            found = self._host.get(key)
            if found is not None:
                self._host.move_to_end(key)
                return HOST, found
        read = self.disk.load(key) if self.disk is not None else None
        return None if read is None else (DISK, read)

    def keep(self, key: str, embedding: ImageEmbedding) -> None:
        """An embedding was made: have it written, in a thread of its own."""
        if self.disk is None:
            return
        packed = pack(embedding)
        if packed is None:
            return
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="embeddings", daemon=True)
                self._writer.start()
        try:
            self._writing.put_nowait((key, packed))
        except queue.Full:  # the disk is slower than the encoder
            self.dropped += 1

    def take_over(self, key: str, embedding: ImageEmbedding) -> None:
        """An embedding leaves the device."""
        if not self._host_bytes or embedding.features.embedding.device.type == HOST_DEVICE:
            return
        packed = pack(embedding)
        if packed is None or packed.nbytes > self._host_bytes:
            return
        with self._lock:
            earlier = self._host.pop(key, None)
            self._used += packed.nbytes - (earlier.nbytes if earlier is not None else 0)
            self._host[key] = packed
            while self._used > self._host_bytes:
                _, oldest = self._host.popitem(last=False)
                self._used -= oldest.nbytes

    def flush(self) -> None:
        """Return when all that was to be written is."""
        self._writing.join()

    def close(self) -> None:
        """Write what waits, and stop."""
        if self._writer is not None:
            self._writing.put(None)
            self._writer.join()

    def _write(self) -> None:
        while True:
            item = self._writing.get()
            try:
                if item is None:
                    return
                if self.disk is not None:
                    self.disk.store(*item)
            except Exception:  # thread boundary: the next ones may be written
                logger.exception("an embedding could not be written")
            finally:
                self._writing.task_done()


def count_embeddings(metrics: Metrics, cache: EmbeddingCache, tiers: EmbeddingTiers) -> None:
    """Have metrics say how much each tier holds."""
    metrics.gauge("sam2_embedding_cache_bytes", "Embeddings held", lambda: cache.nbytes)
    metrics.gauge("sam2_embedding_cache_entries", "Embeddings held", lambda: len(cache))
    metrics.counter("sam2_embedding_cache_evictions", "Embeddings dropped", lambda: cache.evictions)
    metrics.gauge(
        "sam2_embedding_host_bytes",
        "Embeddings in host memory that left the device",
        lambda: tiers.host_used,
    )
    disk = tiers.disk
    if disk is not None:
        metrics.gauge("sam2_embedding_disk_bytes", "Embeddings on the disk", lambda: disk.used)
        metrics.counter(
            "sam2_embedding_disk_damaged", "Damaged ones thrown away", lambda: disk.damaged
        )
        metrics.counter(
            "sam2_embedding_disk_dropped",
            "Embeddings that the disk was too slow for",
            lambda: tiers.dropped,
        )


def pack(embedding: ImageEmbedding) -> PackedEmbedding | None:
    """An embedding in half precision, copied to host memory; None where it has numbers that half
    precision cannot hold.

    What a network that computes in half precision makes is kept to the bit, its sums in float32
    too: another last bit would be rounded another way in every layer that follows.
    """
    import torch

    tensors = (embedding.features.embedding, *embedding.features.high_res)
    is_single = all(tensor.dtype == torch.float32 for tensor in tensors)
    parts, made_as, kept_as = [], [], []
    for tensor in tensors:
        kept = tensor.detach().to(torch.float16 if is_single else tensor.dtype)
        if not bool(torch.isfinite(kept).all()):
            return None
        parts.append(kept.cpu().contiguous().view(torch.int16).numpy().view(np.uint16))
        made_as.append(str(tensor.dtype).removeprefix("torch."))
        kept_as.append(str(kept.dtype).removeprefix("torch."))
    return PackedEmbedding(tuple(parts), tuple(made_as), tuple(kept_as), embedding.original_size)


def packed_bytes(predictor: ImagePredictor) -> int:
    """What one embedding takes on the disk; 0 where none is kept."""
    packed = pack(predictor.embed(np.zeros((64, 64, 3), np.uint8)))
    return packed.nbytes + ABOUT if packed is not None else 0


def unpack(packed: PackedEmbedding, device: torch.device) -> ImageEmbedding:
    """The embedding on a device, in the numbers and the order in memory that the encoder made: some
    CPUs round half precision otherwise in another order."""
    import torch

    from sam2model import ImageEmbedding
    from sam2model.values import ImageFeatures

    tensors = []
    for part, made_as, kept_as in zip(packed.parts, packed.made_as, packed.kept_as, strict=True):
        bits = torch.from_numpy(part.view(np.int16).copy())  # what was read cannot be written to
        kept = bits.to(device).view(getattr(torch, kept_as))
        made = kept.to(getattr(torch, made_as))
        tensors.append(made.contiguous(memory_format=torch.channels_last))
    embedding, *high_res = tensors
    features = ImageFeatures(embedding, (high_res[0], high_res[1]))
    return ImageEmbedding(features, packed.original_size)
