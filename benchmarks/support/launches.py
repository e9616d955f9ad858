"""How many kernels a computation would launch on a GPU, and their work, counted without one.

The network runs on torch's ``meta`` device, which has shapes and dtypes and no values, in the
number format of a GPU. What it asks of torch is counted: an operation that makes or changes a
tensor is one launch, a view of one is none. Fused kernels count once, as on a GPU; how long each
takes is not known here, but what it multiplies, and reads and writes once at least.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sam2model import image_predictor, video_tracker
from sam2model.sam2 import SAM2
from sam2model.transfer import Download, Transfer
from sam2model.variants import VARIANTS

META = torch.device("meta")
# Operations whose kernels on a GPU take one dtype only, where those for CPUs take two.
_OF_ONE_DTYPE = (
    F.linear,
    F.conv2d,
    F.conv_transpose2d,
    F.layer_norm,
    F.scaled_dot_product_attention,
    torch.conv2d,
    torch.baddbmm,
    torch.matmul,
    Tensor.__matmul__,
)


class Launches(TorchDispatchMode):
    """Counts what changes or makes tensors on the device.

    Attributes:
        kinds: launches of each operation.
        flop: floating-point operations of all products of matrices and convolutions.
        moved: bytes that the launches read and write, were each to read its tensors once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: Counter[str] = Counter()
        self.flop = 0
        self.moved = 0
        self._quiet = False

    @property
    def total(self) -> int:
        """All launches."""
        return self.kinds.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given, made = tensors((args, kwargs)), tensors(out)
        on_device = any(each.device == META for each in (*given, *made))
        if on_device and not self._quiet and not name.startswith(("empty", "new_empty")):
            known = {_memory(each) for each in given}
            changes = name.endswith("_") or kwargs.get("out") is not None
            if changes or any(_memory(each) not in known for each in made):
                self.add(name, (*given, *made), _flop_of(name, args, out))
        return out

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Count nothing inside."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def add(self, name: str, moved: Iterable[Tensor], flop: int) -> None:
        """One launch, of what it reads and writes."""
        self.kinds[name] += 1
        self.flop += flop
        sizes: dict[int, int] = {}
        for each in moved:
            shown = sizes.get(_memory(each), 0) + each.numel() * each.element_size()
            sizes[_memory(each)] = min(shown, each.untyped_storage().nbytes())  # views overlap
        self.moved += sum(sizes.values())


class GpuKernels(TorchFunctionMode):
    """Has attention and products of many rows count as the one kernel that they are on a GPU.

    Raises:
        TypeError: an operation gets values and weights of different dtypes.
    """

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self._launches = launches

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _OF_ONE_DTYPE:
            dtypes = {each.dtype for each in tensors((args, kwargs))}
            if len(dtypes) > 1:
                raise TypeError(f"{func.__name__} of {dtypes}: no kernel of a GPU takes that")
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            with self._launches.quiet():
                shape = (q.shape[0], q.shape[2], q.shape[1], v.shape[3])
                out = q.new_empty(shape).transpose(1, 2)
            pairs = q.shape[:-1].numel() * k.shape[-2]
            flop = 2 * pairs * (q.shape[-1] + v.shape[-1])
            self._launches.add("attention", [*tensors((args, kwargs)), out], flop)
            return out
        if func is F.linear:
            x, weight = args[:2]
            rows = x if x.is_contiguous() else x.contiguous()  # a copy, where it is a view
            with self._launches.quiet():
                out = rows.new_empty(*x.shape[:-1], len(weight))
            moved = [rows, *tensors((args[1:], kwargs)), out]
            self._launches.add("linear", moved, 2 * out.numel() * x.shape[-1])
            return out
        return func(*args, **kwargs)


class MetaTransfer(Transfer):
    """The only way from the host to the ``meta`` device and back; what comes back has no values.

    Attributes:
        downloads: how often the host asked for something, for which it has to wait.
    """

    def __init__(self) -> None:
        self.downloads = 0

    def upload(self, picture: NDArray[np.uint8]) -> Tensor:
        """See ``Transfer``."""
        return torch.empty(picture.shape, dtype=torch.uint8, device=META)

    def download(self, *tensors: Tensor) -> Download:
        """See ``Transfer``."""
        self.downloads += 1
        assert all(tensor.device == META for tensor in tensors)
        return Download([torch.zeros(each.shape, dtype=each.dtype) for each in tensors])


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of nested arguments."""
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def meta_model(name: str, size: int | None = None) -> SAM2:
    """A network without values, in bfloat16, at its own size or another."""
    with META:
        model = SAM2(VARIANTS[name], size).eval()
    model.compute_dtype = torch.bfloat16
    return model


@contextmanager
def transferring() -> Iterator[MetaTransfer]:
    """Have predictors and trackers made inside copy to ``meta`` and back."""
    copies = MetaTransfer()
    with (
        mock.patch.object(image_predictor, "transfer_for", lambda device: copies),
        mock.patch.object(video_tracker, "transfer_for", lambda device: copies),
        # torch knows no autocast for this device.
        mock.patch.object(torch, "is_autocast_enabled", lambda device=None: False),
    ):
        yield copies


@contextmanager
def counting() -> Iterator[Launches]:
    """Count the launches inside."""
    launches = Launches()
    with launches, GpuKernels(launches):
        yield launches


def _flop_of(name: str, args: tuple[Any, ...], out: Any) -> int:
    """Of a product of matrices or a convolution; 0 of anything else."""
    if name in ("matmul", "mm", "bmm"):
        return int(2 * out.numel() * args[0].shape[-1])
    if name in ("addmm", "baddbmm"):
        return int(2 * out.numel() * args[1].shape[-1])
    if name in ("conv2d", "conv_transpose2d"):
        pixels = out if name == "conv2d" else args[0]
        return int(2 * pixels.numel() * args[1][0].numel())
    return 0


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
