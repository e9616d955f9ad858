"""The process as an operator sees it: start, log, limits, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from backend.doctor.machine import start_problems
from backend.settings import Settings
from backend.wiring import Wiring
from benchmarks.support.server import ROOT, SEQUENCE, body, click, disc, said, typed
from tests.waiting import LONGER, PATIENCE, until


def serve(**variables):
    """Run ``serve`` that is expected to refuse to start."""
    return subprocess.run(
        [sys.executable, "-m", "backend", "--env-file", os.devnull, "serve"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent-home", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_what_cannot_work_stops_the_start_with_one_line_each(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = serve(
        CACHE_DIR=str(tmp_path / "file" / "cache"),
        STATE_DIR="/proc/state",  # read-only for everybody, root too
        LABEL_STUDIO_URL="http://127.0.0.1:1",
        LABEL_STUDIO_API_KEY="two words\n\tand-a-control",
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["CACHE_DIR", "STATE_DIR"]
    assert "must be a folder to write to" in lines[0]
    assert len(lines) == 3
    assert "API" in lines[2]
    assert "and-a-control" not in done.stderr
    assert "Traceback" not in done.stderr


def test_other_machines_need_credentials_or_a_word_that_they_need_none(tmp_path):
    folders = {name: str(tmp_path) for name in ("CACHE_DIR", "STATE_DIR")}
    done = serve(HOST="0.0.0.0", **folders)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("HOST: other machines reach 0.0.0.0")
    for word in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "ALLOW_ANONYMOUS=true"):
        assert word in done.stderr


@pytest.mark.parametrize("access", [{}, {"HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "true"},
                                    {"HOST": "::", "AUTH_TOKEN": "t"}, {"HOST": "127.8.9.1"},
                                    {"HOST": "localhost"}])  # fmt: skip
def test_the_start_has_nothing_against(access, tmp_path):
    folders = {name: str(tmp_path) for name in ("CACHE_DIR", "STATE_DIR")}
    assert list(start_problems(Wiring(Settings.from_env({**folders, **access})))) == []


@pytest.mark.slow
def test_requests_are_logged_as_json_with_their_id_and_nothing_else(start):
    server = start(LOG_FORMAT="json", AUTH_TOKEN="t0ken-value").wait_ready()
    task = {"id": 7, "data": {"image": "http://127.0.0.1:9/a.png?X-Amz-Signature=abc123def"}}
    headers = {"Authorization": "Bearer t0ken-value", "X-Request-ID": "trace-1"}
    reply = requests.post(
        server.url + "/predict", json=body(task, [click(1)]), headers=headers, timeout=PATIENCE
    )
    assert reply.headers["X-Request-ID"] == "trace-1"
    assert said(reply)  # why there is no mask
    server.stop()
    lines = [json.loads(line) for line in server.text().splitlines()]
    assert any("Label Studio is shut out" in line["message"] for line in lines)
    assert {"backend.access", "gunicorn.error", "backend.engine.local"} <= {
        line["logger"] for line in lines
    }
    [answered] = [line for line in lines if line.get("request_id") and "access" in line["logger"]]
    assert (answered["request_id"], answered["message"]) == ("trace-1", "POST predict answered 200")
    assert any(line["level"] == "WARNING" and line.get("request_id") == "trace-1" for line in lines)
    for secret in ("t0ken-value", "abc123def", "label_config", "keypointlabels"):
        assert secret not in server.text()


@pytest.mark.slow
def test_a_body_without_a_length_is_limited_too(start):
    server = start(MAX_BODY_MB="1").wait_ready()

    def chunks():
        for _ in range(40):
            yield b" " * 2**16

    reply = requests.post(
        server.url + "/predict",
        data=chunks(),
        headers={"Content-Type": "application/json"},
        timeout=PATIENCE,
    )
    assert reply.status_code == 413
    assert "MAX_BODY_MB" in reply.json()["error"]
    assert requests.get(server.url + "/health", timeout=PATIENCE).status_code == 200


@pytest.mark.slow
def test_more_half_sent_heads_than_threads_stop_nobody(start):
    server = start(THREADS="2").wait_ready()
    with ExitStack() as opened:
        place = (server.host, server.port)
        slow = [opened.enter_context(socket.create_connection(place)) for _ in range(8)]
        for each in slow:
            each.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        task = {"id": 7, "data": {"image": server.picture(1)}}
        reply = server.predict(body(task, [click(1)]), timeout=PATIENCE)
        assert "brushlabels" in reply.text
        assert requests.get(server.url + "/health", timeout=PATIENCE).status_code == 200


def test_a_broken_model_file_is_told_by_the_probe_the_editor_and_the_log(start, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"not weights at all" * 100)
    server = start(SAM2_CHECKPOINT=str(weights))

    def failed():
        with suppress(requests.ConnectionError):
            reply = requests.get(server.url + "/ready", timeout=PATIENCE)
            return [reply] if reply.json()["status"] == "failed" else []

    [ready] = until(failed, LONGER, pause=0.2)
    assert ready.status_code == 503
    assert str(weights) in ready.json()["detail"]
    health = requests.get(server.url + "/health", timeout=PATIENCE)
    assert health.status_code == 200  # not restarted
    task = {"id": 7, "data": {"image": server.picture(1)}}
    assert "could not be loaded" in said(server.predict(body(task, [click(1)])))
    assert "could not be loaded" in server.text()


class TestStop:
    PAGES = 2000  # not to be tracked before the signal comes, on any machine
    PICTURES = 40

    @pytest.fixture
    def tracking(self, start, tmp_path):
        """A server in the middle of a long track, and a request that waits for it."""
        import cv2

        server = start(TRACK_BUDGET_SECONDS=f"{LONGER}", LOG_FORMAT="json").wait_ready()
        for shift in range(self.PICTURES):
            cv2.imwrite(str(server.media / f"p{shift}.png"), disc(1, shift=shift))
        pictures = [f"/data/local-files/?d=p{shift}.png" for shift in range(self.PICTURES)]
        frames = pictures * (self.PAGES // self.PICTURES)
        task = {"id": 7, "data": {"frames": frames}}
        first = server.predict(body(task, [click(1, page=0)], config=SEQUENCE))
        marked = [i for i in first.json()["results"][0]["result"] if i["type"] == "brushlabels"]
        task["drafts"] = [{"id": 1, "result": marked}]
        replies = []
        waiting = threading.Thread(
            target=lambda: replies.append(
                server.predict(body(task, [typed("track")], config=SEQUENCE), timeout=2 * LONGER)
            )
        )
        waiting.start()
        until(lambda: any(job["done"] > 3 for job in self.jobs(server)), pause=0.1)
        yield server, waiting, replies
        waiting.join(PATIENCE)

    @staticmethod
    def jobs(server):
        return requests.get(server.url + "/jobs", timeout=PATIENCE).json()["jobs"]

    @pytest.mark.slow
    def test_nobody_is_cut_off_and_nothing_finished_is_lost(self, tracking):
        server, waiting, replies = tracking
        [before] = self.jobs(server)
        os.kill(server.pid, signal.SIGTERM)
        assert server._process.wait(PATIENCE) == 0  # the reply would wait longer for the track
        waiting.join(PATIENCE)
        assert replies, "the request that waited for the track was cut off"
        assert replies[0].status_code == 200
        store = Path(server.folder / "state" / "tracks.sqlite3")
        from backend.tracking.store import TrackStore

        kept = TrackStore(store)
        [job] = kept.jobs()
        assert job.state == "running"  # taken up at the next start
        assert before["done"] <= job.done < self.PAGES - 1
        assert len(kept.anchors(job.track)) >= job.done
        kept.close()
        assert "Traceback" not in server.text()
        lines = [json.loads(line) for line in server.text().splitlines()]
        [begun] = [line for line in lines if line["message"] == "the job begins"]
        asked = replies[0].headers["X-Request-ID"]  # by the request that typed "track"
        assert (begun["job"], begun["project"], begun["request_id"]) == (job.id, "1.100", asked)
