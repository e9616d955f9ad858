"""Reading single values out of JSON that somebody else wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping


def number(value: object) -> float | None:
    """A finite number, also written as text; None for anything else, NaN and infinity too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole_number(value: object) -> int | None:
    """A whole number of at least 0, also as text or as 3.0; None for anything else."""
    found = number(value)
    if found is None or found < 0 or found != int(found):
        return None
    return int(found)


def flag(value: object) -> bool | None:
    """True or False, also as 0, 1, "true", "false" (any case); None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("true", "1", "yes"):
            return True
        if word in ("false", "0", "no"):
            return False
    return None


def text(value: object) -> str | None:
    """A text that is not empty, or a number as text (ids are sometimes numbers)."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**20:
        return str(value)
    return value if isinstance(value, str) and value else None


def texts(value: object) -> tuple[str, ...]:
    """The texts of a list; a single text is a list of one."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return ()
    return tuple(item for item in value if isinstance(item, str) and item)


def mappings(value: object) -> Iterator[Mapping[str, object]]:
    """The objects of a list of objects; anything else is passed over."""
    if isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Mapping):
                yield item


def task_name(task: Mapping[str, object]) -> str:
    """The task's id as text, for keys and log lines; ``None`` where Label Studio sent none.

    Who sends something else than a number or a name does not get it into the log.
    """
    name = task.get("id")
    return str(name)[:60] if isinstance(name, (int, str)) else "None"
