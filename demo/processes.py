"""Child processes that leave nothing behind: own process group, log file, bounded stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests

_POLL_SECONDS = 0.2
_TERMINATE_SECONDS = 15.0
LOG_LINES = 25


class ProcessDiedError(Exception):
    """A child ended by itself. ``str()`` holds its exit code and the end of its log."""


class NotReadyError(Exception):
    """A child did not answer in time. ``str()`` holds the end of its log."""


class Child:
    """A running program whose output goes to a log file.

    It gets a session of its own, so that a Ctrl-C in the terminal reaches the parent only, and
    :meth:`stop` reaches whatever the program itself has started.

    Args:
        name: what messages call it.
        command: program and arguments.
        environment: the whole environment of the program.
        log: file the output is written to; an older one is replaced.
        directory: working directory.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        directory: Path,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group."""
        return self._process.pid

    def check(self) -> None:
        """Raise :class:`ProcessDiedError` if the program has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProcessDiedError(
                f"{self.name} ended with exit code {code}. The end of {self.log}:\n{self.tail()}"
            )

    def tail(self, lines: int = LOG_LINES) -> str:
        """The last lines of the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])

    def wait_for(
        self,
        url: str,
        *,
        seconds: float,
        interrupted: Callable[[], None] = lambda: None,
        failure: Callable[[requests.Response], str | None] = lambda response: None,
    ) -> None:
        """Return as soon as ``GET url`` answers 200.

        Args:
            interrupted: called between tries; may raise to give up early.
            failure: why, judging by an answer that is no 200, there will never be one; None
                where there is hope.

        Raises:
            ProcessDiedError: the program ended instead.
            NotReadyError: no 200 within ``seconds``, or ``failure`` said so.
        """
        answer = "no answer"
        deadline = time.monotonic() + seconds
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no business with this machine
            while time.monotonic() < deadline:
                interrupted()
                self.check()
                try:
                    response = session.get(url, timeout=5)
                except requests.RequestException:
                    pass
                else:
                    if response.status_code == requests.codes.ok:
                        return
                    reason = failure(response)
                    if reason is not None:
                        raise NotReadyError(f"{self.name} has failed: {reason}")
                    answer = f"{response.status_code} {response.text[:300]}"
                time.sleep(_POLL_SECONDS)
        raise NotReadyError(
            f"{self.name} was not ready within {seconds:.0f} s ({url}: {answer}). "
            f"The end of {self.log}:\n{self.tail()}"
        )

    def stop(self) -> None:
        """End the program and everything in its process group; wait until it is gone."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TERMINATE_SECONDS)
        # What outlived the leader of the group, or did not care for SIGTERM.
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def free_port(preferred: int, host: str = "127.0.0.1") -> int:
    """``preferred`` if nothing listens there, else the next port that is free.

    Raises:
        OSError: 100 ports in a row are taken.
    """
    for port in range(preferred, min(preferred + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"ports {preferred} to {preferred + 99} are all in use")
