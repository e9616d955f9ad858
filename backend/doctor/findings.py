"""A finding: how bad, about what, the sentence, the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

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
        """The finding as one line."""
        words = " ".join(f"{self.subject}: {self.text}".split()).rstrip(".")
        return f"{self.level:<8} {words}" + (f"; {' '.join(self.fix.split())}" if self.fix else "")

    @property
    def as_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return {name: str(value) for name, value in asdict(self).items()}


def ok(subject: str, text: str) -> Finding:
    """Something that is as it should be."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, fix: str = "") -> Finding:
    """Something that works and deserves a look."""
    return Finding(Level.WARNING, subject, text, fix)


def broken(subject: str, text: str, fix: str = "") -> Finding:
    """Something that does not work."""
    return Finding(Level.BROKEN, subject, text, fix)


def setting_problem(line: str) -> Finding:
    """A line of what is wrong with the settings; most begin with the variable."""
    variable, _, text = line.partition(": ")
    named = text and " " not in variable
    return broken(variable, text) if named else broken("settings", line)


def any_broken(findings: Iterable[Finding]) -> bool:
    """Whether something does not work."""
    return any(finding.level is Level.BROKEN for finding in findings)


def redacted(finding: Finding, redact: Callable[[str], str]) -> Finding:
    """The finding with whatever looks like a secret struck out; none should hold one."""
    return replace(finding, text=redact(finding.text), fix=redact(finding.fix))
