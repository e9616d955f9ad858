"""What inference needs of the weights, in the form in which it is computed with.

Weights are float32 parameters under the names of the checkpoints. Without gradients, layers
compute with what was derived from them (cast, interpolated, multiplied together), made at first
use and anew when a weight changes. With gradients none of this is used.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

_DTYPE: ContextVar[torch.dtype | None] = ContextVar("computed_in", default=None)


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

    def forget(self) -> None:
        """Keep nothing."""
        self._kept = None

    def tensors(self) -> list[Tensor]:
        """What is kept at the moment; may be asked from any thread."""
        kept = self._kept
        return [] if kept is None else [x for x in tree_leaves(kept[1]) if isinstance(x, Tensor)]

    def __reduce__(self) -> tuple[type["Derived[T]"], tuple[()]]:
        return type(self), ()


class CastWeights(Derived[tuple[Tensor, Tensor | None]]):
    """Weight and bias of one layer in the dtype that is computed in."""

    def of(self, layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """``layer.weight`` and ``layer.bias``, themselves where they have that dtype."""
        weight: Tensor = layer.weight  # type: ignore[assignment]
        bias: Tensor | None = layer.bias  # type: ignore[assignment]
        if weight.dtype == dtype:
            return weight, bias
        return self.get(
            (weight, bias),
            dtype,
            lambda: (weight.to(dtype), None if bias is None else bias.to(dtype)),
        )


def derived_bytes(model: nn.Module) -> int:
    """Bytes of all that was derived from the weights of a network, and is kept beside them."""
    found: dict[int, int] = {}
    for module in model.modules():
        for value in vars(module).values():
            for each in (value, *getattr(value, "__dict__", {}).values()):
                if isinstance(each, Derived):
                    found |= {id(x): x.nbytes for x in each.tensors()}
    return sum(found.values())


def narrow_weights(model: nn.Module, dtype: torch.dtype, keep: Collection[nn.Module] = ()) -> None:
    """Keep the weights of layers in the dtype that they are cast to anyway, and not in
    float32 beside it; results are the same to the bit. The network is for inference from then on,
    in that dtype only.

    What is more than cast (multiplied together, merged) stays float32.

    Args:
        model: the network.
        dtype: that it computes in.
        keep: modules that compute in float32 in any case; what they consist of stays.
    """
    kept = {id(part) for whole in keep for part in whole.modules()}
    for layer in model.modules():
        cast = getattr(layer, "_cast", None)
        # Those norms that CPUs compute take float32 weights with narrower values.
        if id(layer) in kept or isinstance(layer, nn.LayerNorm):
            continue
        if isinstance(cast, CastWeights):
            layer.to(dtype)
            cast.forget()


@contextmanager
def computing_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Have layers inside compute in ``dtype``; None: in that of what they are given.

    It stands in for autocast, which would look at every operation, cast some values again and
    again, and others up to float32 and down once more.
    """
    token = _DTYPE.set(dtype)
    try:
        yield
    finally:
        _DTYPE.reset(token)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a layer multiplies ``x``: that of :func:`computing_in`, or of autocast,
    which training uses."""
    chosen = _DTYPE.get()
    if chosen is not None and x.dtype != torch.float64:
        return chosen
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
