"""How the text of an environment variable becomes the value of a setting.

Each function raises ``ValueError``; its text completes "<variable>: <value> ..." where it begins
with "must", and else (what ``int`` and ``float`` raise) the value is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

MIB = 1024 * 1024


@dataclass(frozen=True)
class FinetuneProjects:
    """The projects of Label Studio that may have the model fine-tuned."""

    every: bool = False
    numbers: frozenset[int] = frozenset()

    def __contains__(self, project: int) -> bool:
        return self.every or project in self.numbers

    def __str__(self) -> str:
        return "all" if self.every else ",".join(str(number) for number in sorted(self.numbers))


def text(value: str) -> str:
    """As it is."""
    return value


def url(value: str) -> str:
    """An http or https address, without the slash at its end."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://label-studio:8080")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password")
    return value.rstrip("/")


def positive_int(value: str) -> int:
    """A whole number above 0."""
    number = int(value)
    if number <= 0:
        raise ValueError("must be a whole number above 0")
    return number


def image_size(value: str) -> int:
    """A side of the network's input, in pixels."""
    number = int(value)
    if number <= 0 or number % 32:
        raise ValueError("must be a multiple of 32, such as 512")
    return number


def num_maskmem(value: str) -> int:
    """A number of spatial memories."""
    number = int(value)
    if not 1 <= number <= 7:
        raise ValueError("must be 1 to 7")
    return number


def stride(value: str) -> int:
    """Every how many frames one is tracked."""
    number = int(value)
    if not 1 <= number <= 99:
        raise ValueError("must be 1 to 99")
    return number


def port(value: str) -> int:
    """A TCP port."""
    number = int(value)
    if not 0 < number < 65536:
        raise ValueError("must be a port between 1 and 65535")
    return number


def seconds(value: str) -> float:
    """A duration below a day."""
    number = float(value)
    if not 0 < number < 86400:
        raise ValueError("must be a number of seconds above 0")
    return number


def days(value: str) -> float:
    """A duration in days."""
    number = float(value)
    if not 0 < number < 100_000:
        raise ValueError("must be a number of days above 0")
    return number


def percent(value: str) -> float:
    """0 to 100."""
    number = float(value)
    if not 0 <= number <= 100:
        raise ValueError("must be a percentage between 0 and 100")
    return number


def mebibytes(value: str) -> int:
    """Bytes, from whole MiB."""
    return positive_int(value) * MIB


def path(value: str) -> Path:
    """A path; ``~`` is the home folder."""
    return Path(value).expanduser()


def comma_separated(value: str) -> tuple[str, ...]:
    """The parts between commas, without those that are empty."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def flag(value: str) -> bool:
    """True or false, in the usual spellings."""
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def device(value: str) -> str:
    """A device as PyTorch names it, or ``auto``."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, mps, cuda, or cuda: and a number")
    return value


def finetune_projects(value: str) -> FinetuneProjects:
    """Numbers of projects, or ``all``."""
    if value.lower() == "all":
        return FinetuneProjects(every=True)
    if not re.fullmatch(r"\s*\d{1,9}(\s*,\s*\d{1,9})*\s*", value):
        raise ValueError("must be numbers of projects, separated by commas, or all")
    return FinetuneProjects(numbers=frozenset(int(part) for part in value.split(",")))


def choice(*allowed: str) -> Callable[[str], str]:
    """Accept the ``allowed`` values only."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return parse
