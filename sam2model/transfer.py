"""Arrays to the model's device and back; where it is a GPU, without making the host wait for it.

A GPU computes while the host goes on, as long as nothing makes the host wait: reading a value, or
copying from or to ordinary memory. So pictures and masks go through pinned memory, copies run on
streams of their own beside the computation, and what comes back is waited for by whoever reads it
(:class:`Download`), which can be after the next frame was begun.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PINNED_BYTES = 256 << 20  # of host memory, that may be kept free for the next copies


class Download:
    """Arrays on their way from the device; any thread may read them.

    Args:
        tensors: on the host.
        wait: returns when they are complete, where they are pinned and still being written; None
            where they are ordinary tensors, and complete.
    """

    def __init__(self, tensors: Sequence[Tensor], wait: Callable[[], object] | None = None) -> None:
        self._tensors = tensors
        self._wait = wait
        self._lock = threading.Lock()
        self._arrays: tuple[NDArray[Any], ...] | None = None

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays, in the order in which they were asked for; waits for the device."""
        with self._lock:
            if self._arrays is None:
                self._arrays = self._received()
                self._tensors = ()
            return self._arrays

    def _received(self) -> tuple[NDArray[Any], ...]:
        arrays = tuple(tensor.numpy() for tensor in self._tensors)
        if self._wait is None:
            return arrays
        self._wait()
        # Pinned memory is scarce, and masks may be kept for long.
        return tuple(array.copy() for array in arrays)


class Transfer:
    """Copies for the CPU, where there is nothing to copy, and for devices without streams."""

    def upload(self, picture: NDArray[np.uint8]) -> Tensor:
        """uint8 ``[H, W, 3]`` as a tensor where it is to be resized: here, on the host."""
        return torch.from_numpy(np.require(picture, requirements=["C", "W"]))

    def download(self, *tensors: Tensor) -> Download:
        """Bring tensors to the host."""
        return Download([tensor.cpu() for tensor in tensors])


class CudaTransfer(Transfer):
    """Copies for one CUDA device, on one stream for each direction.

    torch keeps pinned memory that is free again for the next copy, and gives none of it out
    before the copies that use it are done. It never gives it back by itself: that is done wherever
    more than ``PINNED_BYTES`` are free.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up = torch.cuda.Stream(device)
        self._down = torch.cuda.Stream(device)

    def upload(self, picture: NDArray[np.uint8]) -> Tensor:
        """uint8 ``[H, W, 3]`` as a tensor where it is to be resized: on the device."""
        _bound_pinned()
        pinned = super().upload(picture).pin_memory()
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._up):
            uploaded = pinned.to(self._device, non_blocking=True)
        computing.wait_stream(self._up)
        uploaded.record_stream(computing)  # which must be done before the memory is used again
        return uploaded

    def download(self, *tensors: Tensor) -> Download:
        """Bring tensors to the host; nobody may write to them any more."""
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            pinned = [_pinned_like(t).copy_(t, non_blocking=True) for t in tensors]
            for tensor in tensors:
                tensor.record_stream(self._down)
            arrived = self._down.record_event()
        return Download(pinned, arrived.synchronize)


def pinned_bytes() -> int:
    """Host memory that is pinned for copies, free blocks included; 0 where CUDA is not in use."""
    return sum(_pinned())


def release_pinned() -> None:
    """Give free pinned memory back to the system; nothing where CUDA is not in use."""
    if torch.cuda.is_initialized():
        torch._C._host_emptyCache()


def _bound_pinned() -> None:
    _, free = _pinned()
    if free > PINNED_BYTES:
        release_pinned()


def _pinned() -> tuple[int, int]:
    """Bytes of pinned memory that copies use, and that are free for the next ones."""
    stats = torch.cuda.host_memory_stats()
    used = int(stats.get("active_bytes.current", 0))
    return used, int(stats.get("allocated_bytes.current", 0)) - used


def transfer_for(device: torch.device) -> Transfer:
    """What copies for ``device``."""
    return CudaTransfer(device) if device.type == "cuda" else Transfer()


def _pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
