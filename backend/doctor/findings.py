"""A finding: how bad, about what, the sentence, the fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, perhaps not as meant
    BROKEN = "broken"  # something does not work


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what it is about, in a word or two.
        text: what was found, without a full stop.
        fix: what to do; empty where there is nothing to do, or where the text says it.
    """

    level: Level
    subject: str
    text: str
    fix: str = ""

    @property
    def line(self) -> str:
        words = " ".join(f"{self.subject}: {self.text}".split()).rstrip(".")
        return f"{self.level:<8} {words}" + (f"; {' '.join(self.fix.split())}" if self.fix else "")


ok = partial(Finding, Level.OK)
warning = partial(Finding, Level.WARNING)
broken = partial(Finding, Level.BROKEN)


def setting_problem(line: str) -> Finding:
    """A line of what is wrong with the settings; most begin with the variable."""
    variable, _, text = line.partition(": ")
    named = text and " " not in variable
    return broken(variable, text) if named else broken("settings", line)
