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
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.decoding.conftest import running


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "tests.decoding.gunicorn_app:application()",
               "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "4",
               "--graceful-timeout", "1", "--no-control-socket"]  # fmt: skip
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 30
    while True:
        try:
            requests.get(url, timeout=30)
            break
        except requests.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
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
    time.sleep(0.3)
    for _ in range(3):
        answer = requests.post(url, data=photo.read_bytes(), timeout=30)
        assert answer.text == "(300, 400, 3)"
    answer = requests.post(url, data=b"crash:", timeout=30)
    assert "crash" in answer.text
    worker, *decoders = [int(pid) for pid in re.findall(r"\d+", answer.headers["X-Pids"])]
    assert len(decoders) >= 3  # two that wait and one that hangs
    assert all(running(pid) for pid in decoders)
    os.kill(worker if number == signal.SIGKILL else process.pid, number)
    deadline = time.monotonic() + 12
    while any(running(pid) for pid in (*decoders, worker)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _post(url: str, body: bytes) -> None:
    try:
        requests.post(url, data=body, timeout=60)
    except requests.RequestException:
        return  # the server was stopped
