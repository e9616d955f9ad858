"""Fine-tuning over HTTP: who may start it, its progress, which version answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.engine.building import ModelChoice
from backend.engine.engine import State, Status
from backend.finetune.finetune_jobs import FinetuneJobs
from backend.finetune.finetuning import Finetuning
from backend.finetune.registry import ModelRegistry
from backend.settings import FinetuneProjects
from backend.web.app import create_app
from backend.wiring import Wiring
from tests.finetune.test_jobs import SCRIPT, until

CAPTURE = Path(__file__).parents[1] / "captures" / "01_lifecycle.json"


class FakeEngine:
    def __init__(self) -> None:
        self.model_version = "demo"
        self.state = State.READY
        self.broken: set[str] = set()
        self.tried: list[str] = []

    def status(self) -> Status:
        return Status(self.state, "")

    def replace(self, choice: ModelChoice) -> None:
        self.tried.append(choice.version)
        if choice.version in self.broken:
            raise ValueError("damaged")
        self.model_version = choice.version


class Bench:
    def __init__(self, folder: Path, client: Callable[[Finetuning], FlaskClient], **more: Any):
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT)
        self.engine = FakeEngine()
        self.checked: list[int] = []
        self.registry = ModelRegistry(folder / "models", ModelChoice("demo"))
        self.finetuning = Finetuning(
            FinetuneJobs(
                folder / "finetune",
                check=self.checked.append,
                command=lambda n: [sys.executable, str(folder / "script.py"), str(self.at(n))],
            ),
            self.registry,
            self.engine,
            more.get("allowed", FinetuneProjects(numbers=frozenset({25}))),
            pinned=more.get("pinned", False),
        )
        self.client = client(self.finetuning)

    def at(self, project: int) -> Path:
        return self.folder / "finetune" / f"project-{project}"

    def press(self, project: Any) -> Any:
        body = {"action": "START_TRAINING", "project": project}
        reply = self.client.post("/webhook", json=body)
        assert reply.status_code == 201
        return reply.json

    def job(self, project: int) -> Any:
        return self.client.get(f"/train/{project}").json

    def publish(self) -> str:
        return self.registry.publish(25, lambda path: path.write_bytes(b"w"), {}).version


@pytest.fixture
def start(tmp_path: Path, make_bench: Any) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []
    backend = make_bench()

    def client(finetuning: Finetuning) -> FlaskClient:
        wiring = Wiring(backend.settings)
        return create_app(wiring, backend.service, finetuning, backend.runs).test_client()

    def make(**more: Any) -> Bench:
        folder = tmp_path / f"bench{len(benches)}"
        folder.mkdir()
        benches.append(Bench(folder, client, **more))
        return benches[-1]

    yield make
    for bench in benches:
        bench.finetuning.close()


def recorded() -> Any:
    """What Label Studio 1.23.2 sent when "Start Training" was pressed."""
    [call] = json.loads(CAPTURE.read_text())["train"]["backend_calls"]
    return call["body"]


def test_label_studios_own_request_starts_a_job(start: Callable[..., Bench]) -> None:
    bench = start()
    assert bench.client.post("/webhook", json=recorded()).status_code == 201
    until(lambda: bench.job(25)["state"] == "running" and bench.job(25)["curve"])
    assert bench.checked == [25]
    job = bench.job(25)
    assert (job["project"], job["stage"], job["step"], job["steps"]) == (25, "training", 25, 50)
    assert [row["score"] for row in job["curve"]] == [0.2, 0.3]
    (bench.at(25) / "finish").write_text("well")
    until(lambda: bench.job(25)["state"] == "done")
    assert bench.job(25)["message"].startswith("better")
    assert bench.job(25)["version"] == "demo-ft1-p5"
    assert [each["project"] for each in bench.client.get("/train").json["jobs"]] == [25]


def test_it_is_off_unless_the_operator_names_the_project(start: Callable[..., Bench]) -> None:
    bench = start(allowed=FinetuneProjects())
    assert "off" in bench.press({"id": 25})["detail"]
    assert "off" in start().press({"id": 26})["detail"]
    assert bench.client.get("/train").json == {"jobs": []}
    assert bench.client.get("/train/25").status_code == 404
    assert bench.checked == []


@pytest.mark.parametrize(
    "project", [None, "25", "../25", {"id": "25"}, {"id": -1}, {"id": True}, {}, [25], 1e99]
)
def test_nothing_but_a_number_names_a_project(start: Callable[..., Bench], project: Any) -> None:
    bench = start(allowed=FinetuneProjects(every=True))
    bench.press(project)
    assert bench.client.get("/train").json == {"jobs": []}


def test_other_webhooks_start_nothing(start: Callable[..., Bench]) -> None:
    bench = start(allowed=FinetuneProjects(every=True))
    body = {"action": "ANNOTATION_CREATED", "project": {"id": 25}}
    assert bench.client.post("/webhook", json=body).status_code == 201
    assert bench.client.get("/train").json == {"jobs": []}


def test_a_job_can_be_cancelled(start: Callable[..., Bench]) -> None:
    bench = start()
    bench.press({"id": 25})
    until(lambda: bench.job(25)["state"] == "running")
    assert bench.client.post("/train/25/cancel").status_code == 200
    until(lambda: bench.job(25)["state"] == "cancelled")
    assert bench.client.post("/train/26/cancel").status_code == 404


def test_a_new_version_is_picked_up(start: Callable[..., Bench]) -> None:
    bench = start()
    bench.finetuning.follow()
    assert bench.engine.tried == []
    version = bench.publish()
    bench.finetuning.follow()
    assert bench.engine.model_version == version
    assert bench.client.get("/versions").json["versions"] == [version, "demo"]
    bench.finetuning.follow()
    assert bench.engine.tried == [version]


def test_a_pinned_version_stays(start: Callable[..., Bench]) -> None:
    bench = start(pinned=True)
    version = bench.publish()
    bench.finetuning.follow()
    assert bench.engine.model_version == "demo"
    assert bench.client.get("/versions").json["versions"] == ["demo", version]


def test_weights_that_cannot_be_loaded_are_tried_once(start: Callable[..., Bench]) -> None:
    bench = start()
    broken = bench.publish()
    bench.engine.broken.add(broken)
    bench.finetuning.follow()
    bench.finetuning.follow()
    assert bench.engine.model_version == "demo"
    assert bench.engine.tried == [broken]
    better = bench.publish()
    bench.finetuning.follow()
    assert bench.engine.model_version == better


def test_where_the_version_in_use_cannot_be_loaded_the_base_answers(
    start: Callable[..., Bench],
) -> None:
    bench = start()
    bench.engine.model_version, bench.engine.state = bench.publish(), State.FAILED
    bench.engine.broken.add("demo")
    bench.finetuning.follow()
    bench.finetuning.follow()
    assert bench.engine.tried == ["demo"]  # which cannot be loaded either
    better = bench.publish()
    bench.finetuning.follow()
    assert bench.engine.model_version == better
    again = start()
    again.engine.model_version, again.engine.state = again.publish(), State.FAILED
    again.finetuning.follow()
    assert again.engine.model_version == "demo"


@pytest.mark.parametrize("name", ["job.json", "progress.json"])
@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 200,
        b"\xff{}",
        b"[1]",
        b"null",
        b'{"state": "running", "step": "x"}',
        b'{"project": 25, "state": "done", "created": 1e300, "updated": 0, "step": 1e999}',
        b'{"stage": "training", "curve": [7]}',
        b"[" * 100_000,
    ],
)
def test_damaged_files_of_a_job_are_set_aside(
    start: Callable[..., Bench], name: str, damage: bytes
) -> None:
    bench = start()
    bench.at(25).mkdir(parents=True)
    job = {"project": 25, "state": "done", "created": 1.0, "updated": 1.0}
    (bench.at(25) / "job.json").write_text(json.dumps(job))
    (bench.at(25) / name).write_bytes(damage)
    bench.finetuning.resume()
    assert bench.client.get("/train").status_code == 200
    assert bench.client.get("/train/25").status_code == (404 if name == "job.json" else 200)
    [aside] = bench.at(25).glob(f"{name}.damaged-*")
    assert aside.read_bytes() == damage
    bench.press(25)
    until(lambda: bench.job(25)["state"] == "running")


def test_a_model_that_still_loads_is_not_replaced(start: Callable[..., Bench]) -> None:
    bench = start()
    bench.publish()
    bench.engine.state = State.LOADING
    bench.finetuning.follow()
    assert bench.engine.tried == []


def test_only_projects_that_may_go_on_after_a_restart(start: Callable[..., Bench]) -> None:
    bench = start(allowed=FinetuneProjects())
    for project in (25, 26):
        bench.at(project).mkdir(parents=True)
        job = {"project": project, "state": "running", "created": 1.0, "updated": 1.0}
        (bench.at(project) / "job.json").write_text(json.dumps(job))
    bench.finetuning._allowed = FinetuneProjects(numbers=frozenset({26}))
    bench.finetuning.resume()
    until(lambda: (bench.at(26) / "starts").exists())
    assert not (bench.at(25) / "starts").exists()


class TestSettings:
    def projects(self, value: str) -> FinetuneProjects:
        from backend.settings import Settings

        return Settings.from_env({"FINETUNE_PROJECTS": value}).finetune_projects

    def test_none_all_or_some(self) -> None:
        assert 3 not in self.projects("")
        assert 3 in self.projects("all")
        assert 3 in self.projects("2, 3") and 4 not in self.projects("2, 3")

    @pytest.mark.parametrize("value", ["true", "3;4", "-1", "3,", "three"])
    def test_anything_else_is_refused(self, value: str) -> None:
        from backend.settings import SettingsError

        with pytest.raises(SettingsError, match="FINETUNE_PROJECTS"):
            self.projects(value)
