"""The detector of ``examples/`` with a tiny model, in this process and in one of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from demo.processes import Child, free_port
from tests.detector.tiny_model import write_grounding_dino

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "detector" / "detector.py"
Start = Callable[..., tuple[Child, str]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_grounding_dino(folder)
    return folder


@pytest.fixture(scope="session")
def program(tiny: Path) -> ModuleType:
    """The program as a module, its settings read."""
    spec = importlib.util.spec_from_file_location("example_detector", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    settings = {"MODEL": str(tiny), "THRESHOLD": "0", "DEVICE": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tiny: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts it as a process, and returns that with its address; it is stopped in the end."""
    started: list[Child] = []

    def run(**settings: str) -> tuple[Child, str]:
        port = free_port(20_000 + os.getpid() % 1000)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "MODEL": str(tiny),
            "THRESHOLD": "0",
            "PORT": str(port),
            **settings,
        }
        log, command = tmp_path / f"detector-{len(started)}.log", (sys.executable, str(PROGRAM))
        child = Child("The detector", command, environment=environment, log=log, directory=ROOT)
        started.append(child)
        return child, f"http://127.0.0.1:{port}"

    yield run
    for child in started:
        child.stop()
