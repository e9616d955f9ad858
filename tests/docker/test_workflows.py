"""The workflows for GitHub: they fit the schema, and call what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend import __version__
from deploy import rehearse
from sam2model.checkpoints import PUBLISHED

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def misfits(path: Path) -> str:
    """What GitHub's schema finds wrong; empty where nothing is."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run(
        [*command, "vendor.github-workflows", path],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_it_fits_the_schema(path: Path) -> None:
    assert misfits(path) == ""


def test_a_wrong_one_does_not(tmp_path: Path) -> None:
    text = WORKFLOWS[0].read_text(encoding="utf-8")
    (tmp_path / "wrong.yml").write_text(text.replace("runs-on:", "run-on:"))
    assert "run-on" in misfits(tmp_path / "wrong.yml")


def test_every_make_target_and_build_argument_that_is_used_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = "\n".join(str(step.get("run", "")) for path in WORKFLOWS for step in steps(path))
    used = set(re.findall(r"\bmake ([a-z-]+)", commands))
    assert used >= {"check", "test", "wheel", "image", "compat", "check-weights"}
    assert used <= targets
    [built] = [
        step["with"]
        for step in steps(ROOT / ".github" / "workflows" / "release.yml")
        if str(step.get("uses", "")).startswith("docker/build-push-action")
    ]
    given = {line.partition("=")[0] for line in built["build-args"].splitlines()}
    known = rehearse.instructions(rehearse.DOCKERFILE.read_text(encoding="utf-8"))
    assert given <= {step.text.partition("=")[0] for step in known if step.name == "ARG"}


def test_the_weights_of_every_variant_that_are_published_are_tried() -> None:
    [job] = [
        job
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        if any("check-weights" in str(step.get("run")) for step in job["steps"])
    ]
    assert set(job["strategy"]["matrix"]["variant"]) == set(PUBLISHED)


def test_the_changelog_has_the_version_that_a_tag_would_release() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)}\b", text, re.MULTILINE)
