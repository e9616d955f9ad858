"""Every command trusts the certificates that CA_BUNDLE names, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import LabelStudio, Run
from tests.media.certificates import serve_https
from training.__main__ import main as finetune

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
</View>"""
UNTRUSTED = "certificate"


@pytest.fixture
def bundle(label_studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What verifies the Label Studio of the settings, whose certificate is its own."""
    bundle, url = serve_https(label_studio.server, tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    label_studio.add_project(5, CONFIG)
    label_studio.add_task(7, 5, {"image": "a.png"})
    return bundle


def test_export(bundle: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["export", "--format", "coco", "--out", str(tmp_path / "out"), "--project", 5]
    assert UNTRUSTED in run(*command).err
    monkeypatch.setenv("CA_BUNDLE", str(bundle))
    assert "nothing to export" in run(*command).err


def test_fine_tuning(
    bundle: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "--project", "5"]
    assert finetune(command) == 1
    assert UNTRUSTED in capsys.readouterr().err
    monkeypatch.setenv("CA_BUNDLE", str(bundle))
    assert finetune(command) == 1
    assert "0 tasks have accepted masks" in capsys.readouterr().err
