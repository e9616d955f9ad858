"""The Dockerfile: its rules, its files, and its entry point run outside of a container."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from backend.settings import Settings
from demo.processes import free_port
from deploy import rehearse
from deploy.debian_root import DebianRoot

ROOT = Path(__file__).parents[2]
STEPS = rehearse.instructions(rehearse.DOCKERFILE.read_text(encoding="utf-8"))
LAST = [step for step in STEPS if step.stage == STEPS[-1].stage]


@pytest.mark.parametrize(
    "file", [rehearse.DOCKERFILE, ROOT / "examples/detector/Dockerfile"], ids=["own", "detector"]
)
def test_hadolint_finds_nothing(file):
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "requirements-test.txt brings hadolint"
    done = subprocess.run(
        [linter, str(file)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_that_builds_for_a_gpu_takes_one_base_image():
    """Its CUDA says which drivers it starts on, so it must be that of torch's build, see
    docs/operating.md."""
    files = ("docker/Dockerfile", "docker/docker-compose.yml", ".github/workflows/release.yml")
    bases = {
        base
        for name in (*files, "docs/operating.md")
        for base in re.findall(r"nvidia/cuda:[\w.-]+", (ROOT / name).read_text(encoding="utf-8"))
    }
    assert len(bases) == 1, bases


def test_it_runs_as_nobody_in_particular_and_writes_to_data_only():
    [user] = [step.text for step in LAST if step.name == "USER"]
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) > 0
    assert [step.text for step in LAST if step.name == "VOLUME"] == ["/data"]
    variables = rehearse.environment(STEPS, {})
    for name in ("HOME", "HF_HOME", "CACHE_DIR", "STATE_DIR"):
        assert variables[name].startswith("/data")
    assert variables["PYTHONDONTWRITEBYTECODE"] == "1"


def test_it_is_reached_from_outside_and_so_wants_credentials():
    settings = Settings.from_env({"HOST": rehearse.environment(STEPS, {})["HOST"]})
    assert settings.is_open and not settings.is_local


def test_the_last_stage_installs_no_compiler_and_no_python_packages():
    commands = " ".join(step.text for step in LAST if step.name == "RUN")
    for word in ("pip", "gcc", "build-essential", "-dev", "curl", "git"):
        assert word not in commands.replace("--no-install-recommends", "")


def test_weights_are_fetched_at_build_or_not_by_argument():
    without = rehearse.environment(STEPS, rehearse.defaults(STEPS))
    assert (without["SAM2_VARIANT"], without["SAM2_CHECKPOINT"]) == ("demo", "")
    with_weights = rehearse.environment(STEPS, {"WEIGHTS_VARIANT": "sam2.1_hiera_tiny"})
    assert with_weights["SAM2_VARIANT"] == "sam2.1_hiera_tiny"
    assert with_weights["SAM2_CHECKPOINT"] == "/opt/weights/published.pt"


@pytest.mark.slow
def test_the_build_step_that_fetches_them_works(tmp_path):
    """With the demo weights, which need no network."""
    [step] = [s.text for s in STEPS if s.name == "RUN" and "find_checkpoint" in s.text]
    command = step.replace("/opt/venv/bin/python", sys.executable)
    command = command.replace("/opt/weights", str(tmp_path)).replace("/build/hub", str(tmp_path))
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={"WEIGHTS_VARIANT": "demo", "PATH": "/usr/bin:/bin"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0
    weights = ROOT / "sam2model" / "weights" / "demo.safetensors"
    assert (tmp_path / "published.pt").read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(("index", "given"), [("https://example.org/cpu", True), ("", False)])
def test_the_index_of_torch_is_given_to_pip_unless_it_is_pips_own(index, given):
    command = rehearse.install_step(STEPS).replace("/opt/venv/bin/pip", "echo")
    done = subprocess.run(
        ["sh", "-c", command.replace("python -m venv /opt/venv", "true")],
        env={"TORCH_INDEX": index, "REQUIREMENTS": "requirements.txt"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert ("--extra-index-url" in done.stdout) == given
    assert index in done.stdout
    constraints = "-c docker/constraints.txt -c docker/constraints-cluster.txt"
    assert done.stdout.rstrip().endswith(f"{constraints} -r requirements.txt")


def test_what_is_copied_is_let_through_by_the_ignore_file():
    allowed = {
        line[1:]
        for line in (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for step in STEPS
        if step.name == "COPY" and "--from" not in step.text
        for source in step.text.split()[:-1]
    }
    assert copied == allowed


@pytest.mark.slow
def test_the_entry_point_serves_from_the_files_of_the_image_alone(tmp_path):
    answer = rehearse.rehearse(
        tmp_path, Path(sys.prefix), {}, free_port(random.randrange(20_000, 32_000))
    )
    assert '"ready"' in answer
    assert "a click gave 1 regions" in answer
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"app", "data", "log"}
    # The root file system may be read-only; Python itself does without bytecode then.
    for path in (tmp_path / "app").rglob("*"):
        place = ROOT / path.relative_to(tmp_path / "app")
        assert place.exists() or "__pycache__" in path.parts, f"{path} was written"


class RecordedRoot(DebianRoot):
    """Made of nothing; its commands are written down instead of run."""

    said: ClassVar[list[str]] = []

    def make(self):
        (self.path / "data").mkdir(parents=True)

    @staticmethod
    def copy(source, target):
        RecordedRoot.said.append(f"copy {source} {target}")

    def copy_to(self, path):
        (path / "data").mkdir(parents=True)
        return RecordedRoot(path)

    def command(self, arguments, *, user="0:0", read_only=False, **options):
        self.said.append(f"{self.path.name} {user} {read_only} {arguments[-1]}")
        return ["true"]


def test_every_step_is_carried_out_in_the_root_of_its_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse, "DebianRoot", RecordedRoot)
    monkeypatch.setattr(rehearse, "_served", lambda start, check, port, log: "served")
    monkeypatch.setattr(RecordedRoot, "said", [])
    assert rehearse.rehearse_in_root(tmp_path, {}, 1).startswith("served")
    said = "\n".join(RecordedRoot.said)
    for step in STEPS:
        if step.name == "RUN":
            assert f"{('build', 'image')[step.stage]} 0:0 False {step.text}" in said
    assert f"copy {tmp_path}/build/opt {tmp_path}/image/opt" in said
    assert "image 10001:10001 True serve" in said
    assert (tmp_path / "build/app/backend/__main__.py").is_file()
    for name in ("constraints.txt", "constraints-cluster.txt"):
        assert (tmp_path / "build/app/docker" / name).is_file()


def test_a_step_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse, "install_step", lambda steps: "exit 3")
    with pytest.raises(SystemExit, match="failed with 3"):
        rehearse.rehearse(tmp_path, None, {}, 1)
