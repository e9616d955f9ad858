"""The official ``SAM2AutomaticMaskGenerator`` beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.support import torchvision_stand_in
from benchmarks.support.reference import Pair


def build_generator(pair: Pair, settings: Mapping[str, Any]) -> Any:
    """The official generator with ``settings``, which ours takes under the same names."""
    with torchvision_stand_in.installed():
        from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    generator = SAM2AutomaticMaskGenerator(pair.official, **settings)
    side = pair.ours.image_size  # the official predictor takes 1024 for granted
    generator.predictor._bb_feat_sizes = [(side // stride, side // stride) for stride in (4, 8, 16)]
    return generator


@contextmanager
def small_regions() -> Iterator[None]:
    """Let the official package label connected parts, for which it has a CUDA kernel only."""
    with mock.patch("sam2.utils.misc.get_connected_components", _connected_components):
        yield


def _connected_components(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Labels from 1 and areas of the parts of ``[N, 1, h, w]``, joined by edges or corners."""
    inside = masks.float()
    labels = (torch.arange(1, masks[0].numel() + 1).view(1, *masks.shape[1:]) * inside).float()
    while True:  # the highest number of a part spreads through it
        spread = F.max_pool2d(labels, 3, stride=1, padding=1) * inside
        if torch.equal(spread, labels):
            break
        labels = spread
    numbers = labels.long()
    sizes = torch.zeros(len(masks), int(numbers.max()) + 1, dtype=torch.long)
    sizes.scatter_add_(1, numbers.flatten(1), torch.ones_like(numbers.flatten(1)))
    areas = sizes.gather(1, numbers.flatten(1)).view_as(numbers) * masks
    return numbers, areas


def xyxy(record: Mapping[str, Any]) -> NDArray[np.float32]:
    """The box of an official record, as ours are written."""
    x, y, width, height = record["bbox"]
    return np.array([x, y, x + width, y + height], dtype=np.float32)
