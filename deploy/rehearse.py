"""Carries out what the Dockerfile says on a machine without Docker, as far as that goes.

``python deploy/rehearse.py`` makes a folder with exactly the files that the image gets, runs the
Dockerfile's own install step in a fresh virtual environment there, starts its own entry point,
waits until ``/ready`` answers and clicks on a picture. ``--venv FOLDER`` takes an environment that
is there instead of installing; ``--build-arg NAME=VALUE`` is as in ``docker build``.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
READY_SECONDS = 180.0
SIDE = 256  # of the picture that is clicked on
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>
</View>"""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile; ``stage`` counts the FROM lines from 0."""

    stage: int
    name: str
    text: str


def instructions(dockerfile: str) -> list[Instruction]:
    """What a Dockerfile says, with its lines joined and its comments left out."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    found: list[Instruction] = []
    stage = -1
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, text = line.partition(" ")
        stage += name.upper() == "FROM"
        found.append(Instruction(stage, name.upper(), text.strip()))
    return found


def defaults(steps: list[Instruction]) -> dict[str, str]:
    """The build arguments with their default values."""
    pairs = (step.text.partition("=") for step in steps if step.name == "ARG")
    return {name: value.strip('"') for name, _, value in pairs if value}


def environment(steps: list[Instruction], arguments: dict[str, str]) -> dict[str, str]:
    """What the ENV lines of the last stage set."""
    last = steps[-1].stage
    text = " ".join(step.text for step in steps if step.name == "ENV" and step.stage == last)
    pairs = re.findall(r"([A-Z0-9_]+)=(\S*)", text)
    return {name: _expanded(value, arguments) for name, value in pairs}


def copy_sources(steps: list[Instruction], app: Path) -> None:
    """Lay out what the first stage copies from the checkout."""
    for step in steps:
        if step.name != "COPY" or step.stage != 0:
            continue
        *sources, target = step.text.split()
        for source in sources:
            place = app / target
            if target.endswith("/"):
                place = place / Path(source).name
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, ignore=ignore, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, place)


def install_step(steps: list[Instruction]) -> str:
    """The shell command that installs the requirements."""
    [step] = [step.text for step in steps if step.name == "RUN" and "pip install" in step.text]
    return step


def entry_point(steps: list[Instruction]) -> list[str]:
    """What the container runs: ENTRYPOINT and CMD."""
    last = {step.name: step.text for step in steps if step.stage == steps[-1].stage}
    return [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]


def health_check(steps: list[Instruction]) -> list[str]:
    """The command of HEALTHCHECK."""
    [text] = [step.text for step in steps if step.name == "HEALTHCHECK"]
    command: list[str] = json.loads(text[text.index("CMD") + 3 :])
    return command


def rehearse(folder: Path, venv: Path | None, arguments: dict[str, str], port: int) -> str:
    """Install and run in ``folder``; returns what ``/ready`` said.

    Raises:
        SystemExit: a step failed; the text says which.
    """
    steps = instructions(DOCKERFILE.read_text(encoding="utf-8"))
    app, data = folder / "app", folder / "data"
    copy_sources(steps, app)
    data.mkdir(exist_ok=True)
    arguments = {**defaults(steps), **arguments}
    if venv is None:
        venv = folder / "venv"
        command = install_step(steps).replace("/opt/venv", str(venv))
        done = subprocess.run(
            ["sh", "-c", command], cwd=app, env={**os.environ, **arguments}, check=False
        )
        if done.returncode:
            raise SystemExit(f"the install step failed with {done.returncode}: {command}")
    variables = environment(steps, arguments)
    variables = {name: value.replace("/data", str(data)) for name, value in variables.items()}
    variables["PATH"] = f"{venv / 'bin'}:{os.environ['PATH']}"
    variables |= {"PORT": str(port), "HOST": "127.0.0.1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            entry_point(steps), cwd=app, env=variables, stdout=log, stderr=log
        )
    try:
        answer = wait_ready(process, port, folder / "log")
        checked = subprocess.run(health_check(steps), cwd=app, env=variables, check=False)
        if checked.returncode:
            raise SystemExit("the health check failed on a service that is ready")
        return answer + click(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
                return reply.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise SystemExit(f"the entry point was not ready:\n{log.read_text(errors='replace')[-3000:]}")


def click(port: int) -> str:
    """Click on a picture that comes along, and return what the editor would show: the picture is
    fetched, written to /data, decoded and encoded."""
    item = {
        "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["Cat"]},
        "original_width": SIDE,
        "original_height": SIDE,
        "is_positive": True,
        "id": "1",
        "from_name": "click",
        "to_name": "image",
        "type": "keypointlabels",
    }
    body = {
        "tasks": [{"id": 1, "data": {"image": _picture()}}],
        "project": "1.1",
        "label_config": CONFIG,
        "params": {"context": {"result": [item]}},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        results = json.load(reply)["results"][0]["result"]
    if not any(each["type"] == "brushlabels" for each in results):
        raise SystemExit(f"a click gave no mask: {results}")
    return f"a click gave {len(results)} regions"


def _picture() -> str:
    """A light square on a dark ground, as a data: URI of a PNG."""
    inside = range(SIDE // 4, 3 * SIDE // 4)
    rows = (
        bytes([0, *(230 if x in inside and y in inside else 20 for x in range(SIDE))])
        for y in range(SIDE)
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(rows))),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _expanded(value: str, arguments: dict[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        given = arguments.get(match["name"], "")
        if match["sign"] == "-":
            return given or match["word"]
        return match["word"] if given else ""

    return re.sub(r"\$\{(?P<name>\w+):(?P<sign>[-+])(?P<word>[^}]*)\}", one, value)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--port", type=int, default=19_090)
    given = parser.parse_args()
    pairs = (each.partition("=") for each in given.build_arg)
    arguments = {name: value for name, _, value in pairs}
    with tempfile.TemporaryDirectory() as folder:
        print(rehearse(Path(folder), given.venv, arguments, given.port), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
