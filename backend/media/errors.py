"""Why media could not be had, in words for the person who waits for it."""

from __future__ import annotations

import enum
import re
from functools import partial
from typing import Any

from backend.expected import ExpectedError

_SHOWN = 120  # characters of an address in a message
_BUCKET_KEY = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class Reason(enum.Enum):
    """The kinds of failure; the value labels them in metrics."""

    REFUSED = "refused"  # by our own rules: address, scheme, path
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    FAILED = "failed"  # the source answered something unusable
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    DAMAGED = "damaged"
    STORAGE = "storage"  # our own disk


class MediaError(ExpectedError):
    """Media could not be fetched or decoded.

    ``str()`` is the sentence for the annotator followed by the hint. Neither ever holds a
    credential or the query of a URL, which may be a signature.

    Attributes:
        sentence: what is wrong.
        hint: what to do about it; may be empty.
        reason: which kind of failure it is.
    """

    def __init__(self, sentence: str, hint: str = "", *, reason: Reason) -> None:
        super().__init__(f"{sentence} {hint}".strip())
        self.sentence = sentence
        self.hint = hint
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), reason=self.reason), (self.sentence, self.hint)


def shown(uri: str) -> str:
    """An address as it may appear in messages and logs: no query, no user name, not too long."""
    if uri[:5].lower() == "data:":
        return "a data: URI"
    # Bucket keys may contain ``?`` and ``#``; there they are part of the name.
    text = uri if _BUCKET_KEY.match(uri) else uri.partition("?")[0].partition("#")[0]
    scheme, separator, rest = text.partition("://")
    if separator:
        authority, slash, path = rest.partition("/")
        text = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _SHOWN else f"{text[:60]}...{text[-55:]}"
