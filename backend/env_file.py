"""Files that hold settings: ``NAME=value`` lines, as Docker Compose and shells read them too."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream

from backend.settings import Settings, SettingsError

DEFAULT = Path(".env")  # of the working folder
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=~-]*")


def read_env_file(path: Path) -> dict[str, str]:
    """By name: the values in a file, as python-dotenv reads them; nothing is expanded.

    Raises:
        SettingsError: the file cannot be read, or a line is not of that form; one line each,
            without what may be a secret.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: must be text") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    found, problems = {}, []
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            text = binding.original.string
            line = binding.original.line + len(text) - len(text.lstrip("\n"))
            problems.append(f"{path}: line {line} must have the form NAME=value")
        elif binding.key is not None:
            found[binding.key] = binding.value or ""
    if problems:
        raise SettingsError("\n".join(problems))
    return found


def env_file_text(values: Mapping[str, str], head: str) -> str:
    """A file that ``read_env_file`` reads as ``values``, none of which holds a line break or both
    kinds of quotes; ``head`` is its comment."""
    return f"# {head}\n" + "".join(f"{name}={_quoted(each)}\n" for name, each in values.items())


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return f'"{value}"' if "'" in value else f"'{value}'"


def example() -> str:
    """Every setting as a comment, with its meaning and its default."""
    parts = [
        "# Settings of the SAM 2 backend. Take the # away where you set one; secrets may stand",
        "# in files instead, named by the variable with _FILE at its end.",
    ]
    for group, rows in itertools.groupby(Settings().rows(), key=lambda row: row.group):
        parts += ["", f"# --- {group} ---"]
        for row in rows:
            parts += ["", f"# {row.meaning}", f"#{row.variable}={row.value}"]
    return "\n".join(parts) + "\n"
