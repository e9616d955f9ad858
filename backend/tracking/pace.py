"""How fast a job goes, measured on its last frames."""

from __future__ import annotations

from collections import deque

MEASURED_FRAMES = 30


class Pace:
    """Masks over time of one run of a job; frames of earlier runs and waiting do not count."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=MEASURED_FRAMES)

    def mark(self, now: float, done: int) -> None:
        """``done`` masks are there at ``now``, in seconds of any clock."""
        self._marks.append((now, done))

    def seconds_left(self, total: int) -> float | None:
        """What the masks up to ``total`` will take; None before two frames are done."""
        if len(self._marks) < 2:
            return None
        (start, before), (end, done) = self._marks[0], self._marks[-1]
        if done <= before:
            return None
        return (end - start) / (done - before) * (total - done)
