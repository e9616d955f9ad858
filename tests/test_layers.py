"""Imports point down and nowhere in a circle, and files have names of their own.

Every import counts: at the top of a file, inside a function, and for type checkers only.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("backend", "sam2model", "training")

LAYERS = [
    {"backend.__main__", "backend.wsgi", "backend.label_studio_ml", "training"},
    {"backend.web"},
    {"backend.doctor", "backend.export", "backend.state"},
    {"backend.runs"},
    {"backend.wiring"},
    {"backend.finetune"},
    {"backend.predict"},
    {"backend.tracking"},
    {"backend.cluster"},
    {"backend.engine"},
    {"backend.pixels"},
    {"backend.media"},
    {"backend.labelstudio"},
    {"backend.logs"},  # every line says whose work it is, which the threads know
    {"backend.threads"},
    {
        "backend.env_file",
        "backend.settings",
        "backend.metrics",
        "backend.job_state",
        "backend.expected",
        "backend.files",
        "backend.recent_values",
        "backend.retries",
    },
    {"sam2model"},
]
"""From the top down. A file imports from its own room and from the layers below."""


@cache
def graph() -> dict[str, set[str]]:
    """By module: the modules of this project that it imports."""
    files = {_module(path): path for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    return {
        module: {name for name in _imported(path) if name in files and name != module}
        for module, path in files.items()
    }


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _room(module: str) -> str:
    """What stands in ``LAYERS``: a folder or file of the backend, or a whole package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "backend" else parts[0]


def _layer(module: str) -> int:
    found = [depth for depth, rooms in enumerate(LAYERS) if _room(module) in rooms]
    assert found, f"{module} stands in no layer"
    return found[0]


def _points_up(module: str, imported: str) -> bool:
    if _layer(imported) != _layer(module):
        return _layer(imported) < _layer(module)
    rooms = {_room(module), _room(imported)}
    # Files at the top of the backend are in one folder, rooms of one layer are not.
    return len(rooms) > 1 and any(ROOT.joinpath(*room.split(".")).is_dir() for room in rooms)


def test_no_file_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_no_import_points_up() -> None:
    up = {
        (module, imported)
        for module, names in graph().items()
        for imported in names
        if "backend" not in (module, imported) and _points_up(module, imported)
    }
    assert up == set()


def test_files_have_names_of_their_own() -> None:
    names = Counter(path.name for path in (ROOT / "backend").rglob("*.py"))
    twice = {name for name, count in names.items() if count > 1}
    assert twice <= {"__init__.py", "errors.py"}


def test_one_file_makes_clients_of_label_studio() -> None:
    def makes_one(path: Path) -> bool:
        return any(
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith("LabelStudioClient")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )

    made_in = {_module(p) for name in PACKAGES for p in (ROOT / name).rglob("*.py") if makes_one(p)}
    assert made_in == {"backend.wiring"}
