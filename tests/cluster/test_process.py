"""The service over a cluster of this machine, as a process: it answers, and leaves nothing."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.support.server import Server, body, click
from demo.processes import free_port
from tests.waiting import LONGER, PATIENCE, until

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.cluster]


def of_session(folder: Path) -> list[str]:
    """What runs with ``folder`` as its home: all that the service started, and what that did."""
    mark = f"HOME={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if process.name.isdigit() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in found if line]


def test_it_ends_in_order_with_all_that_it_started(tmp_path: Path) -> None:
    address = f"local:127.0.0.2:{free_port(6500 + os.getpid() % 2000, '127.0.0.2')}"
    server = Server(tmp_path, {"CLUSTER_ADDRESS": address, "RAY_TMPDIR": "/tmp"})
    try:
        server.wait_ready(LONGER)
        task = {"id": 1, "data": {"image": server.picture(1)}}
        reply = server.predict(body(task, [click(1)]))
        kinds = [item["type"] for item in reply.json()["results"][0]["result"]]
        assert kinds.count("brushlabels") == 1
        assert any("raylet" in line for line in of_session(tmp_path))
        os.kill(server.pid, signal.SIGTERM)
        assert server._process.wait(PATIENCE) == 0
        assert "was sent SIG" not in server.text()
        until(lambda: not of_session(tmp_path))
    finally:
        server.stop()
