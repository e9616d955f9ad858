"""Writes ``docker/constraints.txt``, everything that ``requirements.txt`` brings along, by version,
and ``docker/constraints-cluster.txt``, what ``requirements-cluster.txt`` brings beside that.

``make lock`` runs it in an environment that was made of nothing but these; from then on ``make``
and the image install the versions of the files. What torch brings for CUDA is left out: torch
itself names those versions exactly.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Written by deploy/lock.py: what {} brings along, by version.\n"
DOCKER = ROOT / "docker"


def requirements(name: str) -> list[Requirement]:
    """What a file asks for by itself."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = (line.partition("#")[0].strip() for line in lines)
    return [Requirement(line) for line in wanted if line and not line.startswith("-r")]


def locked(name: str) -> dict[str, str]:
    """By name: the versions here of all that a file needs, directly or not."""
    found: dict[str, str] = {}
    left = [(each, frozenset(each.extras)) for each in requirements(name)]
    while left:
        requirement, extras = left.pop()
        package = canonicalize_name(requirement.name)
        if package in found and not extras:
            continue
        there = distribution(package)
        found[package] = Version(there.version).public
        for text in there.requires or ():
            needed = Requirement(text)
            if _applies(needed, extras):
                left.append((needed, frozenset(needed.extras)))
    return found


def _applies(needed: Requirement, extras: frozenset[str]) -> bool:
    if needed.name.startswith(("nvidia-", "cuda-")) or needed.name == "triton":
        return False
    marker = needed.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def texts() -> dict[Path, str]:
    """The files."""
    alone = locked("requirements.txt")
    cluster = locked("requirements-cluster.txt")
    beside = {package: cluster[package] for package in cluster.keys() - alone.keys()}
    return {
        DOCKER / "constraints.txt": _text("requirements.txt", alone),
        DOCKER / "constraints-cluster.txt": _text("requirements-cluster.txt", beside),
    }


def _text(name: str, versions: dict[str, str]) -> str:
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    return HEAD.format(name) + "".join(lines)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        stale = [path for path, text in texts().items() if path.read_text("utf-8") != text]
        sys.exit(int(bool(stale)))
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
