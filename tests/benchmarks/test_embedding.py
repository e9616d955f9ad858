"""The benchmark of embeddings compares like with like."""

import sys

import pytest
import torch

from benchmarks.speed.embedding import HEAD, rows
from benchmarks.support import torchvision_stand_in

SIZE = 64


def measure(**options):
    with torch.inference_mode():
        return [dict(zip(HEAD, row, strict=True)) for row in rows("demo", 1, size=SIZE, **options)]


@pytest.mark.slow
@pytest.mark.instruction_set
def test_every_peer_computes_the_same_features():
    measured = measure(transformers=True)
    assert [(row["dtype"], row["peer"]) for row in measured] == [
        ("float32", "sam2"),
        ("float32", "transformers"),
        ("bfloat16", "sam2"),
        ("bfloat16", "transformers"),
    ]
    for row in measured:
        bound = 1e-4 if row["dtype"] == "float32" else 0.05
        assert float(row["error, ours"]) <= bound
        assert float(row["error, peer"]) <= bound
        assert float(row["times less CPU"]) > 0


@pytest.mark.slow
def test_edgetam_is_compared_with_its_peer_and_with_tiny():
    with torch.inference_mode():
        found = [dict(zip(HEAD, row, strict=True)) for row in rows("edgetam", 1, size=256)]
    tiny = "sam2.1_hiera_tiny"
    peers = ["transformers", f"our {tiny}", f"sam2 {tiny}"]
    assert [row["peer"] for row in found if row["dtype"] == "float32"] == peers
    for row in found:
        bound = 1e-4 if row["dtype"] == "float32" else 0.05
        assert float(row["error, ours"]) <= bound
        assert (row["error, peer"] == "") == (row["peer"] != "transformers")


def test_a_missing_peer_is_told():
    [told] = [row for row in measure(transformers=False) if row["peer"] == "transformers"][:1]
    assert told["ours, s"] == "not installed"
    assert told["times faster"] == ""


def test_the_stand_in_for_torchvision_is_gone_when_sam2_is_imported():
    """Other packages find it otherwise, and fail for what it does not have."""
    before = sys.modules.get("torchvision")
    with torchvision_stand_in.installed():
        from sam2.utils.transforms import SAM2Transforms
    assert sys.modules.get("torchvision") is before
    assert SAM2Transforms(resolution=32, mask_threshold=0.0) is not None
