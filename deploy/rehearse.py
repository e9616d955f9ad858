"""Carries out what the Dockerfile says on a machine without Docker, as far as that goes.

``python -m deploy.rehearse`` carries out every step of the Dockerfile in a Debian root made with
debootstrap (as root, where debootstrap is installed), starts its entry point there as the image's
user on a read-only root, waits until ``/ready`` answers and clicks on a picture. Elsewhere it makes
a folder with exactly the files that the image gets, runs the Dockerfile's own install step in a
fresh virtual environment, and goes on likewise. ``--venv FOLDER`` takes an environment that is
there instead of installing; ``--build-arg NAME=VALUE`` is as in ``docker build``.
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
from typing import Any

from deploy.debian_root import DebianRoot

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
READY_SECONDS = 180.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
    options = {"cwd": app, "env": variables}
    return _served(entry_point(steps), health_check(steps), port, folder / "log", **options)


def _served(start: list[str], check: list[str], port: int, log: Path, **options: Any) -> str:
    """Start the service and click; returns what ``/ready`` said and what the click gave."""
    with log.open("wb") as output:
        process = subprocess.Popen(start, stdout=output, stderr=output, **options)
    try:
        answer = wait_ready(process, port, log)
        if subprocess.run(check, check=False, **options).returncode:
            raise SystemExit("the health check failed on a service that is ready")
        return answer + click(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def rehearse_in_root(folder: Path, arguments: dict[str, str], port: int) -> str:
    """Carry out all steps in two Debian roots, one a stage; run and click as ``rehearse`` does.

    Returns:
        What ``/ready`` said and the click gave, the size of the last root, and the seconds taken.

    Raises:
        SystemExit: a step failed; the text says which.
    """
    begun = time.monotonic()
    steps = instructions(DOCKERFILE.read_text(encoding="utf-8"))
    arguments = {**defaults(steps), **arguments}
    build = DebianRoot(folder / "build")
    build.make()
    roots = [build, build.copy_to(folder / "image")]
    made = time.monotonic()
    for step in steps:
        _carry_out(step, roots, arguments)
    built = time.monotonic()
    image = roots[-1]
    size = int(subprocess.check_output(["du", "-sm", str(image.path)]).split()[0])
    user = next(step.text for step in steps if step.name == "USER")
    variables = {**environment(steps, arguments), "PORT": str(port), "HOST": "127.0.0.1"}
    options: dict[str, Any] = {"directory": "/app", "environment": variables, "user": user}
    options |= {"read_only": True, "mounted": {image.path / "data": "/data"}}
    answer = _served(
        image.command(entry_point(steps), **options),
        image.command(health_check(steps), **options),
        port,
        folder / "log",
    )
    return (
        f"{answer}\nin a Debian root of {size} MB ({made - begun:.0f} s to make it, "
        f"{built - made:.0f} s for the steps, {time.monotonic() - built:.0f} s to a click)"
    )


def _carry_out(step: Instruction, roots: list[DebianRoot], arguments: dict[str, str]) -> None:
    """Have a step change files, if it is one that does."""
    if step.name not in ("COPY", "RUN"):
        return
    root = roots[step.stage]
    if step.name == "COPY" and "--from=build" in step.text:
        _, source, target = step.text.split()
        root.copy(roots[0].path / source.lstrip("/"), root.path / target.lstrip("/"))
    elif step.name == "COPY":
        copy_sources([step], root.path / "app")
    else:
        (root.path / "app").mkdir(exist_ok=True)
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        links = [Path(each) for each in pip.get("PIP_FIND_LINKS", "").split() if "://" not in each]
        command = root.command(
            ["sh", "-c", step.text],
            directory="/app" if step.stage == 0 else "/",
            environment={"PATH": PATH, "HOME": "/root", **pip, **arguments},
            mounted={path: str(path) for path in links if path.is_dir()},
        )
        if code := subprocess.run(command, check=False).returncode:
            raise SystemExit(f"a step failed with {code}: {step.text}")


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
        if given.venv is None and DebianRoot.possible():
            said = rehearse_in_root(Path(folder), arguments, given.port)
        else:
            said = rehearse(Path(folder), given.venv, arguments, given.port)
        print(said, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
