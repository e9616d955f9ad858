"""``connect``: the requests that it makes of Label Studio; a real one is in ``tests/e2e``."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backend.labelstudio.label_config import parse_label_config
from backend.runs.connect import examples
from benchmarks.support.recording_server import Reply, Seen
from tests.command_line import LabelStudio, Run

URL = "http://backend:9090"


class Projects:
    """What Label Studio has, and what it was asked to make or change."""

    def __init__(self, server: Any) -> None:
        self.projects: list[dict[str, Any]] = [{"id": 4, "title": "Birds", "label_config": ""}]
        self.backends: list[dict[str, Any]] = []
        self.storages: list[dict[str, Any]] = []
        self.writes: list[str] = []
        server.route("/api/", self._answer)

    def _answer(self, seen: Seen) -> Reply:
        parts = seen.path.strip("/").split("/")
        rows = {"projects": self.projects, "ml": self.backends, "storages": self.storages}[parts[1]]
        if seen.method == "GET":
            number = parts[2] if len(parts) > 2 and parts[2].isdecimal() else None
            found: Any = {"results": rows} if parts[1] == "projects" else rows
            if number is not None:
                found = next((row for row in rows if row["id"] == int(number)), None)
            return Reply(404 if found is None else 200, json.dumps(found).encode())
        self.writes.append(f"{seen.method} {seen.path}")
        body = json.loads(seen.body)
        if seen.method == "PATCH":
            rows[0].update(body)
        else:
            rows.append({**body, "id": 10 + len(rows)})
        return Reply(201, json.dumps(rows[-1]).encode())


@pytest.fixture
def projects(label_studio: LabelStudio, monkeypatch: pytest.MonkeyPatch) -> Projects:
    monkeypatch.setenv("BASIC_AUTH_USER", "ada")
    monkeypatch.setenv("BASIC_AUTH_PASS", "lovelace-1815")
    return Projects(label_studio.server)


def test_a_project_is_made_once_from_an_example(run: Run, projects: Projects) -> None:
    for _ in range(2):
        ran = run("connect", URL, "--title", "SAM 2", "--example", "image_polygon")
        assert ran.code == 0, ran.err
        assert "lovelace" not in ran.out + ran.err
    assert projects.writes == ["POST /api/projects/", "POST /api/ml/", "PATCH /api/ml/10"]
    [_, made] = projects.projects
    assert "PolygonLabels" in made["label_config"]
    [backend] = projects.backends
    assert (backend["project"], backend["url"]) == (made["id"], URL)
    assert backend["is_interactive"] is True
    assert (backend["basic_auth_user"], backend["basic_auth_pass"]) == ("ada", "lovelace-1815")


def test_a_project_that_is_there_stays_as_it_is(run: Run, projects: Projects) -> None:
    assert run("connect", URL, "--project", 4).code == 0
    assert projects.writes == ["POST /api/ml/"]
    assert projects.backends[0]["project"] == 4
    ran = run("connect", URL, "--project", 5)
    assert ran.code == 1
    assert "404" in ran.err


def test_a_bucket_is_made_and_handed_out_by_label_studio(
    run: Run, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("S3_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("S3_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        for _ in range(2):
            ran = run("connect", URL, "--project", 4, "--bucket", "s3://media/photos/")
            assert ran.code == 0, ran.err
        store = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        # The buckets of all such servers in a process are the same ones.
        assert "media" in [each["Name"] for each in store.list_buckets()["Buckets"]]
    finally:
        server.stop()
    [storage] = projects.storages
    assert (storage["bucket"], storage["prefix"], storage["presign"]) == ("media", "photos", False)
    assert storage["s3_endpoint"] == f"http://{host}:{port}"


@pytest.mark.parametrize(
    ("bucket", "part"),
    [("media", "does not have the form"), ("s3://media", "cannot be made or looked for")],
)
def test_a_bucket_that_cannot_be_had_is_one_line(
    run: Run, projects: Projects, monkeypatch: pytest.MonkeyPatch, bucket: str, part: str
) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    ran = run("connect", URL, "--project", 4, "--bucket", bucket)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert part in ran.err


def test_every_example_is_a_label_config_that_can_be_used() -> None:
    assert {"image_brush", "frame_sequence", "video_boxes"} <= set(examples())
    for path in examples().values():
        assert parse_label_config(path.read_text(encoding="utf-8")).usable, path
