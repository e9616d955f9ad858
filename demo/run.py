"""``make demo``: start Label Studio and the backend, set up projects, stop both on Ctrl-C.

Environment: ``LABEL_STUDIO_PORT`` (8080) and ``PORT`` (9090), each moved on to the next free
port; ``LABEL_STUDIO_VENV`` (``.venv-label-studio``), where Label Studio is installed; ``DEMO_DIR``
(``.demo``), where everything is kept that a next run uses again. Settings of the backend, such as
``SAM2_VARIANT``, are passed on to it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from demo.api import ApiError, LabelStudioApi
from demo.backend import REPOSITORY, Backend
from demo.guide import HOW, WALKS, as_html, as_text
from demo.label_studio import START_SECONDS, Account, LabelStudio, NotInstalledError
from demo.model import choose_variant
from demo.processes import Child, NotReadyError, ProcessDiedError, free_port
from demo.projects import PHOTO_PROJECT, PROJECTS

INSTRUCTIONS = """
------------------------------------------------------------------------
  The demo runs.            Ctrl-C stops it.

  Open      {label_studio}
  Log in    {email}   password {password}
  See it    {backend}   what runs, whether clicks arrive; the same name and password

{how}

{walks}

{model}

  COMMAND LINE, in another terminal: what is wrong, label ahead, export
  cd {folder}
{commands}

  Backend   {backend}   (the same login)   logs {logs}
  Settings  {env_file}
------------------------------------------------------------------------
"""


class StopRequested(Exception):
    """Ctrl-C, or a signal that means the same."""


class StopFlag:
    """Set by SIGINT, SIGTERM or SIGHUP; asked at every step, so no child is forgotten."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._set)

    def check(self) -> None:
        """Raise :class:`StopRequested` if the demo is to stop."""
        if self._event.is_set():
            raise StopRequested

    def wait(self, seconds: float) -> None:
        """Sleep; wake up and raise :class:`StopRequested` at once if the demo is to stop."""
        self._event.wait(seconds)
        self.check()

    def _set(self, number: int, frame: FrameType | None) -> None:
        self._event.set()


@contextlib.contextmanager
def running(child: Child) -> Iterator[Child]:
    """Stop ``child`` at the end, whatever happens."""
    try:
        yield child
    finally:
        child.stop()


