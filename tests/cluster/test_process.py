"""The service over a cluster of this machine, as processes: it answers, and leaves nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from benchmarks.support.server import Server, body, click
from demo.processes import free_port
from tests.waiting import LONGER, PATIENCE, until

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.cluster]


def of_session(folder: Path) -> list[str]:
    """What runs with ``folder`` as its home: all that was started there, and what that did."""
    mark = f"HOME={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if process.name.isdigit() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in found if line]


@pytest.fixture
def head() -> str:
    return f"127.0.0.2:{free_port(6500 + os.getpid() % 2000, '127.0.0.2')}"


@pytest.fixture
def server(tmp_path: Path, head: str) -> Iterator[Server]:
    """Over a cluster of this machine, with one replica."""
    server = Server(tmp_path, {"CLUSTER_ADDRESS": f"local:{head}", "RAY_TMPDIR": "/tmp"})
    try:
        server.wait_ready(LONGER)
        yield server
    finally:
        server.stop()


def assert_clicks_are_answered(server: Server) -> None:
    task = {"id": 1, "data": {"image": server.picture(1)}}
    reply = server.predict(body(task, [click(1)]))
    kinds = [item["type"] for item in reply.json()["results"][0]["result"]]
    assert kinds.count("brushlabels") == 1


def test_it_ends_in_order_with_all_that_it_started(tmp_path: Path, server: Server) -> None:
    assert_clicks_are_answered(server)
    assert any("raylet" in line for line in of_session(tmp_path))
    os.kill(server.pid, signal.SIGTERM)
    assert server._process.wait(PATIENCE) == 0
    assert "was sent SIG" not in server.text()
    until(lambda: not of_session(tmp_path))


def joined(folder: Path, server: Server, head: str) -> Server:
    """``python -m backend join``, as on a machine of its own."""
    settings = {
        "RAY_TMPDIR": "/tmp",
        "CLUSTER_TOKEN_FILE": str(server.folder / "state" / "cluster_token"),
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(server.media),
    }
    command = (sys.executable, "-m", "backend", "--env-file", os.devnull, "join", head)
    return Server(folder, settings, command=command)


def end(process: Server, number: signal.Signals) -> int:
    """Send a signal as a terminal does, to all that hear it; the exit code once nothing is left."""
    os.killpg(process.pid, number)
    code = process._process.wait(PATIENCE)
    until(lambda: not of_session(process.folder))
    return code


def test_machines_join_and_leave_as_they_are_told(
    tmp_path: Path, head: str, server: Server
) -> None:
    def replicas() -> int:
        found = requests.get(server.url + "/overview", timeout=60).json()["model"]["replicas"]
        return len(found)

    with ExitStack() as machines:
        second = joined(tmp_path / "second", server, head)
        machines.callback(second.stop)
        until(lambda: replicas() == 2, LONGER, pause=0.5)
        third = joined(tmp_path / "third", server, head)
        machines.callback(third.stop)
        until(lambda: replicas() == 3, LONGER, pause=0.5)
        assert_clicks_are_answered(server)
        assert end(third, signal.SIGTERM) == 0
        assert end(second, signal.SIGINT) == 130
    until(lambda: replicas() == 1, LONGER, pause=0.5)
    assert_clicks_are_answered(server)
