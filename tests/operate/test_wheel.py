"""The wheel, installed where no checkout is: it serves a click, and everything is in it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from backend import __version__
from demo.processes import Child, free_port
from deploy.rehearse import click
from tests.waiting import LONGER

ROOT = Path(__file__).parents[2]
SOURCES = ("backend", "sam2model", "training", "examples")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def done(*command: object) -> str:
    """What a command prints; it may not fail."""
    said = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        timeout=LONGER,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because a build leaves its folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, folder / "source")
    build = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    done(*build, "--no-index", "--wheel-dir", folder, folder / "source")
    [found] = folder.glob("*.whl")
    return found


def test_everything_that_is_read_at_run_time_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {
        str(path.relative_to(ROOT))
        for name in ("backend", "sam2model", "training")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    examples = {f"backend/examples/{path.name}" for path in (ROOT / "examples").glob("*.xml")}
    assert packages | examples <= names
    assert {name.split("/")[0] for name in names} == {
        *("backend", "sam2model", "training"),
        f"label_studio_sam2-{__version__}.dist-info",
    }


def test_it_serves_a_click_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of the tests, so that nothing is downloaded."""
    venv = tmp_path / "venv"
    done(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (installed / "tests.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", python)
    done(*pip, "install", "--no-deps", "--no-index", wheel)

    program = venv / "bin" / "label-studio-sam2"
    assert done(program, "--version") == f"label-studio-sam2 {__version__}\n"
    port = free_port(random.randrange(20_000, 32_000))
    (tmp_path / ".env").write_text(
        f"HOST=127.0.0.1\nPORT={port}\nCACHE_DIR={tmp_path}/cache\nSTATE_DIR={tmp_path}/state\n"
    )
    service = Child(
        "The wheel's service",
        [str(program), "serve"],
        environment={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        log=tmp_path / "log",
        directory=tmp_path,
    )
    try:
        service.wait_for(f"http://127.0.0.1:{port}/ready", seconds=LONGER)
        assert click(port) == "a click gave 1 regions"
    finally:
        service.stop()
    assert f"label-studio-sam2 {__version__} starts" in service.log.read_text().splitlines()[0]
