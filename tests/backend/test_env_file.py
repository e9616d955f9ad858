"""Files of settings: what they may say, and which of two values counts."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from backend.__main__ import main
from backend.env_file import env_file_text, read_env_file
from backend.settings import Settings, SettingsError

LINES = """
# a comment
PORT=8000
export LABEL_STUDIO_URL=http://ls:8080   # where it is
  STATE_DIR = '/srv/sam 2#'
AUTH_TOKEN="it's#1" # quoted
S3_REGION=
SAM2_DEVICE= # none
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the command line puts into the environment is gone after the test."""
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.chdir(tmp_path)


def test_lines_are_read() -> None:
    Path("file").write_text(LINES)
    assert read_env_file(Path("file")) == {
        "PORT": "8000",
        "LABEL_STUDIO_URL": "http://ls:8080",
        "STATE_DIR": "/srv/sam 2#",
        "AUTH_TOKEN": "it's#1",
        "S3_REGION": "",
        "SAM2_DEVICE": "",
    }


def test_what_is_written_is_read_again_and_by_a_shell_too() -> None:
    values = {"A": "plain", "B": "with space #1", "C": "it's", "D": "", "E": 'a "b" $HOME'}
    Path("file").write_text(env_file_text(values, "a comment"))
    assert read_env_file(Path("file")) == values
    script = 'set -a; . ./file; printf "%s\\n" "$A" "$B" "$C" "$D" "$E"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == list(values.values())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"PORT=1\n\nsecret-word", "line 3 must have the form NAME=value"),
        (b"\xff\xfe", "must be text"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    content: bytes | None, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("file").write_bytes(content)
    with pytest.raises(SettingsError, match=part) as caught:
        read_env_file(Path("file"))
    assert "secret-word" not in str(caught.value)
    assert main(["settings", "--env-file", "file"]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "port"),
    [([], "8000"), (["--env-file", "other"], "7000")],
    ids=["the environment before .env", "a file that is named before the environment"],
)
def test_which_value_counts(
    arguments: list[str], port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["PORT"] = "8000"
    os.environ["THREADS"] = ""
    Path(".env").write_text("PORT=9000\nTHREADS=7\n")
    Path("other").write_text("PORT=7000\n")
    assert main([*arguments, "settings"]) == 0
    said = capsys.readouterr().out
    assert f"PORT={port} " in said
    assert ("THREADS=7 " in said) == (not arguments)  # one file is read, not both


def test_the_example_names_every_setting_and_changes_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["settings", "--example"]) == 0
    text = capsys.readouterr().out
    Path("file").write_text(text)
    assert read_env_file(Path("file")) == {}
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and "=" in line and line[1] != " " else line
        for line in text.splitlines()
    )
    Path("file").write_text(uncommented)
    read = read_env_file(Path("file"))
    assert list(read) == [row.variable for row in Settings().rows()]
    folders = {name: getattr(Settings(), name).expanduser() for name in ("cache_dir", "state_dir")}
    assert Settings.from_env(read) == replace(Settings(), **folders)
