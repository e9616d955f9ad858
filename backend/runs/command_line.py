"""What the commands of ``python -m backend`` share."""

from __future__ import annotations

import argparse
import sys
from typing import Protocol, TextIO

from backend.engine.building import ModelChoice
from backend.expected import ExpectedError
from backend.labelstudio.client import LabelStudioClient
from backend.media.resolver import MediaResolver
from backend.media.s3 import S3
from backend.predict.dispatch import Dispatcher
from backend.settings import Settings
from backend.tracking.store import TrackStore

API_SECONDS = 120.0  # a page of tasks can hold tens of megabytes of masks


class CommandError(ExpectedError):
    """Why a command cannot go on, in one line that says what to do."""


class Parts(Protocol):
    """What a command is handed: the settings, and what is made from them when it is asked for."""

    settings: Settings

    def label_studio(self, timeout: float = ...) -> LabelStudioClient | None: ...

    def s3(self) -> S3: ...

    def media(self, label_studio: LabelStudioClient | None) -> MediaResolver: ...

    def tracks(self) -> TrackStore: ...

    def base_model(self) -> ModelChoice: ...

    def model(self) -> ModelChoice: ...

    def batch_service(self, *, jobs: int, fetch_seconds: float) -> Dispatcher: ...


def connect(parts: Parts) -> LabelStudioClient:
    """The Label Studio of the settings.

    Raises:
        CommandError: there is none in the settings.
        LabelStudioError: its address or key cannot be used.
    """
    client = parts.label_studio(timeout=API_SECONDS)
    if client is None:
        raise CommandError(
            "No Label Studio is configured: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
        )
    return client


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line, to stderr unless another stream is given, at once."""
    out = stream or sys.stderr
    out.write(text + "\n")
    out.flush()


def positive_number(text: str) -> int:
    """A whole number above 0, for ``argparse``."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return number
