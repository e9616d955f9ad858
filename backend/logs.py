"""Log lines: for people or for machines, each with its request and job, none with a secret.

Bodies are never logged. What libraries put into their messages and tracebacks (addresses with
signatures, Authorization headers) is struck out here, in the one place that every line passes, and
under the lock of logging: so lines are cut, and no pattern looks at a character more than a few
times.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger as GunicornBase

from backend.expected import cut
from backend.settings import Settings
from backend.threads.caller import caller

HIDDEN = "***"
MAX_ID = 128
_PLAIN = re.compile(r"[\w.,:/+@%&;*#~!?<>-]*")
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=-]{{1,{MAX_ID}}}")
# At DEBUG these log signatures; the hub's client and its httpx2 log every address.
_TALKATIVE = (
    "urllib3",
    "botocore",
    "boto3",
    "s3transfer",
    "httpx2",
    "httpcore2",
    "huggingface_hub",
)
LONGEST_TEXT = 4096
_LONGEST_HEAD, _LONGEST_TAIL = 4096, 12288  # of a traceback, whose last line says most
# A match that fails must not be tried again from the next character of the same run: each pattern
# takes a whole run or nothing of it (possessive quantifiers); the query is looked at afterwards.
_QUERY = re.compile(r"(?<=[\w/.%~-])\?[^\s\"'<>]*+")
_SECRETS = (
    (re.compile(r"(?<=://)[^\s/@\"']++@"), f"{HIDDEN}@"),
    (re.compile(r"\b(Bearer|Token|Basic)\s++[A-Za-z0-9._~+/=-]{8,}+"), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+){0,2}+"), HIDDEN),
)


def request_id(given: str | None) -> str:
    """The caller's own id where it is harmless in a header and a log line, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex[:16]


class Redactor:
    """Strikes secrets out of a text.

    Args:
        secrets: values of settings that must never be seen.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted((value for value in secrets if value), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """``text`` without secrets, cut to about ``LONGEST_TEXT`` characters."""
        return _struck_out(cut(self._without_known(text), LONGEST_TEXT))

    def traceback(self, text: str) -> str:
        """Likewise the beginning and the end of a traceback, whole where it is not long."""
        text = self._without_known(text)
        if len(text) <= _LONGEST_HEAD + _LONGEST_TAIL:
            return _struck_out(text)
        # What makes a secret known as one may stand before it: so twice as much is looked at as is
        # kept, and what is kept begins with a whole word.
        tail = _struck_out(text[-2 * _LONGEST_TAIL :])[-_LONGEST_TAIL:]
        return f"{_struck_out(cut(text, _LONGEST_HEAD))}\n{tail.partition(' ')[2]}"

    def _without_known(self, text: str) -> str:
        for value in self._secrets:
            text = text.replace(value, HIDDEN)
        return text


def _struck_out(text: str) -> str:
    text = _QUERY.sub(_without_values, text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _without_values(query: re.Match[str]) -> str:
    """A query may be a signature; without a value it is a question mark. What follows the bracket
    behind its last value does not belong to it."""
    before, equals, last = query[0].rpartition("=")
    return f"?{HIDDEN}{''.join(last.partition(')')[1:])}" if equals else before + last


class _Formatter(logging.Formatter):
    """What both forms share: the parts of a line, and the redaction."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """By name: everything there is to say, in the order it is written."""
        served = caller()
        moment = datetime.fromtimestamp(record.created, UTC)
        found = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": served.request_id,
            "project": served.project,
            "job": served.job,
            "run": served.run,
            **getattr(record, "fields", {}),
        }
        # Projects, and fields, are as whoever asks wrote them.
        found = {
            name: self._redact(value) if isinstance(value, str) else value
            for name, value in found.items()
        }
        if record.exc_info:
            found["exception"] = self._redact.traceback(self.formatException(record.exc_info))
        return {name: value for name, value in found.items() if value not in ("", None)}


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = json.dumps(self.parts(record), ensure_ascii=False, default=str)
        return _printable(line)  # JSON itself leaves a terminal's 8-bit codes as they are


class TextFormatter(_Formatter):
    """For a terminal: time, level, logger, message, then what else is known in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        parts = self.parts(record)
        exception = parts.pop("exception", None)
        head = " ".join(str(parts.pop(name, "")) for name in ("time", "level", "logger"))
        message = _printable(" ".join(str(parts.pop("message", "")).splitlines()))
        rest = " ".join(f"{name}={_quoted(str(value))}" for name, value in parts.items())
        line = f"{head}: {message}" + (f" [{rest}]" if rest else "")
        if exception is None:
            return line
        # Indented, because the text of an exception may hold what looks like a line of the log.
        return "\n".join([line, *(f"    {_printable(part)}" for part in exception.splitlines())])


def _quoted(value: str) -> str:
    """A value that cannot be taken for several, or for the end of all."""
    return value if _PLAIN.fullmatch(value) else _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """``text`` with what would move a terminal's cursor written out, as JSON does it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _written_out(c) for c in text)


def _written_out(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(char)[1:-1]


def configure(settings: Settings) -> None:
    """Send everything that is logged in this process to the standard error stream."""
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(Redactor(settings.secrets())))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class GunicornLogger(GunicornBase):
    """gunicorn's own messages in the same form, through the same handler."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure(Settings.from_env(os.environ))
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
