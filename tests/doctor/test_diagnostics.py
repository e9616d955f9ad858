"""``GET /diagnostics``: the same over HTTP, and only for those who may know."""

from __future__ import annotations

import threading
from dataclasses import asdict

import pytest

from backend.doctor.findings import broken, ok
from benchmarks.support.recording_server import Reply
from tests.backend.conftest import make_bench
from tests.doctor.conftest import answer
from tests.waiting import LONGER, PATIENCE

__all__ = ["make_bench"]

CLOSED = {"basic_auth_user": "ada", "basic_auth_pass": "word"}
ADA = {"auth": ("ada", "word")}


@pytest.fixture
def bench(make_bench, tmp_path):
    bench = make_bench(cache_dir=tmp_path / "c", state_dir=tmp_path / "s", **CLOSED)
    bench.engine.wait_ready(PATIENCE)
    return bench


def test_findings_as_json(bench):
    reply = bench.client.get("/diagnostics", **ADA)
    assert reply.status_code == 200
    assert reply.json["ok"] is True
    found = {finding["subject"]: finding for finding in reply.json["findings"]}
    assert found["model"]["text"] == "demo: demo is ready"
    assert found["LABEL_STUDIO_URL"]["level"] == "warning"
    assert found["LABEL_STUDIO_URL"]["fix"]
    assert found["CACHE_DIR"]["level"] == "ok"


def test_a_project_without_label_studio(bench):
    reply = bench.client.get("/diagnostics?project=4", **ADA)
    assert reply.json["ok"] is False


def test_a_scripted_label_studio(make_bench, setup, tmp_path):
    bench = make_bench(
        cache_dir=tmp_path / "c",
        state_dir=tmp_path / "s",
        label_studio_url=setup.env["LABEL_STUDIO_URL"],
        label_studio_api_key=setup.env["LABEL_STUDIO_API_KEY"],
        **CLOSED,
    )
    bench.engine.wait_ready(PATIENCE)
    reply = bench.client.get("/diagnostics?task=7", **ADA)
    assert reply.json["ok"] is True, reply.json
    setup.backends.clear()
    reply = bench.client.get("/diagnostics?project=1", **ADA)
    assert reply.json["ok"] is False
    assert setup.env["LABEL_STUDIO_API_KEY"] not in reply.text


@pytest.mark.parametrize(
    ("reply", "level", "line"),
    [
        (answer({"ok": False, "findings": [asdict(broken("STATE_DIR", "full", "make room"))]}),
         "broken", "STATE_DIR: full; make room"),
        (Reply(403, b"{}"), "warning", "asks for no credentials"),
        (Reply(401, b"{}"), "warning", "other credentials than these settings"),
        (Reply(200, b"[]"), "warning", "answered 200 instead of its findings"),
    ],
)  # fmt: skip
def test_the_command_asks_the_service_that_runs(doctor, setup, reply, level, line):
    """And judges by its own settings only where the service does not tell."""
    setup.env["HOST"] = "127.0.0.1"
    setup.env["PORT"] = setup.backend.url.rpartition(":")[2]
    setup.backend.route("/diagnostics", reply)
    ran = doctor("--project", 1)
    assert any(line in each for each in ran.of(level)), ran.lines
    told = level == "broken"
    assert ran.code == int(told)
    assert (len(ran.lines) == 3) == told  # about the service, its finding, the count
    assert ("judged by its own settings" in ran.lines[0]) == told
    [seen] = [each for each in setup.backend.seen if each.path == "/diagnostics"]
    assert seen.target.endswith("?project=1")
    assert seen.headers["authorization"].startswith("Basic ")


def test_credentials_are_asked_for(bench):
    assert bench.client.get("/diagnostics").status_code == 401
    assert bench.client.get("/diagnostics", auth=("ada", "wrong")).status_code == 401


def test_nobody_gets_it_where_everybody_could(make_bench):
    reply = make_bench().client.get("/diagnostics")
    assert reply.status_code == 403
    assert "BASIC_AUTH_USER" in reply.json["error"]
    assert "findings" not in reply.json


@pytest.mark.parametrize("query", ["project=x", "task=-1", "task=", "project=1.5"])
def test_a_number_that_is_none(bench, query):
    assert bench.client.get(f"/diagnostics?{query}", **ADA).status_code == 400


def test_one_at_a_time(bench, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        begun.set()
        assert go.wait(LONGER)
        yield ok("a", "b")

    monkeypatch.setattr("backend.doctor.doctor.examine", slow)
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(bench.client.get("/diagnostics", **ADA).status_code)
    )
    thread.start()
    assert begun.wait(PATIENCE)
    second = bench.client.application.test_client()
    assert second.get("/diagnostics", **ADA).status_code == 429
    go.set()
    thread.join(PATIENCE)
    assert codes == [200]
