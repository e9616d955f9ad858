"""Memory of the model's device: what happens when there is none left, and who holds how much."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from backend.engine.engine import OutOfMemory
from backend.metrics import Metrics

if TYPE_CHECKING:
    from sam2model import VideoTracker

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What CUDA, the CPU allocator and Metal say in exceptions that have no class of their own.
_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory")


class MemoryRetry:
    """Runs calls on the device, and once more with empty caches where its memory is used up."""

    def __init__(self, empty_caches: Callable[[], None], metrics: Metrics) -> None:
        self._empty_caches = empty_caches
        self._metrics = metrics

    def __call__(self, call: Callable[[], T], /) -> T:
        """The result of ``call``.

        Raises:
            OutOfMemory: the memory is not enough even so.
        """
        try:
            return call()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("the device is out of memory; its caches are emptied: %s", error)
        # Outside of the except block, whose traceback would keep the failed call's tensors.
        self._metrics.out_of_memory.labels("retried").inc()
        self._empty_caches()
        release_unused()
        try:
            return call()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._metrics.out_of_memory.labels("refused").inc()
            logger.error("the device is out of memory with empty caches: %s", error)
        release_unused()
        raise OutOfMemory(
            "the device has too little memory for this; ask for fewer objects at a time, or have "
            "the operator choose a smaller SAM2_VARIANT or SAM2_IMAGE_SIZE"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that device or host memory is used up."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        message in str(error).lower() for message in _MESSAGES
    )


def release_unused() -> None:
    """Give what nobody refers to any more back to the device."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported: then there is nothing to give back
    if torch is not None and torch.cuda.is_available():
        from sam2model.transfer import release_pinned

        torch.cuda.empty_cache()
        release_pinned()


class DeviceMemory:
    """Who holds how much of the memory of the model's device; for any thread."""

    def __init__(self) -> None:
        self._trackers: WeakSet[VideoTracker] = WeakSet()
        self._lock = threading.Lock()

    def counted(self, tracker: VideoTracker) -> VideoTracker:
        """A tracker, whose memory counts from then on."""
        with self._lock:
            self._trackers.add(tracker)
        return tracker

    def by_owner(self, model: Any, embeddings: float) -> dict[str, float]:
        """Bytes of the weights and what is derived from them, of embeddings, of what trackers
        remember, and of all else: what is being computed, and on a CPU the process itself."""
        with self._lock:
            trackers = list(self._trackers)
        weights = model_bytes(model)
        tracks = sum(getattr(each, "device_bytes", 0) for each in trackers)
        other = max(0, used_bytes(model) - weights - embeddings - tracks)
        return {"model": weights, "embeddings": embeddings, "tracks": tracks, "other": other}


def count_memory(metrics: Metrics, by_owner: Callable[[], dict[str, float]]) -> None:
    """Have metrics say who holds how much."""

    def pinned() -> float:
        transfer = sys.modules.get("sam2model.transfer")  # brings torch
        return 0.0 if transfer is None else float(transfer.pinned_bytes())

    metrics.gauges(
        "sam2_device_memory_bytes",
        "Memory in use on the model's device (on a CPU: of the process), by owner",
        "owner",
        by_owner,
    )
    metrics.gauge(
        "sam2_pinned_bytes",
        "Host memory pinned for copies to and from the device, what is free for the next included",
        pinned,
    )


def model_bytes(model: Any) -> int:
    """Bytes of a network's weights and buffers, and of what is derived from them; 0 for what is no
    network."""
    if not hasattr(model, "parameters") or not hasattr(model, "buffers"):
        return 0
    from sam2model.inference_weights import derived_bytes

    tensors = [*model.parameters(), *model.buffers()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return held + derived_bytes(model)


def used_bytes(model: Any) -> int:
    """Bytes in use on the device of ``model``; for a CPU, of this process."""
    device = getattr(model, "device", None)
    if getattr(device, "type", None) == "cuda":
        return int(sys.modules["torch"].cuda.memory_allocated(device))
    return resident_bytes()


def resident_bytes(process: int | str = "self") -> int:
    """Memory of a process that is in RAM (Linux); 0 where it cannot be known."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
