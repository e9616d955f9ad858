"""On whose behalf a thread works: for log lines, and for fair shares of the model.

The caller is set where a request or a job begins and goes along into the threads that work for
it (``keep_caller``), so that no function in between has to hand it on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Caller:
    """Who is served; empty where it is not known.

    Attributes:
        request_id: of the HTTP request, as sent by the caller or made up here.
        project: Label Studio's ``<id>.<creation time>``.
        person: who works in the editor, as far as the request says it.
        job: id of the tracking job.
        run: id of the run through a whole project.
        begun: when the HTTP request was here whole, on ``time.monotonic``; 0 outside of one.
    """

    request_id: str = ""
    project: str = ""
    person: str = ""
    job: str = ""
    run: str = ""
    begun: float = 0.0

    @property
    def owner(self) -> str:
        """Who takes turns with others: a project; a run is nobody's neighbour in its own."""
        return f"{self.project} run" if self.run else self.project


_NOBODY = Caller()
_CALLER: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def caller() -> Caller:
    """On whose behalf this thread works now."""
    return _CALLER.get()


@contextmanager
def serving(
    *,
    request_id: str = "",
    project: str = "",
    person: str = "",
    job: str = "",
    run: str = "",
    begun: float = 0.0,
) -> Iterator[Caller]:
    """Work for somebody inside the block; what is left empty stays as it is."""
    before = caller()
    now = Caller(
        request_id=request_id or before.request_id,
        project=project or before.project,
        person=person or before.person,
        job=job or before.job,
        run=run or before.run,
        begun=begun or before.begun,
    )
    token = _CALLER.set(now)
    try:
        yield now
    finally:
        _CALLER.reset(token)


def reply_by(seconds: float) -> float:
    """When, on ``time.monotonic``, a request that may take ``seconds`` must be answered: counted
    from when it was here whole, for waiting for a thread and reading JSON are part of that."""
    return (caller().begun or time.monotonic()) + seconds


def log_place() -> str:
    """Where the log tells more, for the end of a sentence; empty outside of a request."""
    now = caller()
    return f" (request {now.request_id})" if now.request_id else ""


def keep_caller(call: Callable[P, T]) -> Callable[P, T]:
    """``call`` as it will run in another thread: for the same caller."""
    return partial(copy_context().run, call)
