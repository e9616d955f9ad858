"""A finding: how bad, about what, the sentence, the fix; and what was found last, for pages, which
look more often than the doctor can."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 300.0
_AT_MOST_EVERY = 10.0
_OF_A_PROJECT = "project"  # that none was looked at is no news here


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


_BAD = {Level.BROKEN: 0, Level.WARNING: 1}

ok = partial(Finding, Level.OK)
warning = partial(Finding, Level.WARNING)
broken = partial(Finding, Level.BROKEN)


def setting_problem(line: str) -> Finding:
    """A line of what is wrong with the settings; most begin with the variable."""
    variable, _, text = line.partition(": ")
    named = text and " " not in variable
    return broken(variable, text) if named else broken("settings", line)


class Diagnosis:
    """Asks the doctor when somebody wants to know, at most every few seconds.

    Args:
        ask: see ``diagnose``; takes seconds, and asks other machines.
    """

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._begun = float("-inf")
        self._looking = False
        self._found: dict[str, Any] = {"at": None, "problems": [], "well": 0}

    def latest(self) -> dict[str, Any]:
        """What was found last, the worst first; where that is old, the doctor looks again."""
        self.look(_FRESH_SECONDS)
        return {**self._found, "looking": self._looking}

    def look(self, age: float = _AT_MOST_EVERY) -> None:
        """Have the doctor look again, unless it has begun to less than ``age`` seconds ago."""
        with self._lock:
            if self._looking or time.monotonic() - self._begun < age:
                return
            self._looking, self._begun = True, time.monotonic()
        threading.Thread(target=self._look, name="diagnosis", daemon=True).start()

    def _look(self) -> None:
        try:
            findings = [
                each for each in self._ask()["findings"] if each["subject"] != _OF_A_PROJECT
            ]
            bad = [each for each in findings if each["level"] in _BAD]
            bad.sort(key=lambda each: _BAD[each["level"]])
            self._found = {"at": time.time(), "problems": bad, "well": len(findings) - len(bad)}
        except Exception:  # thread boundary: what was found before stays
            logger.exception("the doctor failed")
        finally:
            self._looking = False
