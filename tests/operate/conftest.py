"""Real processes of the service with the demo weights, and the service over a fake model."""

from __future__ import annotations

import pytest

from benchmarks.support.server import Server
from tests.backend.conftest import bench, make_bench
from tests.waiting import PATIENCE

__all__ = ["bench", "make_bench"]

PATIENT = {"CLICK_BUDGET_SECONDS": f"{PATIENCE}"}


@pytest.fixture
def start(tmp_path):
    """Starts a server with settings; what a test leaves running is stopped."""
    started = []

    def run(**settings):
        server = Server(tmp_path / f"run-{len(started)}", {**PATIENT, **settings})
        started.append(server)
        return server

    yield run
    for server in started:
        server.stop()
