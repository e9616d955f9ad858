"""Reading single values out of JSON that somebody else wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Result = dict[str, Any]
"""One item of a ``result`` list: a region, or a part of one, or a text."""
Results = list[Result]

_MAX_PERCENT = 1000.0  # ten pictures away: not a place on this one
_PATH_STEP = re.compile(r"[^.\[\]]+")
_TRUE, _FALSE = (1, "1", "true", "yes"), (0, "0", "false", "no")
_INDEX = re.compile(r"[0-9]{1,9}")
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
_HALF = re.compile(
    r"""
    (?: [^\\\ud800-\udfff]++                                         # plain text
      | \\ (?: [^u] | u (?! [dD][89a-fA-F] ) )                         # other escapes
      | \\u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2}  # both halves
    )++
    | ( \\u[dD][89a-fA-F][0-9a-fA-F]{2} | [\ud800-\udfff] )
    """,
    re.VERBOSE,
)


def parse_json(data: bytes) -> Any:
    """The JSON that ``data`` holds, its texts in characters that can be written, stored and hashed.

    JSON may name halves of characters (lone surrogates, ``\\ud800``), which are no text in any
    encoding: each becomes U+FFFD, as in a browser that sends them.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    text = data.decode(json.detect_encoding(data), "surrogatepass")
    if _SURROGATE.search(text):
        text = _HALF.sub(lambda found: "\ufffd" if found[1] else found[0], text)
    return json.loads(text)


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


def percent(item: Mapping[str, object], key: str) -> float:
    """The position or length under ``key``, in percent of the picture.

    Raises:
        ValueError: it is no number, or far outside; the message calls it ``key``.
    """
    found = number(item.get(key))
    if found is None:
        raise ValueError(f"{key} is not a number")
    if abs(found) > _MAX_PERCENT:
        raise ValueError(f"{key} is far outside the picture")
    return found


def flag(value: object) -> bool | None:
    """True or False, also as 0, 1, "true", "no" and the like (any case); None for anything else."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word in _TRUE:
        return True
    return False if word in _FALSE else None


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


def item_value(item: Mapping[str, object]) -> Mapping[str, object]:
    """The ``value`` of a result item; empty where it has none."""
    value = item.get("value")
    return value if isinstance(value, Mapping) else {}


def look_up(data: Mapping[str, object], path: str) -> object:
    """The value at ``a.b[0]`` in a task's data; a key spelled like the whole path goes first, as
    in the editor (lodash ``get``).

    Raises:
        KeyError: there is none.
    """
    if path in data:
        return data[path]
    found: object = data
    for step in _PATH_STEP.findall(path):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list | tuple) and _INDEX.fullmatch(step) and int(step) < len(found):
            found = found[int(step)]
        else:
            raise KeyError(path)
    return found
