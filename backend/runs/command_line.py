"""What the commands of ``python -m backend`` share."""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from backend.expected import ExpectedError


class CommandError(ExpectedError):
    """Why a command cannot go on, in one line that says what to do."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line, to stderr unless another stream is given, at once."""
    print(f"{text}\n", end="", file=stream or sys.stderr, flush=True)


def positive_number(text: str) -> int:
    """A whole number above 0, for ``argparse``."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return number
