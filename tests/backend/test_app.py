"""The HTTP contract: what Label Studio calls, what it may send, what it is told."""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend import __version__
from backend.threads.caller import caller
from backend.web.door import SMALL_BODY
from tests.backend.conftest import CONFIG, click
from tests.waiting import PATIENCE

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


def test_label_studio_shows_the_tags_of_a_reason(bench):
    reply = bench.client.post("/setup", json={"project": "1.1", "schema": "<View></View>"})
    assert reply.status.startswith("400 SAM2 backend: the config has no [Image]: add [Image name=")


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
        assert reply.json["model_version"] == f"demo@{__version__}"

    def test_a_config_without_a_place_for_masks_says_so_in_the_status_line(self, bench):
        reply = self.setup(bench, schema='<View><Image name="img" value="$image"/></View>')
        assert reply.status_code == 400
        assert "BrushLabels" in reply.status

    def test_a_config_in_which_nothing_can_be_told_says_so(self, bench, caplog):
        reply = self.setup(bench, schema=CONFIG.replace("TextArea", "Rating"))
        assert reply.status_code == 200
        *_, problem = reply.json["problems"]
        assert "no <TextArea> for <Image name=image>" in problem
        assert problem in caplog.text

    @pytest.mark.parametrize("schema", [None, " ", {}, 5])
    def test_a_body_without_a_label_config_says_so(self, bench, schema):
        reply = self.setup(bench, schema=schema)
        assert reply.status_code == 400
        assert "no label config" in reply.status
        assert "no label config" in bench.client.post("/setup", json=[]).status

    @pytest.mark.parametrize("extra", [None, "  ", "{a: 1}", [1], {"a": 1}, "[" * 100_000])
    def test_extra_params_may_be_anything(self, bench, extra):
        assert self.setup(bench, extra_params=extra).status_code == 200

    def test_a_broken_model_is_told_on_connecting(self, bench):
        bench.engine.wait_ready(PATIENCE)
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
    bench.engine.wait_ready(PATIENCE)
    bench.predictor.hold.clear()
    worker = threading.Thread(target=lambda: bench.predict([click(50, 50)]))
    worker.start()
    assert bench.predictor.entered.wait(PATIENCE)
    assert bench.client.get("/health").json["status"] == "UP"
    assert bench.client.get("/").status_code == 200
    assert bench.client.get("/ready").json["status"] == "ready"
    assert worker.is_alive()  # they did not wait for the model
    bench.predictor.hold.set()
    worker.join(PATIENCE)


def test_ready_says_failed_and_why(bench):
    bench.engine.wait_ready(PATIENCE)
    bench.engine._loading = _failed(RuntimeError("no such file"))
    reply = bench.client.get("/ready")
    assert reply.status_code == 503
    assert reply.json == {
        "status": "failed",
        "detail": "the model could not be loaded: no such file",
    }
    assert bench.client.get("/health").status_code == 200


def test_health_names_what_was_set_aside(make_bench, tmp_path):
    state = tmp_path / "damaged state"
    for name in ("tracks.sqlite3.damaged-1", "tracks.sqlite3.damaged-1-wal", "tracks.sqlite3",
                 "finetune/project-7/job.json.damaged-2"):  # fmt: skip
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    shown = make_bench(state_dir=state).client.get("/health").json["set_aside"]
    assert shown == ["tracks.sqlite3.damaged-1", "finetune/project-7/job.json.damaged-2"]


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

    def test_webhooks_need_them_too(self, bench):
        body = {"action": "ANNOTATION_CREATED"}
        assert bench.client.post("/webhook", json=body).status_code == 401
        assert "sam2_webhooks_total{" not in bench.metrics.exposition().decode()
        headers = self.header("ls", "s3cret")
        assert bench.client.post("/webhook", json=body, headers=headers).status_code == 201

    def test_every_route_but_the_probes_is_closed(self, bench):
        closed = 0
        for rule in bench.client.application.url_map.iter_rules():
            if rule.rule in ("/", "/health", "/ready", "/pictures/<name>.jpg"):
                continue
            for method in rule.methods - {"OPTIONS"}:
                path = re.sub("<(int|any)[^>]*>", "1", rule.rule.replace("<job_id>", "x"))
                reply = bench.client.open(path, method=method)
                assert reply.status_code == 401, rule
                closed += 1
        assert closed > 10

    def test_a_body_is_not_read_for_somebody_unknown(self, bench):
        reply = bench.client.post("/predict", data=b"{" * 100_000)
        assert reply.status_code == 401


