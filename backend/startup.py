"""What can be known to be wrong before the server starts, in one line each."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.settings import Settings, SettingsError
from backend.wsgi import ca_bundle, s3_settings


def start_problems(settings: Settings) -> list[str]:
    """Why the service could not work with ``settings`` on this machine; nothing is asked of other
    machines, which may come up later."""
    return [*_folders(settings), *_credentials(settings)]


def _folders(settings: Settings) -> Iterator[str]:
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


def _credentials(settings: Settings) -> Iterator[str]:
    if settings.label_studio_url is not None:
        try:
            LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
        except LabelStudioError as error:
            yield str(error)
    try:
        s3_settings(settings)
        ca_bundle(settings)
    except SettingsError as error:
        yield str(error)
