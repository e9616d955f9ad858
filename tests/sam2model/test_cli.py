"""``python -m sam2model segment``, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2model.__main__ import main


@pytest.fixture
def photo(tmp_path, disc):
    """A photo file and the true mask of the disc on it."""
    pixels, inside = disc(300, 400, centre=(150, 120), radius=60)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path, inside


def iou(mask_file: Path, inside: np.ndarray) -> float:
    mask = np.asarray(Image.open(mask_file))
    assert set(np.unique(mask)) <= {0, 255}
    return float(((mask > 0) & inside).sum() / ((mask > 0) | inside).sum())


@pytest.mark.instruction_set
def test_a_click_as_a_command(photo, tmp_path):
    path, inside = photo
    result = subprocess.run(
        [sys.executable, "-m", "sam2model", "segment", path, "--point", "150,120",
         "--out", tmp_path / "mask.png", "--overlay", tmp_path / "overlay.jpg"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "predicted IoU" in result.stdout
    assert iou(tmp_path / "mask.png", inside) > 0.9
    overlay, image = (
        np.asarray(Image.open(p).convert("RGB"), dtype=int)
        for p in (tmp_path / "overlay.jpg", path)
    )
    changed = np.abs(overlay - image).sum(axis=2) > 30
    assert changed[inside].mean() > 0.6
    assert changed[~inside].mean() < 0.2


@pytest.mark.parametrize(
    "prompt",
    [
        ["--box", "90,60,210,180"],
        ["--point", "150,120", "--point", "130,110", "--negative", "300,250"],
        ["--box", "90,60,210,180", "--negative", "10,10"],
    ],
)
def test_other_prompts(photo, tmp_path, prompt):
    path, inside = photo
    out = tmp_path / "mask.png"
    assert main(["segment", str(path), *prompt, "--out", str(out)]) == 0
    assert iou(out, inside) > 0.85


def test_exif_orientation_is_respected(tmp_path, disc):
    upright, inside = disc(400, 300, centre=(200, 120), radius=60)
    path, out = tmp_path / "photo.jpg", tmp_path / "mask.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    Image.fromarray(np.rot90(upright).copy()).save(path, exif=exif, quality=95)
    assert main(["segment", str(path), "--point", "200,120", "--out", str(out)]) == 0
    assert iou(out, inside) > 0.85


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jpg", "--point", "1,1", "--out", "m.png"], "there is no file absent.jpg"),
        (["text.jpg", "--point", "1,1", "--out", "m.png"], "cannot read text.jpg as an image"),
        (["photo.png", "--point", "1,1", "--out", "no/m.png"], "cannot write no/m.png"),
        (["photo.png", "--point", "1,1", "--out", "m.xyz"], "cannot write m.xyz"),
        (["photo.png", "--box", "9,9,1,1", "--out", "m.png"], "x0 <= x1"),
        (["photo.png", "--point", "1,1", "--out", "m.png", "--device", "abacus"], "unknown device"),
        (["photo.png", "--point", "1,1", "--out", "m.png", "--checkpoint", "no.pt"], "no such"),
        (["photo.png", "--point", "1,1", "--out", "m.png", "--checkpoint", "text.jpg"], "damaged"),
    ],
)  # fmt: skip
def test_errors_are_one_line(photo, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(photo[0].parent)
    Path("text.jpg").write_text("this is no picture")
    assert main(["segment", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png", "--out", "m.png"], "say where the object is"),
        (["photo.png", "--point", "1,1"], "say where to write"),
        (["photo.png", "--point", "1;1", "--out", "m.png"], "not of the form x,y"),
        (["photo.png", "--box", "1,2,3", "--out", "m.png"], "not of the form x0,y0,x1,y1"),
        (["photo.png", "--point", "1,1", "--out", "m.png", "--variant", "huge"], "invalid choice"),
        ([], "required"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["segment", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_no_weights_and_no_network(photo, tmp_path):
    """The hub's own offline switch, an empty cache, and a plain answer."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    result = subprocess.run(
        [sys.executable, "-m", "sam2model", "segment", photo[0], "--point", "1,1",
         "--variant", "sam2.1_hiera_tiny", "--out", tmp_path / "mask.png"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE" in result.stderr
    assert "pass its path as checkpoint=" in result.stderr
