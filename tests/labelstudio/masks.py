"""The mask that a result item draws, for comparison with the one that it was made of."""

from __future__ import annotations

import numpy as np

from backend.labelstudio.read_results import rasterise, read_geometry
from tests.pixels.in_process import decoded_mask


def region_mask(result: dict) -> np.ndarray:
    """bool [original_height, original_width]; ValueError says why there is none."""
    width, height = result["original_width"], result["original_height"]
    return rasterise(read_geometry(result["value"], width, height), width, height, decoded_mask)
