"""What inference needs of the weights, in the form in which it is computed with.

Weights are float32 parameters under the names of the checkpoints. Without gradients, layers
compute with what was derived from them (cast, interpolated, multiplied together), made at first
use and anew when a weight changes. With gradients none of this is used.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Derived(Generic[T]):
    """One value computed from parameters, kept until one of them changes.

    A copy or a pickle of it starts empty. Threads that meet may compute it twice, to the same
    result.
    """

    def __init__(self) -> None:
        self._kept: tuple[Hashable, T] | None = None

    def get(
        self, parameters: Sequence[Tensor | None], variety: Hashable, compute: Callable[[], T]
    ) -> T:
        """The kept value, or a new one where something that it depends on has changed.

        Args:
            parameters: what it depends on, every tensor that can change.
            variety: what else it depends on: a dtype, a size.
            compute: makes it.
        """
        tensors = [p for p in parameters if p is not None]
        if any(p.is_inference() for p in tensors):
            return compute()  # these do not count their changes
        # Optimisers and loading change a tensor in place, moving to a device replaces its memory.
        key = (variety, *((p.data_ptr(), p._version, p.device, p.dtype) for p in tensors))
        kept = self._kept
        if kept is None or kept[0] != key:
            with torch.no_grad():
                kept = (key, compute())
            self._kept = kept
        return kept[1]

    def __reduce__(self) -> tuple[type["Derived[T]"], tuple[()]]:
        return type(self), ()


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a layer multiplies ``x``: that of autocast, where it is on."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
