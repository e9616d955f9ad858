"""A whole set-up on loopback: a scripted Label Studio, a backend that says it is one, media."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from PIL import Image

from backend.__main__ import main
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, recording_server
from tests.media.servers import PERSONAL_ACCESS_TOKEN, FakeLabelStudio
from tests.pixels.in_process import InProcessDecoder

SETTINGS = (
    "LABEL_STUDIO_",
    "SAM2_",
    "BASIC_AUTH_",
    "AUTH_TOKEN",
    "CACHE_",
    "STATE_",
    "MEDIA_",
    "DETECTOR_",
)
CONFIG = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="click" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>
<BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
<TextArea name="status" toName="image"/></View>"""


def picture(width: int = 64, height: int = 48) -> bytes:
    """A small PNG."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(file, "PNG")
    return file.getvalue()


def answer(body: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


@dataclass
class SetUp:
    """Everything is as it should be until a test breaks something.

    Attributes:
        backends: what Label Studio lists for project 1.
        env: the settings of the backend.
    """

    label_studio: FakeLabelStudio
    backend: RecordingServer
    env: dict[str, str]
    config: str = CONFIG
    tasks: list[dict[str, Any]] = field(default_factory=list)
    backends: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tasks = [{"id": 7, "project": 1, "data": {"image": "/data/upload/1/a.png"}}]
        self.label_studio.add("/data/upload/1/a.png", picture())
        self.backends = [
            {
                "id": 3,
                "url": self.backend.url,
                "is_interactive": True,
                "state": "CO",
                "error_message": None,
                "auth_method": "BASIC_AUTH",
            }
        ]
        self.says("demo")
        server, guarded = self.label_studio.server, self.label_studio._guarded
        server.route("/api/projects/", guarded(self._project))
        server.route("/api/tasks/", guarded(self._task))
        server.route("/api/ml/", guarded(lambda seen: answer(self.backends)))

    def says(self, version: str, **more: Any) -> None:
        """What the backend answers to /health."""
        health = {"model_class": "SAM2", "model_version": version, "model_state": "ready", **more}
        self.backend.route("/health", answer(health))

    def _project(self, seen: Seen) -> Reply:
        if seen.path != "/api/projects/1/":
            return answer({"detail": "Not found."}, 404)
        return answer({"id": 1, "label_config": self.config})

    def _task(self, seen: Seen) -> Reply:
        if seen.path == "/api/tasks/":
            query = parse_qs(seen.target.partition("?")[2])
            number, size = int(query["page"][0]), int(query["page_size"][0])
            page = self.tasks[(number - 1) * size : number * size]
            if not page and number > 1:
                return answer({"detail": "Invalid page."}, 404)
            return answer({"tasks": page, "total": len(self.tasks)})
        found = [task for task in self.tasks if seen.path == f"/api/tasks/{task['id']}/"]
        return answer(found[0]) if found else answer({"detail": "Not found."}, 404)


@dataclass(frozen=True)
class Ran:
    code: int
    lines: list[str]

    def of(self, level: str) -> list[str]:
        """The lines of a level, without it."""
        return [line[len(level) :].strip() for line in self.lines if line.startswith(level)]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[SetUp]:
    with recording_server() as server, recording_server() as backend:
        env = {
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": PERSONAL_ACCESS_TOKEN,
            "BASIC_AUTH_USER": "ada",
            "BASIC_AUTH_PASS": "lovelace-1815",
            "PORT": "9",  # where nothing runs
            "CACHE_DIR": str(tmp_path / "cache"),
            "STATE_DIR": str(tmp_path / "state"),
        }
        yield SetUp(FakeLabelStudio(server), backend, env)


@pytest.fixture
def doctor(
    setup: SetUp,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
):
    """``doctor("--project", 1)``: the command with the settings of the set-up."""
    if request.node.name != "test_a_good_set_up":
        monkeypatch.setattr("backend.wiring.ImageDecoder", InProcessDecoder)
    for name in list(os.environ):
        if name.startswith((*SETTINGS, "AWS_")):
            monkeypatch.delenv(name)
    for name, value in (("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_CONFIG_FILE", "/none")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")

    def run(*arguments: object) -> Ran:
        for name, value in setup.env.items():
            monkeypatch.setenv(name, value)
        code = main(["doctor", *(str(each) for each in arguments)])
        said = capsys.readouterr()
        for secret in (PERSONAL_ACCESS_TOKEN, "lovelace-1815", *setup.label_studio.valid):
            assert secret not in said.out + said.err
        return Ran(code, said.out.splitlines())

    return run


@pytest.fixture
def foreign() -> Iterator[RecordingServer]:
    """Another server with media."""
    with recording_server() as running:
        yield running
