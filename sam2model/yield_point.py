"""Where a computation lets others go first.

On a CPU a tracked frame takes seconds. Its parts, none longer than one attention or so, call
:func:`yield_point` between them; whoever runs it says what happens there (a waiting click is
answered, or the frame is given up by an exception). Nothing that a call of the same model would
change is held at such a point, so the masks are the same whatever goes between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CALLED: ContextVar[Callable[[], None] | None] = ContextVar("called_at_yield_points", default=None)


def yield_point() -> None:
    """Call what the innermost :func:`yielding_to` of this thread was given; nothing outside."""
    call = _CALLED.get()
    if call is not None:
        call()


@contextmanager
def yielding_to(call: Callable[[], None] | None) -> Iterator[None]:
    """Have ``call`` called at every yield point inside, with yield points of its own ignored.

    Args:
        call: may raise to end the computation; None to go on without a call.
    """
    token = _CALLED.set(None if call is None else lambda: _call(call))
    try:
        yield
    finally:
        _CALLED.reset(token)


def _call(call: Callable[[], None]) -> None:
    with yielding_to(None):
        call()
