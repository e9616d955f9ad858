"""Results of tracks on their way to Label Studio: tried again until it has taken them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.engine.engine import EngineError
from backend.labelstudio.client import LabelStudioError
from backend.media.errors import MediaError
from backend.pixels.video_limits import VideoError
from backend.threads.caller import serving
from backend.threads.fair_queue import Busy
from backend.tracking.database import StoreError
from backend.tracking.store import Job, TrackStore

logger = logging.getLogger(__name__)

# What may be over a while later: a server that restarts, a storage that is slow.
_PASSING = (Busy, EngineError, LabelStudioError, MediaError, StoreError, VideoError)
_REFUSED = (400, 404)  # the result, or the task is gone
_PAUSES_S = (10.0, 30.0, 60.0, 300.0, 900.0)
_GIVE_UP_S = 7 * 86_400.0
_END_S = 5.0


@dataclass(frozen=True)
class DeliveryWait:
    """A result that waits for another attempt.

    Attributes:
        seconds: until then.
        failures: attempts before.
        reason: why the last one failed.
    """

    job_id: str
    seconds: float
    failures: int
    reason: str


class Deliveries:
    """Hands over the results of ended jobs, and does it again where that failed.

    What waits when the service stops is handed over after its next start. A result may come
    twice where Label Studio stored it and could not say so.

    Args:
        deliver: stores a job's result in Label Studio.
        pauses: seconds before each further attempt; the last one is repeated.
    """

    def __init__(
        self,
        store: TrackStore,
        deliver: Callable[[Job], None],
        *,
        pauses: Sequence[float] = _PAUSES_S,
    ) -> None:
        self._store, self._deliver, self._pauses = store, deliver, pauses
        self._changed = threading.Condition()
        # By job: when it is attempted next (``time.monotonic``), how often it failed, and why.
        self._waiting: dict[str, tuple[float, int, str]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Results that wait for another attempt."""
        return len(self._waiting)

    def waits(self) -> list[DeliveryWait]:
        """What waits for another attempt, the next one first."""
        with self._changed:
            found = list(self._waiting.items())
        now = time.monotonic()
        waits = [
            DeliveryWait(job_id, max(0.0, at - now), failures, reason)
            for job_id, (at, failures, reason) in found
        ]
        return sorted(waits, key=lambda each: each.seconds)

    def promise(self, job: Job) -> None:
        """Hand over the result of a job that ended without being asked to deliver it; raises
        nothing."""
        try:
            self._store.make_due(job.id)
        except StoreError as error:  # it is tried now, if not after a restart
            logger.error("job %s: that its result is due cannot be stored: %s", job.id, error)
        self.attempt(job)

    def resume(self) -> None:
        """Hand over, in the background, what was due when an earlier process stopped."""
        try:
            due = self._store.due()
        except StoreError as error:
            logger.error("results that were not delivered cannot be looked up: %s", error)
            return
        for job in due:
            self._wait(job.id, 0.0, 0, "the service stopped before it was stored")

    def close(self) -> None:
        """Stop; an attempt under way gets a moment to end. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(_END_S)

    def attempt(self, job: Job, failures: int = 0) -> None:
        """Hand over the result of a job that ended, now, after ``failures`` attempts; raises
        nothing."""
        try:
            self._deliver(job)
        except _PASSING as error:
            refused = isinstance(error, LabelStudioError) and error.status in _REFUSED
            if not refused and time.time() - job.updated < _GIVE_UP_S:
                pause = self._pauses[min(failures, len(self._pauses) - 1)]
                words = "job %s: its result could not be delivered, again in %.0f s: %s"
                logger.warning(words, job.id, pause, error)
                self._wait(job.id, pause, failures + 1, str(error))
                return
            words = "job %s: its result could not be delivered; its masks are kept: %s"
            logger.error(words, job.id, error)
        except Exception:  # thread boundary: due still, for a start with the defect mended
            logger.exception("job %s: its result could not be delivered", job.id)
            return
        try:
            self._store.settle(job.id)
        except StoreError as error:
            logger.error("job %s: that it is delivered cannot be stored: %s", job.id, error)

    def _wait(self, job_id: str, pause: float, failures: int, reason: str) -> None:
        with self._changed:
            if self._closed:
                return  # due at the next start
            self._waiting[job_id] = time.monotonic() + pause, failures, reason
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            job_id, failures = found
            try:
                due = {job.id: job for job in self._store.due()}
            except StoreError as error:
                logger.error("job %s: what is due cannot be looked up: %s", job_id, error)
                self._wait(job_id, self._pauses[-1], failures, str(error))
                continue
            if job := due.get(job_id):  # otherwise its track was cleared meanwhile
                with serving(project=job.project, job=job_id):
                    self.attempt(job, failures)

    def _next(self) -> tuple[str, int] | None:
        """The job to attempt now, when its time has come; None at the end."""
        with self._changed:
            while not self._closed:
                if not self._waiting:
                    self._changed.wait()
                    continue
                job_id, (at, failures, _) = min(self._waiting.items(), key=lambda item: item[1])
                left = at - time.monotonic()
                if left <= 0:
                    del self._waiting[job_id]
                    return job_id, failures
                self._changed.wait(left)
        return None
