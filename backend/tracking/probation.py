"""Which jobs may run beside others: those that were running when the process ended may not.

One of them may have ended it, and its neighbours are not to be counted out with it. So after a
crash each of these suspects runs alone until it has stored a mask. Jobs that stand in the way of a
suspect are suspended after the frame they are at and go on later.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from backend.job_state import MAX_CRASHES


class Probation:
    """Lets jobs in: many side by side, or one suspect alone. Safe to share between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beside: set[str] = set()
        self._alone: str | None = None
        self._suspects_waiting = 0
        self._ended: Counter[str] = Counter()  # replicas, by job, since it stored a mask

    def enter(self, job_id: str, *, suspect: bool, given_up: Callable[[], bool]) -> bool:
        """Wait until a job may run; False where it is ``given_up`` before. ``leave`` follows.

        Args:
            suspect: it may have ended the process; so may one at which two replicas ended.
        """
        with self._changed:
            suspect = suspect or self._ended[job_id] >= MAX_CRASHES - 1
            self._suspects_waiting += suspect
            try:
                while not self._may_run(suspect):
                    if given_up():
                        return False
                    self._changed.wait(1.0)
            finally:
                self._suspects_waiting -= suspect
            if suspect:
                self._alone = job_id
            else:
                self._beside.add(job_id)
            return True

    def ended_replica(self, job_id: str) -> int:
        """A replica, of several that there are, has ended while it worked at a job.

        Returns:
            How many have since the job stored a mask.
        """
        with self._changed:
            self._ended[job_id] += 1
            return self._ended[job_id]

    def acquit(self, job_id: str) -> None:
        """A job has stored a mask: if it is the suspect, others may run beside it."""
        self._ended.pop(job_id, None)
        if self._alone == job_id:
            with self._changed:
                self._alone = None
                self._beside.add(job_id)
                self._changed.notify_all()

    def must_yield(self, job_id: str) -> bool:
        """Whether a job that runs stands in the way of a suspect."""
        return self._suspects_waiting > 0 and self._alone != job_id

    def on_trial(self, job_id: str) -> bool:
        """Whether a job is the suspect that runs alone."""
        return self._alone == job_id

    def leave(self, job_id: str) -> None:
        """A job runs no more."""
        with self._changed:
            self._beside.discard(job_id)
            if self._alone == job_id:
                self._alone = None
            self._changed.notify_all()

    def _may_run(self, suspect: bool) -> bool:
        if self._alone is not None:
            return False
        return not self._beside if suspect else not self._suspects_waiting
