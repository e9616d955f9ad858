"""Memory of the model's device: what happens when there is none left, and who holds how much."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from backend.engine.engine import OutOfMemory
from backend.metrics import Metrics

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
        torch.cuda.empty_cache()


def model_bytes(model: Any) -> int:
    """Bytes of a network's weights and buffers; 0 for what is no network."""
    if not hasattr(model, "parameters") or not hasattr(model, "buffers"):
        return 0
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


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
