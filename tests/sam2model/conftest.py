"""What the tests of the model share: the demo model, and a picture it can segment."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sam2model import ImagePredictor, build_model

Disc = Callable[..., tuple[NDArray[np.uint8], NDArray[np.bool_]]]


@pytest.fixture(scope="session")
def predictor() -> ImagePredictor:
    """A predictor with the demo weights, on the CPU."""
    return ImagePredictor(build_model("demo", device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def disc() -> Disc:
    """Draw a disc of one colour on noise of another: the picture and the true mask."""

    def draw(
        height: int, width: int, centre: tuple[int, int], radius: int, seed: int = 0
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rows, columns = np.mgrid[:height, :width]
        inside = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2
        colours = np.where(inside[..., None], (220, 40, 40), (40, 90, 60))
        noise = np.random.default_rng(seed).normal(0, 8, colours.shape)
        return (colours + noise).clip(0, 255).astype(np.uint8), inside

    return draw
