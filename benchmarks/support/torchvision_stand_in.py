"""The parts of torchvision that the official ``sam2`` package imports.

torchvision is large, tied to one torch build, and needed for nothing else. The transforms follow
``torchvision/transforms/functional.py`` and ``_functional_tensor.py`` of version 0.28.0 for the
only case that occurs: uint8 RGB arrays, antialiased bilinear resize of a float tensor to a
square. What is done with boxes follows ``torchvision/ops/boxes.py`` and, below it,
``csrc/ops/cpu/nms_kernel.cpp``, for boxes of one category. With the real package installed, it is
used instead.
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


def box_area(boxes: Tensor) -> Tensor:
    """``[N, 4]`` x0, y0, x1, y1 to ``[N]``."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Positions of the boxes that stay, best first, one pair after the other."""
    if idxs.any():
        raise NotImplementedError("boxes of several categories")
    areas = box_area(boxes).tolist()
    sides = boxes.tolist()
    order = scores.sort(stable=True, descending=True).indices.tolist()
    gone: set[int] = set()
    kept = []
    for place, one in enumerate(order):
        if one in gone:
            continue
        kept.append(one)
        for other in order[place + 1 :]:
            a, b = sides[one], sides[other]
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = areas[one] + areas[other] - width * height
            if union and width * height / union > iou_threshold:
                gone.add(other)
    return torch.tensor(kept, dtype=torch.int64)


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None)
    return module


@contextmanager
def installed() -> Iterator[None]:
    """Make what ``sam2`` imports of torchvision importable inside, where it is not installed.

    Not for longer: other packages look whether there is a torchvision, and want more of it.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        contents = {
            "torchvision": (),
            "torchvision.transforms": (ToTensor, Resize, Normalize),
            "torchvision.ops": (),
            "torchvision.ops.boxes": (batched_nms, box_area),
        }
        modules = {name: _module(name) for name in contents}
        for name, parts in contents.items():
            for part in parts:
                setattr(modules[name], part.__name__, part)
            package, _, last = name.rpartition(".")
            if package:
                setattr(modules[package], last, modules[name])
        sys.modules.update(modules)
        try:
            yield
        finally:
            for name in modules:
                del sys.modules[name]
    else:
        yield