def main() -> int:
    """Run until a signal comes; returns the exit code."""
    stop = StopFlag()
    try:
        run(stop)
    except StopRequested:
        print("\nThe demo has stopped.", flush=True)
        return 0
    except (NotInstalledError, NotReadyError, ProcessDiedError, ApiError, OSError) as error:
        print(f"\nThe demo cannot go on: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def run(stop: StopFlag) -> None:
    """Start everything, print what to do, and watch until ``stop`` or a failure."""
    started = time.monotonic()
    directory = Path(os.environ.get("DEMO_DIR") or REPOSITORY / ".demo").resolve()
    directory.mkdir(parents=True, exist_ok=True)
    account = Account()
    with contextlib.ExitStack() as children:
        label_studio = _start_label_studio(directory, account, stop)
        children.enter_context(running(label_studio))
        label_studio.wait_for(
            label_studio.url + "/health", seconds=START_SECONDS, interrupted=stop.check
        )
        api = _log_in(label_studio, account, directory)
        variant, model = choose_variant(os.environ.get("SAM2_VARIANT"), interrupted=stop.check)
        print(model, flush=True)
        backend = _start_backend(directory, api, account, variant)
        children.enter_context(running(backend))
        numbers = {}
        for project in PROJECTS:
            stop.check()
            [walk] = [each for each in WALKS if each.project is project]
            numbers[project] = project.set_up(api, directory / "clip", as_html(walk))
        backend.wait_until_ready(stop.check)
        for number in numbers.values():
            api.connect_backend(
                number, backend.url, title="SAM 2", login=(account.email, account.password)
            )
        print(f"Ready after {time.monotonic() - started:.0f} s.")
        url = label_studio.url + "/projects/{}/data"
        print(
            INSTRUCTIONS.format(
                label_studio=label_studio.url,
                model=textwrap.indent(model, "  "),
                how=textwrap.indent(textwrap.fill(HOW, 74), "  "),
                walks="\n\n".join(
                    f"  {walk.title}    {url.format(numbers[walk.project])}\n{as_text(walk)}"
                    for walk in WALKS
                ),
                email=account.email,
                password=account.password,
                folder=shlex.quote(str(REPOSITORY)),
                commands=_commands(backend.env_file, directory, numbers[PHOTO_PROJECT]),
                env_file=backend.env_file,
                backend=backend.url,
                logs=directory / "logs",
            ),
            flush=True,
        )
        while True:
            stop.wait(1.0)
            label_studio.check()
            backend.check()


def _commands(env_file: Path, directory: Path, project: int) -> str:
    """Lines to paste into a terminal."""
    start = [sys.executable, "-m", "backend", "--env-file", str(env_file)]
    masks, review = str(directory / "masks"), str(directory / "review.csv")
    chosen = ["--project", str(project)]
    return "\n".join(
        "  " + shlex.join([*start, *command])
        for command in (
            ["doctor", *chosen],
            ["preannotate", *chosen, "--csv", review],
            ["export", *chosen, "--predictions", "--format", "coco", "--out", masks],
        )
    )


def _start_label_studio(directory: Path, account: Account, stop: StopFlag) -> LabelStudio:
    venv = Path(os.environ.get("LABEL_STUDIO_VENV") or REPOSITORY / ".venv-label-studio")
    data = directory / "label-studio"
    first = not (data / "label_studio.sqlite3").exists()
    print(
        "Starting Label Studio" + (" (about a minute, the first time) ..." if first else " ..."),
        flush=True,
    )
    return LabelStudio(
        venv,
        data_directory=data,
        port=_port("LABEL_STUDIO_PORT", 8080),
        account=account,
        log=directory / "logs" / "label-studio.log",
    )


def _log_in(label_studio: LabelStudio, account: Account, directory: Path) -> LabelStudioApi:
    try:
        return LabelStudioApi(label_studio.url, account)
    except ApiError as error:
        raise ApiError(
            f"{error}. If its password was changed: remove {directory} to begin anew"
        ) from error


def _start_backend(directory: Path, api: LabelStudioApi, account: Account, variant: str) -> Backend:
    # Whoever asks for no credentials tells nobody what is wrong with it (/diagnostics).
    settings = {"BASIC_AUTH_USER": account.email, "BASIC_AUTH_PASS": account.password}
    settings["SAM2_VARIANT"] = variant
    print("Starting the backend ...", flush=True)
    return Backend(
        port=_port("PORT", 9090),
        label_studio_url=api.url,
        token=_personal_access_token(directory / "label-studio-token", api),
        cache_directory=directory / "cache",
        state_directory=directory / "tracks",
        log=directory / "logs" / "backend.log",
        env_file=directory / "env",
        settings=settings,
    )


def _personal_access_token(file: Path, api: LabelStudioApi) -> str:
    """The token of an earlier run, or a new one: Label Studio shows each only once."""
    if file.exists():
        token = file.read_text(encoding="ascii").strip()
        if api.accepts_token(token):
            return token
    try:
        token = api.new_personal_access_token()
    except ApiError as error:
        raise ApiError(
            f"no personal access token ({error}). Revoke the old one under Account & Settings "
            f"in Label Studio, or remove {file.parent} to begin anew"
        ) from error
    file.touch(mode=0o600)
    file.write_text(token, encoding="ascii")
    return token


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise OSError(f"{variable}: {text!r} must be a port between 1 and 65535")
    wanted = int(text)
    port = free_port(wanted)
    if port != wanted:
        print(f"Port {wanted} is in use; {port} is taken instead ({variable} chooses another).")
    return port


if __name__ == "__main__":
    sys.exit(main())
