"""The three torchvision transforms that the official ``sam2`` package imports.

torchvision is large, tied to one torch build, and needed for nothing else. These follow
``torchvision/transforms/functional.py`` and ``_functional_tensor.py`` of version 0.28.0 for the
only case that occurs: uint8 RGB arrays, antialiased bilinear resize of a float tensor to a
square. With the real package installed, it is used instead.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class ToTensor:
    """uint8 ``[H, W, 3]`` to float32 ``[3, H, W]`` in [0, 1]."""

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(image.transpose(2, 0, 1).copy()).to(torch.float32).div(255)


class Resize(nn.Module):
    """``[3, H, W]`` to ``[3, *size]``; what already has that size is left alone."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1] == self.height and image.shape[2] == self.width:
            return image
        return nn.functional.interpolate(
            image.unsqueeze(0),
            size=[self.height, self.width],
            mode="bilinear",
            align_corners=False,
            antialias=True,
        ).squeeze(0)


class Normalize(nn.Module):
    """Subtract the mean of every channel, divide by its standard deviation."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return image.sub(mean).div(std)


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None)
    return module


@contextmanager
def installed() -> Iterator[None]:
    """Make ``import torchvision.transforms`` work inside, where torchvision is not installed.

    Not for longer: other packages look whether there is a torchvision, and want more of it.
    """
    try:
        import torchvision.transforms  # noqa: F401
    except ImportError:
        package, transforms = _module("torchvision"), _module("torchvision.transforms")
        for transform in (ToTensor, Resize, Normalize):
            setattr(transforms, transform.__name__, transform)
        package.transforms = transforms  # type: ignore[attr-defined]
        modules = {package.__name__: package, transforms.__name__: transforms}
        sys.modules.update(modules)
        try:
            yield
        finally:
            for name in modules:
                del sys.modules[name]
    else:
        yield
