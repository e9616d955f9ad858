"""Preprocessing against the official transform; upsampling of masks in bands."""

import numpy as np
import pytest
import torch

from benchmarks.support import torchvision_stand_in
from sam2model import postprocessing
from sam2model.postprocessing import resize_masks
from sam2model.preprocessing import preprocess

CPU = torch.device("cpu")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (480, 640, 1024),
        (1600, 960, 512),
        (37, 53, 256),
        (256, 256, 256),
        (256, 700, 256),
        (1, 1, 64),
    ],
)
def test_preprocessing_equals_the_official_transform(height, width, size):
    with torchvision_stand_in.installed():
        from sam2.utils.transforms import SAM2Transforms

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    official = SAM2Transforms(resolution=size, mask_threshold=0.0)(image)
    torch.testing.assert_close(preprocess(image, size, CPU)[0], official, rtol=0, atol=1e-6)


def test_preprocessing_normalises():
    white = preprocess(np.full((5, 7, 3), 255, np.uint8), 32, CPU)
    assert white.shape == (1, 3, 32, 32)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white[0, :, 3, 3], expected)


def test_preprocessing_averages_instead_of_skipping_pixels():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = preprocess(stripes, 64, CPU)[0, 0, 8:-8, 8:-8]
    assert grey.std() < 0.01


@pytest.mark.parametrize("size", [(64, 64), (7, 500), (333, 211), (1, 1)])
@pytest.mark.parametrize("band", [50, 8_000_000])
def test_bands_equal_plain_interpolation(monkeypatch, size, band):
    monkeypatch.setattr(postprocessing, "_BAND_PIXELS", band)
    logits = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.interpolate(
        logits[None], size=size, mode="bilinear", align_corners=False
    )[0]
    masks = resize_masks(logits, size).numpy()
    assert masks.shape == (3, *size)
    certain = plain.abs() > 1e-4
    assert np.array_equal(masks[certain.numpy()], (plain > 0)[certain].numpy())
    assert certain.float().mean() > 0.99
