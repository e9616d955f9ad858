"""Under the server that the service runs on: requests beside a decoder that hangs are answered,
and nothing is left when the server goes, however it goes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.processes import running
from tests.waiting import LONGER, PATIENCE, until

JSON = {"Content-Type": "application/json"}  # other bodies are refused before they are read


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody else can take the port
        descriptor, port = listener.fileno(), listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn",
                   "tests.pixels.sandbox.gunicorn_app:application()",
                   "--bind", f"fd://{descriptor}",
                   "--worker-class", "backend.web.connections.Worker",
                   "--graceful-timeout", "1", "--no-control-socket"]  # fmt: skip
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[3],
            pass_fds=[descriptor],
            env={**os.environ, "THREADS": "4"},
            stderr=subprocess.DEVNULL,
        )
    url = f"http://127.0.0.1:{port}/"
    requests.get(url, timeout=PATIENCE)
    yield process, url
    process.terminate()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_gunicorn(
    server: tuple[subprocess.Popen[bytes], str], photo: Path, number: signal.Signals
) -> None:
    process, url = server
    hanging = threading.Thread(target=lambda: _post(url, b"sleep:"), daemon=True)
    hanging.start()
    # Two that wait and one that hangs.
    until(lambda: len(pids(requests.post(url, data=b"", headers=JSON, timeout=PATIENCE))) >= 1 + 3)
    for _ in range(3):
        answer = requests.post(url, data=photo.read_bytes(), headers=JSON, timeout=PATIENCE)
        assert answer.text == "(300, 400, 3)"
    answer = requests.post(url, data=b"crash:", headers=JSON, timeout=PATIENCE)
    assert "crash" in answer.text
    worker, *decoders = pids(answer)
    assert len(decoders) >= 3
    assert all(running(pid) for pid in decoders)
    os.kill(worker if number == signal.SIGKILL else process.pid, number)
    until(lambda: not any(running(pid) for pid in (*decoders, worker)))


def pids(answer: requests.Response) -> list[int]:
    """The worker's, and those of its decoders."""
    return [int(pid) for pid in re.findall(r"\d+", answer.headers["X-Pids"])]


def _post(url: str, body: bytes) -> None:
    try:
        requests.post(url, data=body, headers=JSON, timeout=LONGER)
    except requests.RequestException:
        return  # the server was stopped
