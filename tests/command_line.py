"""The command line as a user runs it, and a small Label Studio that answers it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from backend.__main__ import main
from backend.engine.building import ModelChoice
from backend.engine.local import LocalEngine
from backend.pixels.pixel_resolver import PixelResolver
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, recording_server
from tests.backend.fakes import FakePredictor, FakeVideoTracker, Gate


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run("frames", ...)``: the command with an environment of this test only."""
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def call(*arguments: object) -> Ran:
        try:
            code = main([str(each) for each in arguments])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return call


@dataclass
class LabelStudio:
    """Projects and tasks behind the few API calls that the commands make; as 1.23.2 answers."""

    server: RecordingServer
    projects: dict[int, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    views: dict[int, list[int]] = field(default_factory=dict)
    pages_asked: int = 0
    refuses_predictions: bool = False
    is_down: bool = False
    loses_answers: bool = False  # to predictions, which it stores
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def __post_init__(self) -> None:
        self.server.route("/api/", self._answer)

    def add_project(self, number: int, label_config: str) -> None:
        self.projects[number] = {
            "id": number,
            "label_config": label_config,
            "created_at": "2026-11-22T05:44:50.372135Z",
        }

    def add_task(self, number: int, project: int, data: dict[str, Any], **more: Any) -> None:
        lists: dict[str, Any] = {"annotations": [], "predictions": [], "drafts": []}
        self.tasks[number] = {"id": number, "project": project, "data": data, **lists, **more}

    def serve(self, path: str, file: Path) -> str:
        """A media file of its own; returns the address for a task's data."""
        self.server.serve(path, file.read_bytes())
        return path

    def _answer(self, seen: Seen) -> Reply:
        if self.is_down:
            return Reply(503)
        if seen.headers.get("authorization") != "Token key":
            return Reply(401)
        parts = [part for part in seen.path.split("/") if part]
        query = {key: values[-1] for key, values in parse_qs(urlsplit(seen.target).query).items()}
        match parts, seen.method:
            case ["api", "current-user", "whoami"], "GET":
                return _reply({"id": 1})
            case ["api", "predictions"], "POST":
                return self._store(json.loads(seen.body))
            case ["api", "predictions"], "GET":
                return _reply(self.tasks[int(query["task"])]["predictions"])
            case ["api", "predictions", number], "DELETE":
                return self._delete(int(number))
            case ["api", "projects", number], "GET":
                return _reply(self.projects.get(int(number)))
            case ["api", "tasks", number], "GET":
                return _reply(self.tasks.get(int(number)))
            case ["api", "tasks"], "GET":
                return self._list(query)
        return Reply(404)

    def _list(self, query: dict[str, str]) -> Reply:
        self.pages_asked += 1
        number, size = int(query["page"]), min(int(query["page_size"]), 3)
        every = [t for t in self.tasks.values() if t["project"] == int(query["project"])]
        if "view" in query:
            every = [self.tasks[number] for number in self.views[int(query["view"])]]
        if query.get("fields") != "all":
            counted = {"total_annotations": lambda task: len(task["annotations"])}
            every = [
                {"id": t["id"], **{name: count(t) for name, count in counted.items()}}
                for t in every
            ]
        page = every[(number - 1) * size : number * size]
        return _reply({"tasks": page, "total": len(every)} if page or number == 1 else None)

    def _store(self, body: dict[str, Any]) -> Reply:
        if self.refuses_predictions:
            return Reply(500)
        body = {**body, "id": next(self._numbers)}
        self.tasks[body["task"]]["predictions"].append(body)
        if self.loses_answers:
            return Reply(504)
        return _reply(body, 201)

    def _delete(self, number: int) -> Reply:
        for task in self.tasks.values():
            kept = [each for each in task["predictions"] if each["id"] != number]
            if len(kept) < len(task["predictions"]):
                task["predictions"] = kept
                return Reply(204)
        return Reply(404)


def _reply(body: Any, status: int = 200) -> Reply:
    if body is None:
        return Reply(404, b'{"detail": "not found"}', {"Content-Type": "application/json"})
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def label_studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStudio]:
    """A Label Studio that the settings of the commands point to."""
    with recording_server() as server:
        monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
        yield LabelStudio(server)


@dataclass
class FakeModel:
    """What the fake model did.

    Attributes:
        steps: frames tracked.
        hold: while cleared, tracking waits.
    """

    steps: list[int] = field(default_factory=list)
    hold: Gate = field(default_factory=Gate)


def use_fake_model(
    monkeypatch: pytest.MonkeyPatch, tracker: type[FakeVideoTracker] = FakeVideoTracker
) -> FakeModel:
    """Let services that are built from settings have a fake model."""
    model = FakeModel()

    def engine(choice: ModelChoice, pixels: PixelResolver, **options: Any) -> LocalEngine:
        return LocalEngine(
            choice,
            pixels,
            build=lambda chosen: FakePredictor(),  # type: ignore[arg-type, return-value]
            build_tracker=lambda predictor, frames: tracker(frames, model.steps, model.hold),  # type: ignore[arg-type, return-value]
            **options,
        )

    monkeypatch.setattr("backend.wiring.LocalEngine", engine)
    return model