class TestBearerToken:
    @pytest.fixture
    def bench(self, make_bench):
        return make_bench(auth_token="t0ken")

    @pytest.mark.parametrize(
        ("header", "code"),
        [
            ("Bearer t0ken", 200),
            ("bearer t0ken", 200),
            ("Bearer wrong", 401),
            ("Bearer", 401),
            ("Bearer t0kén", 401),
            ("Basic dDBrZW46", 401),
            ("t0ken", 401),
            (None, 401),
        ],
    )
    def test_it_opens_the_routes(self, bench, header, code):
        headers = {"Authorization": header} if header else {}
        assert bench.client.get("/metrics", headers=headers).status_code == code
        assert bench.client.get("/health").status_code == 200


class TestWebPages:
    """What a page may do with a backend that its visitor's browser reaches: nothing."""

    BODY = json.dumps({"action": "START_TRAINING"})

    def ask(self, bench, *, kind="application/json", **headers):
        return bench.client.post("/webhook", data=self.BODY, content_type=kind, headers=headers)

    def test_label_studio_is_answered(self, bench):
        assert self.ask(bench).status_code == 201

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "",
                 "text/plain; x=application/json", "application/jsonp"]
    )  # fmt: skip
    def test_the_bodies_that_a_form_can_send_are_refused(self, bench, kind):
        reply = self.ask(bench, kind=kind)
        assert (reply.status_code, "application/json" in reply.json["error"]) == (415, True)

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost", ""])
    @pytest.mark.parametrize("credentials", [{}, {"auth_token": "t0ken"}])
    def test_an_origin_is_refused_with_and_without_credentials(
        self, make_bench, origin, credentials
    ):
        reply = self.ask(make_bench(**credentials), Origin=origin, Authorization="Bearer t0ken")
        assert (reply.status_code, "Origin" in reply.json["error"]) == (403, True)

    @pytest.mark.parametrize(
        ("host", "code"),
        [("localhost", 200), ("localhost:9090", 200), ("127.0.0.1:9090", 200), ("[::1]:9090", 200),
         ("[::1]", 200), ("192.168.1.5", 200), ("backend:9090", 200), ("a.localhost", 200),
         ("host.docker.internal:9090", 200), ("evil.example", 403), ("evil.example:9090", 403),
         ("127.0.0.1.evil.example", 403), ("localhost.evil.example.", 403), ("[evil.example]", 403)]
    )  # fmt: skip
    def test_a_name_of_the_internet_for_this_machine_is_refused(self, bench, host, code):
        reply = bench.client.get("/jobs", headers={"Host": host})
        assert reply.status_code == code

    @pytest.mark.parametrize(
        "settings", [{"auth_token": "t0ken"}, {"host": "0.0.0.0", "allow_anonymous": True}]
    )
    def test_where_others_are_let_in_a_name_is_as_good_as_an_address(self, make_bench, settings):
        headers = {"Host": "sam.example", "Authorization": "Bearer t0ken"}
        assert make_bench(**settings).client.get("/jobs", headers=headers).status_code == 200


class TestLimitsAndHeaders:
    @pytest.mark.parametrize("path", ["/setup", "/webhook", "/validate", "/jobs/x/cancel"])
    def test_only_predictions_may_be_large(self, bench, path):
        reply = bench.client.post(path, json={"padding": "x" * SMALL_BODY})
        assert reply.status_code == 413
        assert f"larger than 8 MiB, the most that {path} takes" in reply.json["error"]
        assert bench.client.post("/predict", json={"x": "x" * SMALL_BODY}).status_code == 400

    @pytest.mark.parametrize("one", ["[],", "{},", "0,"])
    def test_what_grows_in_memory_is_refused_before_it_does(self, bench, monkeypatch, one):
        monkeypatch.setattr("backend.web.app.MAX_OBJECTS", 1000)
        monkeypatch.setattr("backend.web.app.MAX_VALUES", 1000)
        monkeypatch.setattr("flask.Request.get_json", None)  # is not come to
        body = "[" + one * 1001 + "0]"
        reply = bench.client.post("/predict", data=body, content_type="application/json")
        assert reply.status_code == 400
        assert "send fewer tasks at once" in reply.json["error"]

    @pytest.mark.parametrize(
        "given", ["Basic \xff", "Basic /////w==", "Bearer \xff", "Basic", "Basic =", ", ",
                  "Digest \xff=\xff", "Negotiate \xff"]
    )  # fmt: skip
    def test_credentials_may_be_anything(self, make_bench, given, caplog):
        bench = make_bench(basic_auth_user="a", basic_auth_pass="b", auth_token="t")
        reply = bench.client.get("/jobs", headers={"Authorization": given})
        assert reply.status_code == 401
        assert "Traceback" not in caplog.text

    @pytest.mark.parametrize(
        "path", ["/jobs/%00", "/jobs/%1b%5b31m", "/jobs/%0d%0aX:%201", "/train/%00", "/jobs/%ff%fe",
                 "/jobs/%e2%80%a8"]
    )  # fmt: skip
    def test_a_path_may_be_anything(self, bench, path):
        reply = bench.client.get(path)
        assert reply.status_code == 404
        assert reply.status.isprintable()

    @pytest.mark.parametrize("name", ["\x01", "\x1b[31m", "\r\nX: 1", "\x7f", "\x85", "\u2028"])
    def test_a_label_config_may_name_tags_as_it_likes(self, bench, name):
        config = CONFIG.replace('toName="image"', f'toName="{name}"')
        reply = bench.client.post("/setup", json={"schema": config, "project": name})
        assert reply.status_code in (200, 400)
        assert reply.status.isprintable()

    def test_a_large_body_is_refused_with_what_to_do(self, make_bench):
        bench = make_bench(max_body_bytes=2**20)
        body = {"tasks": [], "padding": "x" * 2**20}
        for path in ("/predict", "/setup", "/webhook", "/validate"):
            reply = bench.client.post(path, json=body)
            assert reply.status_code == 413, path
            assert "larger than 1 MiB; raise MAX_BODY_MB" in reply.json["error"]

    @pytest.mark.parametrize("path", ["/health", "/nothing", "/jobs"])
    def test_every_answer_has_the_security_headers(self, bench, path):
        headers = bench.client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers

    def test_a_wrong_method_is_told_the_right_ones(self, bench):
        reply = bench.client.get("/predict")
        assert reply.status_code == 405
        assert "POST" in reply.headers["Allow"]


