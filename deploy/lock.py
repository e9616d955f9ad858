"""Writes ``docker/constraints.txt``: everything that ``requirements.txt`` and
``requirements-cluster.txt`` bring along, by version.

``make lock`` runs it in an environment that was made of nothing but these; from then
on ``make`` and the image install the versions of the file. What torch brings for CUDA is left out:
torch itself names those versions exactly.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Written by deploy/lock.py: what requirements-cluster.txt brings along, by version.\n"


def requirements() -> list[Requirement]:
    """What both files ask for."""
    lines = [
        line
        for name in ("requirements.txt", "requirements-cluster.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    wanted = (line.partition("#")[0].strip() for line in lines)
    return [Requirement(line) for line in wanted if line and not line.startswith("-r")]


def locked() -> dict[str, str]:
    """By name: the versions here of all that is needed, directly or not."""
    found: dict[str, str] = {}
    left = [(each, frozenset(each.extras)) for each in requirements()]
    while left:
        requirement, extras = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found and not extras:
            continue
        there = distribution(name)
        found[name] = Version(there.version).public
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


def text() -> str:
    """The file."""
    lines = [f"{name}=={version}\n" for name, version in sorted(locked().items())]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    target = ROOT / "docker" / "constraints.txt"
    if "--check" in sys.argv[1:]:
        sys.exit(0 if target.read_text(encoding="utf-8") == text() else 1)
    target.write_text(text(), encoding="utf-8")
