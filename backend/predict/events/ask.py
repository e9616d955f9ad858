"""What a request of the protocol asks for, read from a context that may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.labelstudio.json_values import number, text, whole_number
from backend.tracking.spans import Direction

DEFAULT_WINDOW = 20  # frames that a prewarm asks for where it does not say, as in the example
MAX_WINDOW = 32  # an embedding takes up to 16 MiB, and others want the cache too
MAX_SECONDS = 1e6  # eleven days: later than any video, and harmless to multiply


class Event(StrEnum):
    """``params.context.event``."""

    CAPABILITIES = "capabilities"
    PREWARM = "prewarm"
    PREDICT = "predict"
    TRACK = "track"
    TRACK_PROGRESS = "track_progress"
    TRACK_CANCEL = "track_cancel"
    RELEASE = "release"


@dataclass(frozen=True)
class Where:
    """A place in a video as the editor writes it.

    Attributes:
        seconds: on the browser's clock; it goes before the number.
        frame: the editor's, from 1.
    """

    seconds: float | None = None
    frame: int | None = None

    @property
    def is_given(self) -> bool:
        """Whether the editor said anything."""
        return self.seconds is not None or self.frame is not None


@dataclass(frozen=True)
class Ask:
    """The context of a request but for its prompts.

    Attributes:
        where: the frame on screen.
        window: frames to encode ahead, 0 to ``MAX_WINDOW``.
        max_frames, max_seconds: how far a track goes from the frame on screen; None: to the end.
        session: of ``track_progress`` and ``track_cancel``; "" where it is missing.
        cursor: where reading goes on; None: where the last reading stopped.
    """

    where: Where
    window: int
    direction: Direction
    max_frames: int | None
    max_seconds: float | None
    session: str
    cursor: int | None


def event_of(context: object) -> Event | None:
    """The event a context names, or None for one of the ordinary requests.

    A context with a place in the video and no event is a ``predict`` (README of the example).
    """
    if not isinstance(context, Mapping):
        return None
    written = context.get("event")
    if written is None:
        return Event.PREDICT if read_where(context).is_given else None
    return Event(written) if isinstance(written, str) and written in list(Event) else None


def read_ask(context: object) -> Ask:
    """Read a context; what cannot be used counts as not given."""
    context = context if isinstance(context, Mapping) else {}
    window = whole_number(context.get("window"))
    milliseconds = number(context.get("max_duration_ms"))
    return Ask(
        where=read_where(context),
        window=DEFAULT_WINDOW if window is None else min(window, MAX_WINDOW),
        direction=_direction(context.get("direction")),
        max_frames=whole_number(context.get("max_frames")),
        max_seconds=None if milliseconds is None else _seconds(milliseconds),
        session=text(context.get("session_id")) or "",
        cursor=whole_number(context.get("cursor")),
    )


def read_where(item: Mapping[str, object]) -> Where:
    """The place that a context, or a prompt in it, is about."""
    milliseconds = number(item.get("time_ms"))
    seconds = None if milliseconds is None else _seconds(milliseconds)
    return Where(seconds, whole_number(item.get("frame")))


def _seconds(milliseconds: float) -> float:
    return min(max(milliseconds / 1000, 0.0), MAX_SECONDS)


def _direction(written: object) -> Direction:
    directions = {"backward": Direction.BACK, "both": Direction.BOTH}
    return (
        directions.get(written, Direction.FORWARD)
        if isinstance(written, str)
        else Direction.FORWARD
    )
