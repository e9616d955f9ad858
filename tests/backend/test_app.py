"""The HTTP contract: what Label Studio calls, what it may send, what it is told."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backend.conftest import CONFIG, click

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.json"))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["result", "value", "x", "y", "id", "type", "tasks", "from_name", "rle"]
            )
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def bodies():
    """Every /predict body that a running Label Studio sent."""
    for path in CAPTURES:
        capture = json.loads(path.read_text(encoding="utf-8"))
        calls = capture.get("backend_calls", []) if isinstance(capture, dict) else []
        for number, call in enumerate(calls):
            if isinstance(call, dict) and call.get("path") == "/predict" and call.get("body"):
                yield pytest.param(call["body"], id=f"{path.stem}-{number}")


@pytest.mark.parametrize("body", list(bodies()))
def test_every_captured_request_is_answered(bench, body):
    reply = bench.client.post("/predict", json=body)
    assert reply.status_code == 200
    assert len(reply.json["results"]) == len(body["tasks"])


def test_there_are_captures():
    assert len(list(bodies())) > 20


@pytest.mark.parametrize("context", [None, {}])
def test_no_context_stores_nothing(bench, context):
    body = {
        "tasks": [{"id": 1, "data": {}}],
        "label_config": CONFIG,
        "params": {"context": context},
    }
    assert bench.client.post("/predict", json=body).json["results"] == [[]]


@pytest.mark.parametrize("context", [{"result": []}, {"result": None}, {"event": "x"}])
def test_an_empty_context_is_answered_at_once(bench, context):
    body = {
        "tasks": [{"id": 1, "data": {}}],
        "label_config": CONFIG,
        "params": {"context": context},
    }
    assert bench.client.post("/predict", json=body).json["results"][0]["result"] == []


@pytest.mark.parametrize("body", ["[]", "{}", '{"tasks": 1}', '{"tasks": [1]}', "no json", ""])
def test_what_is_no_request_is_refused_with_a_reason(bench, body):
    reply = bench.client.post("/predict", data=body, content_type="application/json")
    assert reply.status_code == 400
    assert reply.json["error"]
    assert reply.status.startswith("400 SAM2 backend: ")


@pytest.mark.parametrize("path", ["/predict", "/setup", "/validate", "/webhook"])
def test_a_body_nested_without_end_is_refused(bench, path):
    body = '{"tasks":' + "[" * 100_000
    reply = bench.client.post(path, data=body, content_type="application/json")
    assert reply.status_code == (201 if path == "/webhook" else 400)


@pytest.mark.parametrize("name", [{"a": 1}, [1], None, 3])
def test_a_tag_name_may_be_anything(bench, name, caplog):
    item = {**click(50, 50), "to_name": name}
    body = {
        "tasks": [{"id": 1, "data": {}}],
        "label_config": CONFIG,
        "params": {"context": {"result": [item]}},
    }
    assert bench.client.post("/predict", json=body).status_code == 200
    assert "Traceback" not in caplog.text


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(context=JSON, task=st.dictionaries(st.sampled_from(["id", "data", "drafts"]), JSON))
def test_nothing_in_a_request_makes_it_fail(bench, context, task):
    body = {
        "tasks": [task],
        "project": "1.1",
        "label_config": CONFIG,
        "params": {"context": context},
    }
    reply = bench.client.post("/predict", data=json.dumps(body), content_type="application/json")
    assert reply.status_code == 200
    assert len(reply.json["results"]) == 1


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(["/predict", "/setup", "/webhook", "/validate"]), body=JSON)
def test_no_body_makes_a_500(bench, path, body):
    reply = bench.client.post(path, data=json.dumps(body), content_type="application/json")
    assert reply.status_code < 500


class TestSetup:
    def setup(self, bench, **changes):
        body = {
            "project": "5.1795326688",
            "schema": CONFIG,
            "hostname": "http://localhost:8080",
            "access_token": "legacy-token",
            "extra_params": "",
        }
        return bench.client.post("/setup", json={**body, **changes})

    def test_it_names_the_model(self, bench):
        reply = self.setup(bench)
        assert reply.status_code == 200
        assert reply.json["model_version"] == "demo"

    def test_a_config_without_a_place_for_masks_says_so_in_the_status_line(self, bench):
        reply = self.setup(bench, schema='<View><Image name="img" value="$image"/></View>')
        assert reply.status_code == 400
        assert "BrushLabels" in reply.status

    def test_a_broken_model_is_told_on_connecting(self, bench):
        bench.engine.wait_ready(5)
        bench.engine._loading = _failed(RuntimeError("no such file: /models/x.pt"))
        reply = self.setup(bench)
        assert reply.status_code == 503
        assert "/models/x.pt" in reply.status

    def test_the_token_is_not_logged(self, bench, caplog):
        caplog.set_level("DEBUG")
        self.setup(bench)
        assert "legacy-token" not in caplog.text


def _failed(error):
    from concurrent.futures import Future

    future = Future()
    future.set_exception(error)
    return future


def test_probes_answer_while_the_model_is_busy(bench):
    bench.engine.wait_ready(5)
    bench.predictor.hold.clear()
    worker = threading.Thread(target=lambda: bench.predict([click(50, 50)]))
    worker.start()
    assert bench.predictor.entered.wait(5)
    start = time.perf_counter()
    assert bench.client.get("/health").json["status"] == "UP"
    assert time.perf_counter() - start < 0.2
    assert bench.client.get("/").status_code == 200
    assert bench.client.get("/ready").json["status"] == "ready"
    bench.predictor.hold.set()
    worker.join(5)


def test_ready_says_failed_and_why(bench):
    bench.engine.wait_ready(5)
    bench.engine._loading = _failed(RuntimeError("no such file"))
    reply = bench.client.get("/ready")
    assert reply.status_code == 503
    assert reply.json == {
        "status": "failed",
        "detail": "the model could not be loaded: no such file",
    }
    assert bench.client.get("/health").status_code == 200


def test_versions(bench):
    assert bench.client.get("/versions").json == {"versions": ["demo"]}


def test_validate(bench):
    good = bench.client.post("/validate", json={"config": CONFIG}).json
    assert good["valid"] is True
    bad = bench.client.post("/validate", json={"config": "<View/>"}).json
    assert bad["valid"] is False
    assert bad["problems"]


@pytest.mark.parametrize("body", [{"action": "ANNOTATION_CREATED"}, {"action": ["x"]}, [], None])
def test_webhooks_are_taken(bench, body):
    assert bench.client.post("/webhook", json=body).status_code == 201


def test_webhook_actions_do_not_flood_the_metrics(bench):
    for number in range(50):
        bench.client.post("/webhook", json={"action": f"made up {number}"})
    assert bench.client.get("/metrics").text.count("sam2_webhooks_total{") == 1


class TestBasicAuth:
    @pytest.fixture
    def bench(self, make_bench):
        return make_bench(basic_auth_user="ls", basic_auth_pass="s3cret")

    def header(self, user, password):
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}

    @pytest.mark.parametrize("path", ["/", "/health", "/ready"])
    def test_probes_need_none(self, bench, path):
        assert bench.client.get(path).status_code in (200, 503)

    @pytest.mark.parametrize("path", ["/versions", "/metrics"])
    def test_the_rest_does(self, bench, path):
        refused = bench.client.get(path)
        assert refused.status_code == 401
        assert "Basic" in refused.headers["WWW-Authenticate"]
        assert bench.client.get(path, headers=self.header("ls", "wrong")).status_code == 401
        assert bench.client.get(path, headers=self.header("x", "s3cret")).status_code == 401
        assert bench.client.get(path, headers=self.header("ls", "s3cret")).status_code == 200

    def test_label_studios_webhooks_carry_none(self, bench):
        assert bench.client.post("/webhook", json={"action": "X"}).status_code == 201


class TestJobs:
    @pytest.fixture
    def job(self, bench):
        return bench.store.add_job("abc", "track", "digest", {"project": "1.1", "task": {"id": 7}})[
            0
        ]

    def test_they_are_listed_and_shown_without_what_they_were_asked(self, bench, job):
        listed = bench.client.get("/jobs").json["jobs"]
        assert [each["id"] for each in listed] == ["abc"]
        shown = bench.client.get("/jobs/abc").json
        assert (shown["state"], shown["task"], shown["done"]) == ("queued", 7, 0)
        assert "label_config" not in shown

    def test_they_can_be_cancelled_once_and_again(self, bench, job):
        for _ in range(2):
            assert bench.client.post("/jobs/abc/cancel").json["state"] == "cancelled"
        assert bench.client.get("/jobs?unfinished=1").json["jobs"] == []

    def test_unknown_ones_are_not_found(self, bench):
        assert bench.client.get("/jobs/nope").status_code == 404
        assert bench.client.post("/jobs/nope/cancel").status_code == 404


def test_unknown_routes_and_methods(bench):
    assert bench.client.get("/nothing").status_code == 404
    assert bench.client.get("/predict").status_code == 405
