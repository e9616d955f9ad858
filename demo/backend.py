"""Start this project's backend (``python -m backend serve``) as a child process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import requests

from backend.env_file import env_file_text
from backend.files import replacing
from backend.settings import FILE_SUFFIX, Settings
from demo.processes import Child

HOST = "127.0.0.1"
# Loading the demo weights takes seconds; fetching and loading official ones may take minutes.
READY_SECONDS = 900.0
REPOSITORY = Path(__file__).resolve().parent.parent


class Backend(Child):
    """The backend on 127.0.0.1, for the Label Studio at ``label_studio_url``.

    Settings that the caller's environment holds (``SAM2_VARIANT``, ``SAM2_DEVICE``, ...) are
    passed on.

    Attributes:
        env_file: holds all its settings; ``python -m backend --env-file`` reads it for the
            commands beside the service too.
    """

    def __init__(
        self,
        *,
        port: int,
        label_studio_url: str,
        token: str,
        cache_directory: Path,
        state_directory: Path,
        log: Path,
        env_file: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.url = f"http://{HOST}:{port}"
        self.env_file = env_file.resolve()
        names = Settings.variables()
        values = {
            **{name: os.environ[name] for name in names if name in os.environ},
            "HOST": HOST,
            "PORT": str(port),
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": token,
            "CACHE_DIR": str(cache_directory.resolve()),
            "STATE_DIR": str(state_directory.resolve()),
            **(settings or {}),
        }
        _write(self.env_file, values)
        others = {name: value for name, value in os.environ.items() if name not in names}
        super().__init__(
            "The SAM 2 backend",
            [sys.executable, "-m", "backend", "--env-file", str(self.env_file), "serve"],
            environment={**others, "PYTHONUNBUFFERED": "1"},
            log=log,
            directory=REPOSITORY,
        )

    def wait_until_ready(self, interrupted: Callable[[], None] = lambda: None) -> None:
        """Return when the model is loaded.

        Raises:
            ProcessDiedError: the process ended.
            NotReadyError: the model cannot be loaded, or took longer than 15 minutes.
        """
        url = self.url + "/ready"
        self.wait_for(url, seconds=READY_SECONDS, interrupted=interrupted, failure=_failure)


def _write(file: Path, values: Mapping[str, str]) -> None:
    """The settings, for nobody else's eyes; a secret that is given goes before its file."""
    values = {
        name: value
        for name, value in values.items()
        if not (name.endswith(FILE_SUFFIX) and name.removesuffix(FILE_SUFFIX) in values)
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.touch(mode=0o600)
        partial.write_text(env_file_text(values, "Written at each start."), encoding="utf-8")


def _failure(response: requests.Response) -> str | None:
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return None
    return str(answer.get("detail")) if answer.get("status") == "failed" else None
