"""Import ``timm``, which ``transformers`` has EdgeTAM's trunk from, where there is no torchvision.

``timm`` wants torchvision (see :mod:`benchmarks.support.torchvision_stand_in`) for one class, of
which it asks whether layers are instances, and for data sets with their transforms. Here it gets
the class, of which there are no instances, and no data sets.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from torch import nn


class FrozenBatchNorm2d(nn.Module):
    """In torchvision's place; no layer of EdgeTAM is one."""


class _Data(ModuleType):
    """``timm.data``: whatever is imported from it; nothing is done with it."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def is_installed() -> bool:
    """Whether there are a ``transformers`` and a ``timm`` to compare with."""
    return find_spec("transformers") is not None and find_spec("timm") is not None


def import_timm() -> ModuleType:
    """The package ``timm``.

    What stands in for torchvision is gone afterwards: ``transformers`` looks whether there is a
    torchvision, and wants more of it.
    """
    if "timm" in sys.modules:
        return sys.modules["timm"]
    stand_ins: dict[str, ModuleType] = {}
    if find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
        stand_ins = {name: ModuleType(name) for name in names}
        stand_ins[names[-1]].FrozenBatchNorm2d = FrozenBatchNorm2d  # type: ignore[attr-defined]
        data = _Data("timm.data")
        for module in (*stand_ins.values(), data):
            module.__spec__ = ModuleSpec(module.__name__, loader=None)
        sys.modules.update(stand_ins)
        sys.modules[data.__name__] = data
    try:
        return import_module("timm")
    finally:
        for name in stand_ins:
            del sys.modules[name]