class TestRequestId:
    def test_the_callers_own_comes_back_and_stands_in_the_log(self, bench, caplog):
        caplog.set_level("INFO")
        with _ids(caplog) as ids:
            reply = bench.client.get("/versions", headers={"X-Request-ID": "abc-1"})
        assert reply.headers["X-Request-ID"] == "abc-1"
        assert ids() == {"abc-1"}

    def test_others_get_one_each(self, bench):
        given = [bench.client.get("/versions").headers["X-Request-ID"] for _ in range(2)]
        assert len(set(given)) == 2

    def test_bodies_are_not_logged(self, bench, caplog):
        caplog.set_level("DEBUG")
        bench.predict([click(50, 50)], task={"id": 7, "data": {"image": "/data/secret-name.png"}})
        bench.client.post("/predict", data=b"{broken secret-name")
        bench.predict(None, task={"id": {"x": "secret-name"}, "data": {}})
        bench.predict([click(50, 50)], task={"id": ["secret-name"], "data": {}})
        assert "secret-name" not in caplog.text
        assert "predict answered 200" in caplog.text

    def test_a_defect_is_found_in_the_log_by_what_the_caller_was_told(self, bench, monkeypatch):
        def broken(body):
            raise RuntimeError("broken")

        monkeypatch.setattr(bench.service, "predict", broken)
        reply = bench.client.post("/predict", json={}, headers={"X-Request-ID": "abc-2"})
        assert reply.status_code == 500
        assert "abc-2" in reply.json["error"]
        assert "broken" not in reply.text


@contextmanager
def _ids(caplog):
    """The request ids under which lines were logged meanwhile."""
    seen = set()

    def note(record):
        seen.add(caller().request_id)
        return True

    caplog.handler.addFilter(note)
    yield lambda: seen
    caplog.handler.removeFilter(note)


def test_the_openapi_document_names_every_route(bench):
    described = bench.client.get("/openapi.json").json["paths"]
    routes = {
        (re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in bench.client.application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    listed = {
        (path, method)
        for path, item in described.items()
        for method in item
        if method != "parameters"
    }
    assert listed == routes


def test_a_device_that_hangs_is_down(bench, monkeypatch):
    bench.engine.wait_ready(PATIENCE)
    assert bench.client.get("/health").status_code == 200
    monkeypatch.setattr(type(bench.engine), "busy_seconds", 3600.0)
    reply = bench.client.get("/health")
    assert (reply.status_code, reply.json["status"]) == (503, "DOWN")


class TestJobs:
    @pytest.fixture
    def job(self, bench):
        return bench.store.add_job("abc", "track", "digest", {"project": "1.1", "task": {"id": 7}})

    def test_they_are_listed_and_shown_without_what_they_were_asked(self, bench, job):
        listed = bench.client.get("/jobs").json["jobs"]
        assert [each["id"] for each in listed] == ["abc"]
        shown = bench.client.get("/jobs/abc").json
        assert (shown["state"], shown["task"], shown["done"]) == ("queued", 7, 0)
        assert "label_config" not in shown
        assert datetime.fromisoformat(shown["created"]).timestamp() == int(job.created)

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
