"""The real Label Studio and the real backend that one test session talks to."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

from demo.api import LabelStudioApi
from demo.backend import REPOSITORY, Backend
from demo.label_studio import START_SECONDS, Account, LabelStudio
from demo.processes import free_port
from demo.projects import DemoProject

STATE = REPOSITORY / ".e2e"
LABEL_STUDIO_VENV = Path(os.environ.get("LABEL_STUDIO_VENV") or REPOSITORY / ".venv-label-studio")
ACCOUNT = Account()

_SETTINGS = {
    "SAM2_VARIANT": "demo",
    "SAM2_CHECKPOINT": "",
    # One test serves photos from a server of its own on this machine.
    "ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
    # A busy machine may take longer for the sample clip than an annotator should wait.
    "TRACK_BUDGET_SECONDS": "80",
}


class Services:
    """Label Studio on a fresh copy of an empty database, and a backend with the demo weights.

    Args:
        directory: for data and logs of this session; must be empty.

    Attributes:
        state: the backend's ``STATE_DIR``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.state = directory / "tracks"
        self._backend: Backend | None = None
        data = directory / "label-studio"
        shutil.copytree(empty_label_studio(), data)
        self.label_studio = LabelStudio(
            LABEL_STUDIO_VENV,
            data_directory=data,
            port=any_free_port(),
            account=ACCOUNT,
            log=directory / "label-studio.log",
        )
        try:
            self.label_studio.wait_for(self.label_studio.url + "/health", seconds=START_SECONDS)
            self.api = LabelStudioApi(self.label_studio.url, ACCOUNT)
            self._token = self.api.new_personal_access_token()
            self._port = any_free_port()
            self.start_backend()
        except BaseException:
            self.close()
            raise

    @property
    def backend(self) -> Backend:
        """The running backend."""
        assert self._backend is not None, "the backend is not running"
        return self._backend

    def start_backend(self, **settings: str) -> None:
        """Start the backend, with other settings if need be; wait until its model is loaded."""
        self._backend = Backend(
            port=self._port,
            label_studio_url=self.label_studio.url,
            token=self._token,
            cache_directory=self._directory / "cache",
            state_directory=self.state,
            log=self._directory / "backend.log",
            env_file=self._directory / "env",
            settings={**_SETTINGS, **settings},
        )
        self._backend.wait_until_ready()

    def stop_backend(self) -> None:
        """Stop the backend, as an operator who restarts it would."""
        self.backend.stop()
        self._backend = None

    def kill_backend(self) -> None:
        """End the backend and what it has started by SIGKILL, as a machine that runs out of
        memory does."""
        os.killpg(self.backend.pid, signal.SIGKILL)
        self.stop_backend()

    def project(self, title: str, label_config: str) -> int:
        """A new project with the backend connected; returns its id."""
        project = self.api.create_project(title, label_config)
        self.api.connect_backend(project, self.backend.url, title="SAM 2")
        return project

    def photo_tasks(self, project: int, *photos: Path) -> list[int]:
        """Upload photos, one task each; returns the tasks' ids."""
        data: list[dict[str, Any]] = [
            {"image": self.api.upload(project, photo)} for photo in photos
        ]
        return self.api.create_tasks(project, data)

    def demo_tasks(self, title: str, demo: DemoProject) -> tuple[int, ...]:
        """A new project like one of the demo's, with its tasks; returns the ids of all."""
        project = self.project(title, demo.label_config)
        tasks = demo.upload(self.api, project, self._directory / "clip")
        return project, *self.api.import_tasks(project, tasks)

    def demo_task(self, title: str, demo: DemoProject) -> tuple[int, int]:
        """A new project like one of the demo's; returns the ids of it and its first task."""
        project, task, *_ = self.demo_tasks(title, demo)
        return project, task

    def logs(self) -> list[Path]:
        """Log files worth keeping when a test has failed."""
        return sorted(self._directory.glob("*.log"))

    def close(self) -> None:
        """Stop everything."""
        if self._backend is not None:
            self.stop_backend()
        self.label_studio.stop()


def any_free_port() -> int:
    """A free port that another test session, looking at the same moment, hardly gets too.

    It is below those that Linux gives to outgoing connections.
    """
    return free_port(random.randrange(20_000, 32_000))


def installed_version(venv: Path) -> str | None:
    """The version of Label Studio in a virtual environment; None where there is none."""
    found = venv.glob("lib/python*/site-packages/label_studio-*.dist-info")
    return next((path.name.split("-")[1].removesuffix(".dist") for path in found), None)


def empty_label_studio() -> Path:
    """A data directory with an empty database, made once per version: it takes half a minute."""
    template = STATE / f"empty-label-studio-{installed_version(LABEL_STUDIO_VENV)}"
    if not template.exists():
        unfinished = STATE / f"unfinished-{os.getpid()}"
        server = LabelStudio(
            LABEL_STUDIO_VENV,
            data_directory=unfinished,
            port=any_free_port(),
            account=ACCOUNT,
            log=STATE / f"empty-label-studio-{os.getpid()}.log",
        )
        try:
            server.wait_for(server.url + "/health", seconds=START_SECONDS)
        finally:
            server.stop()
        try:
            unfinished.rename(template)
        except OSError:  # another session was faster
            shutil.rmtree(unfinished)
    return template
