"""Fixtures of the tests of decoding processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pixels.conftest import clip

__all__ = ["clip"]

FAULTY = "tests.pixels.sandbox.faulty_worker"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with a different colour in every pixel."""
    rows, columns = np.mgrid[:300, :400]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path
