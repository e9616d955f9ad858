"""A library of drawn pictures and a network small enough to train in a test."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2model.variants import TrunkConfig, Variant
from training.demo_weights.library import MANIFEST, PIXELS, Library


def _disc(side: int, colour: tuple[int, int, int]) -> np.ndarray:
    rgba = np.zeros((side, side, 4), np.uint8)
    cv2.circle(rgba, (side // 2, side // 2), side // 2 - 1, (*colour, 255), -1)
    return rgba


def _write_library(directory: Path) -> None:
    rng = np.random.default_rng(5)
    pictures = [
        ("cutout", "red", _disc(60, (220, 30, 30))),
        ("cutout", "blue", _disc(40, (30, 60, 220))),
        ("photo", "noise", rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)),
        ("glyph", "bar", np.full((30, 50, 1), 255, np.uint8)),
        ("matcap", "ball", _disc(32, (200, 200, 200))[..., :3]),
        ("texture", "paper", rng.integers(200, 256, (64, 64, 3), dtype=np.uint8)),
    ]
    columns = ("kind", "family", "split", "offset", "height", "width", "channels")
    with (
        (directory / PIXELS).open("wb") as blob,
        (directory / MANIFEST).open("w", newline="", encoding="utf-8") as table,
    ):
        writer = csv.writer(table)
        writer.writerow(columns)
        for split in ("train", "held-out"):
            for kind, family, image in pictures:
                family = f"{split} {family}"
                writer.writerow((kind, family, split, blob.tell(), *image.shape))
                blob.write(image.tobytes())


@pytest.fixture(scope="session")
def library_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as ``demo_weights.fetch_data`` leaves it, with a dozen drawn pictures."""
    directory = tmp_path_factory.mktemp("training-data")
    _write_library(directory)
    return directory


@pytest.fixture(scope="session")
def library(library_directory: Path) -> Library:
    return Library(library_directory, "train")


@pytest.fixture(scope="session")
def tiny_variant() -> Variant:
    """64 pixels, 32 channels: every part there, a step in milliseconds."""
    trunk = TrunkConfig(
        embed_dim=8,
        num_heads=1,
        stages=(1, 1, 1, 1),
        global_att_blocks=(2, 3),
        window_spec=(8, 4, 4, 2),
        window_pos_embed_bkg_spatial_size=(4, 4),
    )
    return Variant(
        trunk=trunk,
        image_size=64,
        d_model=64,
        memory_layers=1,
        memory_feedforward=64,
        memory_dropout=0.0,
    )
