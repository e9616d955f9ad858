"""The command line: ``python -m backend serve``, and the commands beside the service."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from backend import __version__, state
from backend.cluster.deploy import join
from backend.doctor import doctor
from backend.doctor.machine import start_problems
from backend.env_file import DEFAULT, example, read_env_file
from backend.expected import ExpectedError
from backend.export import export_command, frames
from backend.logs import configure
from backend.runs import connect, preannotate
from backend.settings import Settings, SettingsError
from backend.wiring import Wiring


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog=_program())
    parser.add_argument("--version", action="version", version=f"label-studio-sam2 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="start the service (settings from the environment)")
    joined = commands.add_parser("join", help="give this machine to a cluster, until it is stopped")
    joined.add_argument("head", metavar="HOST:PORT", help="of the cluster's first machine")
    shown = commands.add_parser("settings", help="print the effective settings, secrets hidden")
    shown.add_argument(
        "--example", action="store_true", help="print a commented .env file with the defaults"
    )
    for command in (connect, doctor, export_command, frames, preannotate, state):
        command.add_parser(commands)
    for each in (parser, *commands.choices.values()):
        each.add_argument(
            "--env-file",
            type=Path,
            default=argparse.SUPPRESS,
            metavar="FILE",
            help="settings that go before those of the environment (without it: a .env file in "
            "the working folder, for what the environment does not set)",
        )
    parsed = parser.parse_args(arguments)
    if parsed.command == "settings" and parsed.example:
        print(example(), end="")
        return 0
    try:
        _read_env_file(getattr(parsed, "env_file", None))
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        if parsed.command == "doctor":
            return doctor.refuse_settings(error)
        print(error, file=sys.stderr)
        return 2
    if parsed.command == "settings":
        for row in settings.rows():
            print(f"{row.variable}={row.value}  # {row.meaning}")
        return 0
    if parsed.command == "serve":
        return _serve(settings)
    try:
        if parsed.command == "join":
            configure(settings)
            return join(settings, parsed.head)
        return int(parsed.run(parsed, Wiring(settings)))
    except ExpectedError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; started again, it goes on", file=sys.stderr)
        return 130


def script() -> None:
    """The console command ``label-studio-sam2``, and ``python -m backend``."""
    sys.exit(main())


def _program() -> str:
    called = Path(sys.argv[0]).name
    return "python -m backend" if called in ("__main__.py", "") else called


def _read_env_file(given: Path | None) -> None:
    """Take the settings of a file into the environment, where the service and the libraries that
    have settings of their own (boto3, huggingface_hub) look for them.

    Raises:
        SettingsError: the file cannot be read.
    """
    if given is not None:
        os.environ.update(read_env_file(given))
    elif DEFAULT.is_file():
        found = read_env_file(DEFAULT)
        os.environ.update({name: found[name] for name in found if not os.environ.get(name)})


def _serve(settings: Settings) -> int:
    """Become gunicorn: one process that holds the model, several request threads."""
    wiring = Wiring(settings)
    problems = list(start_problems(wiring))
    try:
        if not problems:
            wiring.check_alone()
    except ExpectedError as error:
        problems.append(str(error))
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    configure(settings)
    logging.getLogger("backend").info("label-studio-sam2 %s starts", __version__)
    os.execv(  # noqa: S606 - the arguments are this interpreter and checked settings
        sys.executable,
        [
            sys.executable,
            "-m",
            "gunicorn",
            "backend.wsgi:application()",
            f"--bind={settings.bind}",
            "--workers=1",
            "--worker-class=backend.web.connections.Worker",
            "--timeout=120",
            "--graceful-timeout=8",  # all ends within 10 seconds, the grace of docker stop
            "--logger-class=backend.logs.GunicornLogger",
            "--no-control-socket",
        ],
    )


if __name__ == "__main__":
    script()
