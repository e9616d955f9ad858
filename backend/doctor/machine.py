"""This machine: its settings and its disks."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.doctor.findings import Finding, broken, ok, warning
from backend.labelstudio.client import LabelStudioError
from backend.runs.command_line import Parts
from backend.setting_values import MIB
from backend.settings import Settings, SettingsError

LABEL_STUDIO_SECONDS = 100.0  # after which it gives up on /predict
NEEDED_BYTES = 100 * MIB  # for the state of jobs, and one file in the cache


def start_problems(parts: Parts) -> list[str]:
    """Why the service could not work with these settings on this machine, in one line each;
    nothing is asked of other machines, which may come up later."""
    return [*_folder_problems(parts.settings), *_credential_problems(parts)]


def settings_findings(parts: Parts) -> Iterator[Finding]:
    """Settings that cannot work on this machine, or hardly anybody means."""
    settings = parts.settings
    for problem in start_problems(parts):
        variable, _, text = problem.partition(": ")
        named = variable.isupper() and bool(text)
        yield broken(variable if named else "settings", text if named else problem)
    if settings.basic_auth_user is None and settings.auth_token is None:
        yield warning(
            "access",
            f"whoever reaches port {settings.port} may use the backend",
            "set BASIC_AUTH_USER and BASIC_AUTH_PASS, and give them to Label Studio too",
        )
    budgets = {
        "CLICK_BUDGET_SECONDS": settings.click_budget_seconds,
        "TRACK_BUDGET_SECONDS": settings.track_budget_seconds,
        "RETRIEVE_BUDGET_SECONDS": settings.retrieve_budget_seconds,
    }
    for variable, seconds in budgets.items():
        if seconds >= LABEL_STUDIO_SECONDS:
            yield warning(
                variable,
                f"{seconds:.0f} s is longer than Label Studio waits",
                f"set it below {LABEL_STUDIO_SECONDS:.0f}",
            )
    if settings.label_studio_url is None:
        yield warning(
            "LABEL_STUDIO_URL",
            "it is not set, so uploads and storages of Label Studio cannot be read",
            "set it and LABEL_STUDIO_API_KEY",
        )


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """Whether there is room for what may be stored; that the folders can be written to is among
    the settings' problems."""
    for variable, written in (("CACHE_DIR", settings.cache_dir), ("STATE_DIR", settings.state_dir)):
        try:
            folder = written.expanduser()
            free = shutil.disk_usage(folder).free
        except (OSError, RuntimeError):
            continue  # told by start_problems
        if free < NEEDED_BYTES:
            yield broken(variable, f"{folder} has {free // MIB} MiB left", "make room on that disk")
            continue
        if variable == "CACHE_DIR":
            limit = settings.media_cache_bytes
            growth = limit - min(limit, _size(folder))
            if growth > free:
                yield warning(
                    variable,
                    f"the cache may grow by {growth // MIB} MiB, and {folder} has "
                    f"{free // MIB} MiB left",
                    "lower MEDIA_CACHE_MB or make room on that disk",
                )
                continue
        yield ok(variable, f"{folder} can be written to, {free // MIB} MiB left")


def _folder_problems(settings: Settings) -> Iterator[str]:
    for variable, folder in (("CACHE_DIR", settings.cache_dir), ("STATE_DIR", settings.state_dir)):
        try:
            _try_to_write(folder.expanduser())
        except OSError as error:
            yield f"{variable}: {folder} must be a folder to write to ({error.strerror})"
        except RuntimeError:  # of expanduser
            yield f"{variable}: {folder} must be an absolute path where there is no home folder"


def _try_to_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(tempfile.TemporaryFile(dir=folder)) as file:
        file.write(b"x")


def _credential_problems(parts: Parts) -> Iterator[str]:
    try:
        parts.label_studio()
    except LabelStudioError as error:
        yield str(error)
    try:
        parts.s3()
    except SettingsError as error:
        yield str(error)


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:
                continue
    return total
