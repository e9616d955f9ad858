"""Child processes of the demo: reported when they die, gone when they are stopped."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from demo.backend import REPOSITORY
from demo.processes import Child, ProcessDiedError, free_port
from tests.processes import running
from tests.waiting import LONGER, PATIENCE, until

# Starts a child of its own that does not care for SIGTERM, and says its process id.
_STUBBORN_FAMILY = """
import subprocess, sys, time
stubborn = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ignored", flush=True)
time.sleep(600)
'''
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def start(directory: Path, code: str) -> Child:
    """A child that runs Python ``code``."""
    return Child(
        "The child",
        [sys.executable, "-c", code],
        environment=os.environ,
        log=directory / "child.log",
        directory=directory,
    )


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = start(tmp_path, "print('line 1'); print('the reason'); raise SystemExit(3)")
    with pytest.raises(ProcessDiedError, match=r"(?s)exit code 3.*the reason"):
        child.wait_for("http://127.0.0.1:9/", seconds=PATIENCE)
    child.stop()


def test_stop_ends_the_whole_family(tmp_path: Path) -> None:
    child = start(tmp_path, _STUBBORN_FAMILY)
    until(lambda: child.log.read_text().strip().isdecimal())
    grandchild = int(child.log.read_text())
    assert running(child.pid)
    assert running(grandchild)
    child.stop()
    assert not running(child.pid)
    until(lambda: not running(grandchild))


def test_a_busy_port_is_left_alone() -> None:
    port = free_port(random.randrange(20_000, 32_000))  # none that the system gives to others
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert free_port(port) > port
    assert free_port(port) == port


def test_a_missing_label_studio_is_explained(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DEMO_DIR": str(tmp_path / "state"),
        "LABEL_STUDIO_VENV": str(tmp_path / "nothing"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "demo.run"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LONGER,
        check=False,
    )
    assert done.returncode == 1
    assert "Label Studio is not installed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_starting_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    """With a Label Studio that never gets ready."""
    pid_file = tmp_path / "pid"
    program = tmp_path / "venv" / "bin" / "label-studio"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho $$ > {pid_file}\nexec sleep 600\n")
    program.chmod(0o755)
    environment = {
        **os.environ,
        "DEMO_DIR": str(tmp_path / "state"),
        "LABEL_STUDIO_VENV": str(tmp_path / "venv"),
    }
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo.run"],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    until(lambda: pid_file.exists() and pid_file.read_text().strip().isdecimal())
    label_studio = int(pid_file.read_text())
    demo.send_signal(number)
    assert demo.wait(PATIENCE) == 0
    assert not running(label_studio)
