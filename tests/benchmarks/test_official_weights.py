"""``make check-weights``, with a file of weights that need no download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.quality import official_weights
from benchmarks.support.reference import draw_weights
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Meta publishes weights, but drawn at random."""
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    model = SAM2(VARIANTS["demo"], 256)
    torch.save({"model": draw_weights(model.state_dict(), seed=3)}, path)
    return path


def test_the_packages_agree_on_a_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--checkpoint", str(checkpoint), "--image-size", "256"]
    assert official_weights.main(arguments) == 0
    said = capsys.readouterr().out
    assert "| click on bowl | 1.0000 |" in said or "| click on bowl | 0.99" in said
    assert "| bee through 6 frames |" in said
    assert "They agree" in said


def test_edgetam_is_tried_beside_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "random.pt"
    model = SAM2(VARIANTS["edgetam"], 256)
    torch.save({"model": draw_weights(model.state_dict(), seed=11)}, path)
    arguments = ["edgetam", "--checkpoint", str(path), "--image-size", "256"]
    assert official_weights.main(arguments) == 0
    said = capsys.readouterr().out
    assert "| edgetam | agreement with transformers |" in said
    assert "| bee through 6 frames |" in said


def test_a_disagreement_is_told_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = official_weights.Compared("click on a cup", 0.98, 0.9, 0.9)
    monkeypatch.setattr(official_weights, "compare", lambda *arguments: [row])
    assert official_weights.main(["demo"]) == 1
    assert "DO NOT agree" in capsys.readouterr().out


def test_a_file_of_another_variant_is_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert official_weights.main(["sam2.1_hiera_tiny", "--checkpoint", str(checkpoint)]) == 1
    assert "it looks like demo" in capsys.readouterr().err
