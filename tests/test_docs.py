"""The generated parts of the documentation are up to date, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def test_generated_parts_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], timeout=600, check=False
    )
    assert done.returncode == 0, "run python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize(
    ("page", "folders"),
    [("docs/architecture.md", ("backend", "tests")), ("tests/README.md", ("tests",))],
)
def test_files_that_are_named_exist(page: str, folders: tuple[str, ...]) -> None:
    named = set(re.findall(r"`([\w/]+\.py)\b", (ROOT / page).read_text(encoding="utf-8")))
    known = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    endings = {"/".join(path.parts[-n:]) for path in known for n in (1, 2, 3, 4)}
    assert named
    assert named - endings == set()
