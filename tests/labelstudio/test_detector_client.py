"""Another ML backend as a server on loopback: what it is sent, and what it may answer."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time

import pytest

from backend.labelstudio.detector_client import (
    MAX_ANSWER_BYTES,
    DetectorClient,
    DetectorError,
    found_items,
)
from benchmarks.support.recording_server import Reply, recording_server
from tests.waiting import LONGER, PATIENCE

TASK = {"id": 7, "data": {"image": "data:image/jpeg;base64,AA=="}}
XML = '<View><Image name="image" value="$image"/></View>'


def as_json(body, status=200):
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def server():
    with recording_server() as running:
        running.route("/health", as_json({"status": "UP", "model_class": "Owl"}))
        running.route("/setup", as_json({"model_version": "owl"}))
        running.route("/predict", as_json({"results": [{"result": []}]}))
        yield running


@pytest.fixture
def client(server):
    return DetectorClient(server.url)


def ask(client, words=None, seconds=PATIENCE, xml=XML):
    return client.predict(TASK, "3.1700000000", xml, words, seconds)


def test_it_is_called_as_label_studio_calls_a_backend(server, client):
    assert client.check() == "Owl"
    assert server.seen.pop().path == "/setup"
    assert ask(client) == {"result": []}
    ask(client, "person . dog")
    ask(client, xml=XML + " ")
    paths = [(seen.method, seen.path) for seen in server.seen]
    once = [("POST", "/setup"), ("POST", "/predict")]
    assert paths == [("GET", "/health"), *once, ("POST", "/predict"), *once]
    setup, first, second = (json.loads(seen.body) for seen in server.seen[1:4])
    assert setup == {
        "project": "3.1700000000",
        "schema": XML,
        "hostname": "",
        "access_token": "",
        "extra_params": "",
    }
    assert first == {
        "tasks": [{"annotations": [], "predictions": [], "drafts": [], **TASK}],
        "project": "3.1700000000",
        "label_config": XML,
        "params": {"login": None, "password": None, "context": None},
    }
    typed = {"result": [{"type": "textarea", "value": {"text": ["person . dog"]}}]}
    assert second["params"]["context"] == typed


def test_its_credentials_and_no_others_are_sent(server):
    client = DetectorClient(server.url, "ada", "lovelace")
    ask(client)
    ask(DetectorClient(server.url))
    sent = base64.b64encode(b"ada:lovelace").decode()
    assert [seen.headers.get("authorization") for seen in server.seen] == [
        *2 * [f"Basic {sent}"],
        *2 * [None],
    ]
    server.route("/predict", Reply(401))
    with pytest.raises(DetectorError, match="answered 401: check DETECTOR_USER and") as caught:
        ask(client)
    assert "lovelace" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(401), "answered 401: it wants a user name and password: set DETECTOR_USER"),
        (Reply(404), "answered 404; check DETECTOR_URL"),
        (Reply(302, headers={"Location": "http://127.0.0.1/"}), "302, a redirect, which is not"),
        (Reply(500), "answered 500 .*: its own log says why"),
        (Reply(200, b"<html>"), "something other than an ML backend does"),
        (Reply(200, b"[" * 50_000 + b"]" * 50_000), "something other than an ML backend does"),
        (Reply(200, b"[" + b"{}," * 200_000 + b"{}]"), "something other than an ML backend does"),
        (Reply(200, b"[]"), "something other than an ML backend does"),
        (Reply(200, b'{"results": 5}'), "without a list of results"),
        (Reply(200, b" " * (MAX_ANSWER_BYTES + 1)), "with more than 16 MiB"),
    ],
)
def test_what_is_no_answer_is_named_with_its_fix(server, client, reply, said):
    server.route("/predict", reply)
    with pytest.raises(DetectorError, match=said):
        ask(client)
    assert len([seen for seen in server.seen if seen.path == "/predict"]) == 1


def test_one_that_is_not_there(client):
    with pytest.raises(DetectorError, match=r"cannot be reached .*check DETECTOR_URL"):
        DetectorClient("http://127.0.0.1:9").check()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"", length=10, hang=LONGER),
        Reply(200, b'{"results": [[]]}' + b" " * 60, drip=0.5),
    ],
    ids=["hangs", "drips"],
)
def test_time_is_bounded_whatever_it_sends(server, client, reply):
    ask(client)
    server.route("/predict", reply)
    begun = time.monotonic()
    with pytest.raises(DetectorError, match="did not answer within 1 s"):
        ask(client, seconds=1.0)
    assert time.monotonic() - begun < PATIENCE / 4  # and not the minutes of the server


def test_no_time_is_left(server, client):
    with pytest.raises(DetectorError, match="no time left"):
        ask(client, seconds=0.0)
    assert not server.seen


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"result": [{"id": "a"}]}, [{"id": "a"}]),
        ([{"result": [{"id": "a"}]}, {"result": [{"id": "b"}]}], [{"id": "a"}, {"id": "b"}]),
        ([{"id": "a", "type": "rectanglelabels"}], [{"id": "a", "type": "rectanglelabels"}]),
        ([{"result": 5}, 7, None], []),
        ({"result": ["x", {"id": "a"}]}, [{"id": "a"}]),
        ("text", []),
        (None, []),
    ],
)
def test_all_forms_of_a_prediction(entry, found):
    assert found_items(entry) == found


def test_headers_that_come_byte_by_byte_are_cut():
    """A socket's time-out starts anew with every byte."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not stopped.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        client = DetectorClient(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(DetectorError, match="did not answer within 1 s"):
            ask(client, seconds=1.0)
        stopped.set()
        thread.join(PATIENCE)
