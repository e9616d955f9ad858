"""Mask logits without specks and holes."""

import cv2
import numpy as np
import torch
from torch import Tensor

# What is filled in, or taken away, is made this sure of.
_SURE = 10.0


def without_small_regions(logits: Tensor, area: int) -> Tensor:
    """Fill holes and take away specks of at most ``area`` logits, connected by edges or corners.

    Args:
        logits: float ``[M, h, w]``.

    Returns:
        As many; ``logits`` itself where ``area`` is 0.
    """
    if area <= 0:
        return logits
    above = (logits > 0).cpu().numpy()
    specks, holes = (
        torch.from_numpy(_small_parts(masks, area)).to(logits.device) for masks in (above, ~above)
    )
    return logits.masked_fill(holes, _SURE).masked_fill(specks, -_SURE)


def _small_parts(masks: np.ndarray, area: int) -> np.ndarray:
    """The connected parts of M masks that are not larger than ``area``: bool ``[M, h, w]``."""
    found = np.zeros_like(masks)
    for number, mask in enumerate(masks):
        count, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        small = np.bincount(parts.ravel(), minlength=count) <= area
        small[0] = False  # what is not in the mask
        found[number] = small[parts]
    return found
