"""Start a real Label Studio on this machine, non-interactively."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.processes import Child

HOST = "127.0.0.1"
# The first start creates the database: about 30 s on two cores.
START_SECONDS = 240.0

_ENVIRONMENT = {
    # A backend on this machine is accepted only without these two guards; the first alone
    # lets the connection through and then refuses the webhook that comes with it.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    # Nothing is sent anywhere: no usage statistics, no error reports, no look for a new version.
    "COLLECT_ANALYTICS": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
    "FEATURE_FLAGS_OFFLINE": "true",
    "DJANGO_DB": "sqlite",
    "LOG_LEVEL": "WARNING",
}


class NotInstalledError(Exception):
    """Label Studio's virtual environment is missing. ``str()`` says what to do."""


@dataclass(frozen=True)
class Account:
    """The only user of the demo's Label Studio, which listens on this machine alone."""

    email: str = "demo@example.com"
    password: str = "sam2-demo"  # noqa: S105 - printed on the screen, and good for nothing else


class LabelStudio(Child):
    """A Label Studio server with its data in ``data_directory``.

    Args:
        venv: virtual environment that holds ``label-studio``.
        port: port on 127.0.0.1.
        account: created if the data directory does not have it yet.
        log: file for the server's output.
        settings: further variables of its environment.

    Raises:
        NotInstalledError: no ``label-studio`` in ``venv``.
    """

    def __init__(
        self,
        venv: Path,
        *,
        data_directory: Path,
        port: int,
        account: Account,
        log: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        program = venv / "bin" / "label-studio"
        if not program.is_file():
            raise NotInstalledError(
                f"Label Studio is not installed in {venv}. `make demo` installs it; by hand: "
                f"python3 -m venv {venv} && "
                f"{venv}/bin/pip install -r requirements-label-studio.txt"
            )
        self.url = f"http://{HOST}:{port}"
        data_directory = data_directory.resolve()
        data_directory.mkdir(parents=True, exist_ok=True)
        command = [str(program.absolute()), "start", "--no-browser"]
        command += ["--data-dir", str(data_directory)]
        command += ["--internal-host", HOST, "--port", str(port)]
        super().__init__(
            "Label Studio",
            command,
            environment=_environment(data_directory, self.url, account) | dict(settings or {}),
            log=log,
            directory=data_directory,
        )


def _environment(data_directory: Path, url: str, account: Account) -> dict[str, str]:
    """The caller's environment without what Label Studio would take for a setting of its own."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LABEL_STUDIO_", "HEARTEX_", "DJANGO_"))
        and name not in ("HOST", "PORT", "DEBUG", "USERNAME", "PASSWORD", "DATABASE_NAME")
    }
    environment.update(_ENVIRONMENT)
    environment["LABEL_STUDIO_HOST"] = url
    environment["LABEL_STUDIO_USERNAME"] = account.email
    environment["LABEL_STUDIO_PASSWORD"] = account.password
    # Both keep it out of the home directory: the command line option alone comes too late.
    environment["LABEL_STUDIO_BASE_DATA_DIR"] = str(data_directory)
    environment["XDG_CONFIG_HOME"] = str(data_directory / "config")
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
