"""Tracks of the protocol: jobs that are read by cursor, cancelled, released, and never forgotten
before the editor had its chance to read them."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backend.engine.pixel_prompts import pixel_prompt
from backend.labelstudio.geometry import Box
from backend.labelstudio.json_values import Results
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import no_masks
from backend.pixels.open_videos import OpenVideos
from backend.threads.fair_queue import Busy
from backend.tracking.database import StoreError
from backend.tracking.runner import JobRunner, Work
from backend.tracking.spans import Direction, Goal, plan_goal
from backend.tracking.store import Job, TrackedMask, TrackStore
from backend.tracking.track_commands import JobRequest
from backend.tracking.video import video_work

logger = logging.getLogger(__name__)

KIND = "interactive"
ABANDONED_SECONDS = 120.0  # a track that nobody asks about is cancelled
KEPT_SECONDS = 1800.0  # a track that ended can be read this long after the last question
MAX_RUNNING = 16
MAX_SESSIONS = 128
BATCH_FRAMES = 32  # in one reply; the example's
WAIT_SECONDS = 5.0  # for the first new frame; the example's
GATHER_SECONDS = 0.25  # for more of them
POLL_SECONDS = 0.05
PATIENT_READERS = 4  # requests that may wait for frames at the same time


class UnknownSession(KeyError):
    """There is no such track, or it belongs to another task."""


@dataclass
class TrackSession:
    """Who asked for a track, and what was read of it.

    Attributes:
        read: position of the next frame for a reader without a cursor.
        touched: when it was last asked about.
    """

    job_id: str
    track: str
    task: tuple[str, str]  # see ``ProjectTask.key``
    touched: float
    read: int = 0
    released: bool = False


@dataclass(frozen=True)
class TrackReading:
    """A part of a track.

    Attributes:
        frames: ``(frame, its masks)``, in the order of tracking.
        cursor: position of the frame after them.
        produced, total: frames that are done, and that were asked for.
    """

    frames: list[tuple[int, list[TrackedMask]]]
    cursor: int
    produced: int
    total: int
    job: Job

    @property
    def done(self) -> bool:
        """Whether the reader has everything there will ever be."""
        return self.job.state.ended and self.cursor >= self.produced


@dataclass(frozen=True)
class FrameOrder:
    """The frames of a track in the order in which they are tracked: what a cursor counts.

    ``order[i]`` is ``(frame, the objects wanted on it)``. It follows from the request alone, so a
    cursor means the same frame before and after a restart, and whoever reads.

    Attributes:
        prompted: by object, its prompted frames (of the file, from 0), at least one.
        first, last: what is tracked, both included; all prompted frames are within.
    """

    prompted: Mapping[str, Sequence[int]]
    first: int
    last: int
    direction: Direction

    def __len__(self) -> int:
        return sum(map(len, self._sweeps))

    def __getitem__(self, position: int) -> tuple[int, list[str]]:
        forward, back = self._sweeps
        if position < len(forward):
            frame = forward[position]
            return frame, [name for name, start in self._starts.items() if start <= frame]
        frame = back[position - len(forward)]
        lowest = frame if self.direction is Direction.BACK else frame + 1  # start of those wanted
        return frame, [name for name, start in self._starts.items() if start >= lowest]

    def is_prompted(self, position: int) -> bool:
        """Whether every object that is wanted on a frame is prompted there."""
        frame, names = self[position]
        return all(frame in self.prompted[name] for name in names)

    @cached_property
    def _starts(self) -> dict[str, int]:
        """By object, the frame from which it is tracked."""
        pick = max if self.direction is Direction.BACK else min
        return {name: pick(frames) for name, frames in self.prompted.items()}

    @cached_property
    def _sweeps(self) -> tuple[range, range]:
        """The frames towards the end of the video, and those towards its beginning."""
        starts = self._starts.values()
        if self.direction is Direction.BACK:
            return range(0), range(max(starts), self.first - 1, -1)
        forward = range(min(starts), self.last + 1)
        if self.direction is Direction.FORWARD:
            return forward, range(0)
        return forward, range(max(starts) - 1, self.first - 1, -1)


class InteractiveJobs:
    """What the jobs of these tracks do, see ``JobKind``."""

    kind = KIND

    def __init__(self, videos: OpenVideos) -> None:
        self._videos = videos

    def open(self, task: ProjectTask, request: JobRequest) -> Work:
        """See ``JobKind``."""

        def read_goal(described: Mapping[str, Any], width: int, height: int) -> Goal:
            prompts = {
                int(frame): pixel_prompt(read_prompt(written), width, height, no_masks)
                for frame, written in described["prompts"].items()
            }
            return plan_goal(described["id"], prompts, request)

        return video_work(self._videos, task, request, read_goal)

    def outcome(self, task: ProjectTask, job: Job) -> tuple[Results, list[float]]:
        """Empty: editors read these tracks, and they are never stored as predictions."""
        return [], []


class TrackSessions:
    """Starts, reads, cancels and forgets the tracks of editors that speak the protocol."""

    def __init__(
        self,
        store: TrackStore,
        jobs: JobRunner,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._lock = threading.Lock()
        self._patience = threading.BoundedSemaphore(PATIENT_READERS)
        self._sessions = {session.job_id: session for session in self._stored_sessions()}

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, task: ProjectTask, request: JobRequest) -> Job:
        """Begin to track, or join the same request under way; see ``track_request``.

        Raises:
            Busy: too many tracks are running.
        """
        self.expire()
        if len(self._store.jobs(kind=KIND, unfinished=True)) >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} tracks are waiting; cancel one or try again in a moment")
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        track = f"{KIND}-{digest[:32]}"
        job = self._jobs.submit(track, request)
        with self._lock:
            self._sessions[job.id] = TrackSession(job.id, track, task.key, self._clock())
        return job

    def read(self, task: ProjectTask, job_id: str, cursor: int | None) -> TrackReading:
        """What was tracked from ``cursor`` on (None: after the last reading), at most
        ``BATCH_FRAMES`` frames; waits a while for the first.

        Raises:
            UnknownSession: there is no such track of this task.
        """
        session = self._session(task, job_id)
        job = self._job(job_id)
        order = read_order(job.request)
        position = min(session.read if cursor is None else cursor, len(order))
        frames = self._await_frames(session, order, position)
        after = position + len(frames)
        session.read, session.touched = after, self._clock()
        job = self._job(job_id)
        return TrackReading(
            frames,
            after,  # not ``session.read``, which another reader may have set since
            self._produced(session.track, order, after),
            len(order),
            job,
        )

    def cancel(self, task: ProjectTask, job_id: str) -> None:
        """Stop a track within the frame it is at; what it found can still be read.

        Raises:
            UnknownSession: there is no such track of this task.
        """
        session = self._session(task, job_id)
        session.touched = self._clock()
        self._jobs.cancel(job_id)

    def release(self, task: ProjectTask, job_id: str = "") -> None:
        """Cancel and forget the tracks of a task, or only one of them."""
        for session in list(self._sessions.values()):
            if session.task == task.key and job_id in ("", session.job_id):
                session.released = True
                self._jobs.cancel(session.job_id)
        self.expire()

    def expire(self) -> None:
        """Cancel the tracks that nobody asks about, and forget those that ended long ago."""
        now = self._clock()
        sessions = sorted(self._sessions.values(), key=lambda session: session.touched)
        surplus = len(sessions) - MAX_SESSIONS
        for session in sessions:
            idle = now - session.touched
            if not self._job(session.job_id).state.ended:
                if idle > ABANDONED_SECONDS:
                    logger.info("track %s is cancelled: nobody asks about it", session.job_id)
                    self._jobs.cancel(session.job_id)
            elif session.released or idle > KEPT_SECONDS or surplus > 0:
                surplus -= 1
                self._forget(session)

    # What is there.

    def _stored_sessions(self) -> list[TrackSession]:
        """The tracks of an earlier process; those that ended long ago are forgotten."""
        before = time.time() - KEPT_SECONDS
        try:
            self._store.forget_ended(KIND, before)
            jobs = self._store.jobs(kind=KIND)
        except StoreError as error:
            logger.error("tracks of an earlier process cannot be looked up: %s", error)
            return []
        return [
            TrackSession(job.id, job.track, (job.project, str(job.task)), self._clock())
            for job in jobs
            if not job.state.ended or job.updated >= before
        ]

    def _session(self, task: ProjectTask, job_id: str) -> TrackSession:
        with self._lock:
            session = self._sessions.get(job_id)
        if session is None or session.task != task.key or session.released:
            raise UnknownSession(job_id)
        return session

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs.wait(job_id, 0.0)  # knows of ends that could not be stored
        except KeyError as error:
            raise UnknownSession(job_id) from error

    def _forget(self, session: TrackSession) -> None:
        with self._lock:
            self._sessions.pop(session.job_id, None)
            shared = any(other.track == session.track for other in self._sessions.values())
        if not shared:
            self._store.forget(session.track)

    # Reading.

    def _await_frames(
        self, session: TrackSession, order: FrameOrder, position: int
    ) -> list[tuple[int, list[TrackedMask]]]:
        wanted = min(BATCH_FRAMES, len(order) - position)
        patient = self._patience.acquire(blocking=False)
        try:
            end = time.monotonic() + (WAIT_SECONDS if patient else GATHER_SECONDS)
            frames: list[tuple[int, list[TrackedMask]]] = []
            while True:
                ended = self._job(session.job_id).state.ended
                before = len(frames)
                while len(frames) < wanted:
                    frame, names = order[position + len(frames)]
                    masks = self._masks(session.track, frame, names)
                    if masks is None:
                        break
                    frames.append((frame, masks))
                if frames and not before:
                    end = min(end, time.monotonic() + GATHER_SECONDS)
                full = len(frames) == wanted
                if ended or full or session.released or time.monotonic() >= end:
                    return frames
                time.sleep(POLL_SECONDS)
        finally:
            if patient:
                self._patience.release()

    def _masks(self, track: str, frame: int, names: Sequence[str]) -> list[TrackedMask] | None:
        """The masks of one frame; None while one of them is missing."""
        found = []
        for name in names:
            mask = self._store.mask(track, name, frame)
            if mask is None:
                return None
            found.append(mask)
        return found

    def _produced(self, track: str, order: FrameOrder, low: int) -> int:
        """How many frames are done, of which the first ``low`` are known to be."""
        high = len(order)
        while low < high:
            middle = (low + high) // 2
            # Prompts are answered before the frames that lead to them, so look at one of those too.
            tracked = middle
            while tracked > low and order.is_prompted(tracked):
                tracked -= 1
            if all(self._store.has_masks(track, *order[each]) for each in (middle, tracked)):
                low = middle + 1
            else:
                high = middle
        return low


def track_request(
    task: ProjectTask,
    video: str,
    prompts: Mapping[str, Mapping[int, ObjectPrompt]],
    order: FrameOrder,
) -> JobRequest:
    """The request of a job: all that is needed to run and to read it, after a restart too.

    The ``prompts`` are by object and frame of the file, points and box in percent.
    """
    objects = [
        {
            "id": name,
            "labels": list(next((p.labels for p in frames.values() if p.labels), ())),
            "prompts": {str(frame): _write_prompt(prompt) for frame, prompt in frames.items()},
        }
        for name, frames in prompts.items()
    ]
    return {
        **task.as_json(),
        "kind": KIND,
        "video": video,
        "objects": objects,
        "first": order.first,
        "last": order.last,
        "direction": order.direction,
    }


def read_order(request: Mapping[str, Any]) -> FrameOrder:
    """The order of the frames of a ``track_request``."""
    prompted = {each["id"]: [int(f) for f in each["prompts"]] for each in request["objects"]}
    return FrameOrder(prompted, request["first"], request["last"], Direction(request["direction"]))


def _write_prompt(prompt: ObjectPrompt) -> dict[str, Any]:
    points = [list(point) for point in prompt.points]
    return {"points": points, "box": list(prompt.box) if prompt.box is not None else None}


def read_prompt(written: Mapping[str, Any]) -> ObjectPrompt:
    """A prompt in the request of a job of an editor, see ``track_request``."""
    points = tuple(PointPrompt(*point) for point in written["points"])
    box = Box(*written["box"]) if written["box"] is not None else None
    return ObjectPrompt(image="", points=points, box=box)
