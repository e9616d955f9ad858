"""Tracking jobs: begun or joined by a command, run in the background, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from backend.engine.engine import Engine, Frames, TrackedObject, Tracker
from backend.engine.packed_masks import PackedMask
from backend.engine.pixel_prompts import PixelPrompt
from backend.expected import ExpectedError
from backend.job_state import JobState
from backend.labelstudio.geometry import resize_mask
from backend.threads.caller import serving
from backend.threads.fair_pool import FairPool
from backend.tracking.interpolation import StridedTracker, tracked_frames
from backend.tracking.spans import Span
from backend.tracking.store import Job, StoreError, TrackedMask, TrackStore


@dataclass(frozen=True)
class Goal:
    """One object of a job.

    Attributes:
        prompts: by frame, what the object is prompted with; the anchors of ``spans`` are among
            them.
        digests: by frame, a digest of the prompt, to know what a stored mask follows from.
        spans: the frames that are wanted.
        answers: those prompted frames whose own masks are wanted; a drawn mask is one already.
    """

    object_id: str
    prompts: Mapping[int, PixelPrompt]
    digests: Mapping[int, str]
    spans: Sequence[Span]
    answers: Collection[int] = ()


@dataclass(frozen=True)
class Work:
    """A job, ready to run.

    Attributes:
        frames: what is tracked through.
        goals: what is wanted of each object.
        size_of: width and height that the masks of a frame are to have.
        close: frees the frames.
        stride: track every n-th frame and interpolate between; None for the runner's.
    """

    frames: Frames
    goals: Sequence[Goal]
    size_of: Callable[[int], tuple[int, int]]
    close: Callable[[], None]
    stride: int | None = None


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


logger = logging.getLogger(__name__)

READY_SECONDS = 600.0  # a job begun while the model loads waits for it


class Opener(Protocol):
    """Turns a job's request into work; called on the job's thread, again after a restart."""

    def __call__(self, request: Mapping[str, Any]) -> Work: ...


@dataclass(frozen=True)
class _Pass:
    """One sweep over the frames in one direction: per object its prompts and its frames."""

    reverse: bool
    prompts: list[tuple[int, str, PixelPrompt]]
    wanted: dict[str, dict[int, str]]  # object -> frame -> digest of its anchor

    @property
    def order(self) -> range:
        """All frames of the sweep, in the order of tracking."""
        every = [frame for frames in self.wanted.values() for frame in frames]
        anchors = [frame for frame, _, _ in self.prompts]
        if self.reverse:
            first = min(max(every) + 1, max(anchors))
            return range(first, min(every) - 1, -1)
        first = max(min(every) - 1, min(anchors))
        return range(first, max(every) + 1)


@dataclass
class _Run:
    """A job under way.

    Attributes:
        done: masks of the job's spans that are stored.
        unanswered: by object and prompted frame, the digests of the prompts whose own masks are
            still to be stored.
        stride: every which frame is tracked.
    """

    job: Job
    work: Work
    stride: int
    done: int
    unanswered: dict[tuple[str, int], str]


class JobRunner:
    """Runs jobs of a store, ``workers`` at a time.

    Args:
        delivered: takes an ended job whose result is to be handed over; raises nothing.
    """

    def __init__(
        self,
        store: TrackStore,
        engine: Engine,
        open_work: Opener,
        *,
        delivered: Callable[[Job], None],
        workers: int = 2,
        stride: int = 1,
    ) -> None:
        self._store = store
        self._stride = stride
        self._engine = engine
        self._open = open_work
        self._delivered = delivered
        self._pool = FairPool(workers, "track")
        self._changed = threading.Condition()
        self._cancelled: set[str] = set()
        self._taken: set[str] = set()  # jobs that this process runs or has run
        self._stopping = False
        self._paces: dict[str, Pace] = {}  # of the jobs that run
        self._unsaved: dict[str, Job] = {}  # ends that the store could not take

    def submit(self, track: str, request: Mapping[str, Any], *, deliver: bool = False) -> Job:
        """Begin a job, or join the one that is doing the same.

        One that another process left unfinished is taken up, at its last finished frame.

        Args:
            deliver: hand its result over when it ends.
        """
        digest = hashlib.sha256(json.dumps([track, request], sort_keys=True).encode()).hexdigest()
        job, _ = self._store.add_job(uuid.uuid4().hex[:12], track, digest, request, deliver=deliver)
        self._take_up(job)
        return job

    def resume(self) -> int:
        """Take up what a stopped process left unfinished; returns the number of jobs."""
        unfinished = self._store.jobs(unfinished=True)
        for job in reversed(unfinished):
            self._take_up(job)
        return len(unfinished)

    def wait(self, job_id: str, timeout: float) -> Job:
        """The job when it has ended, or as it stands after ``timeout`` seconds.

        Raises:
            KeyError: there is no such job.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                job = self._job(job_id)
                left = end - time.monotonic()
                if job.state.ended or left <= 0 or self._stopping:
                    return job
                self._changed.wait(min(left, 1.0))

    def cancel(self, job_id: str) -> Job:
        """Stop a job within the frame it is at; what it finished stays.

        Raises:
            KeyError: there is no such job.
        """
        job = self._job(job_id)
        if not job.state.ended:
            self._cancelled.add(job_id)
            if job.state is JobState.QUEUED:
                self._store.update_job(job_id, state=JobState.CANCELLED)
            self._notify()
        return self._job(job_id)

    def deliver(self, job: Job) -> None:
        """Hand over the result of a job that has ended, after all."""
        try:
            self._store.make_due(job.id)
        except StoreError as error:  # it is tried now, if not after a restart
            logger.error("job %s: that its result is due cannot be stored: %s", job.id, error)
        self._delivered(job)

    def seconds_left(self, job: Job) -> float | None:
        """What the rest of a job that runs here will take; None while that is not known."""
        pace = self._paces.get(job.id)
        return None if pace is None else pace.seconds_left(job.total)

    def stop_soon(self) -> None:
        """Stop within the frames under way; those who wait are told how far the jobs are."""
        self._stopping = True
        self._notify()

    def close(self) -> None:
        """Stop within the frames under way; unfinished jobs are taken up at the next start."""
        self.stop_soon()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _job(self, job_id: str) -> Job:
        if job_id in self._unsaved:
            return self._unsaved[job_id]
        job = self._store.job(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def _take_up(self, job: Job) -> None:
        with self._changed:
            if job.id not in self._taken:
                self._taken.add(job.id)
                with serving(project=str(job.request.get("project")), job=job.id):
                    logger.info("the job begins")
                    self._pool.submit(self._run, job.id)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self, job_id: str) -> None:
        job = self._job(job_id)
        if job.state.ended or self._stopping:
            self._cancelled.discard(job_id)
            return
        state, message = JobState.DONE, ""
        try:
            self._store.update_job(job_id, state=JobState.RUNNING)
            self._work(job)
            if self._stopping:
                return
            if job_id in self._cancelled:
                state = JobState.CANCELLED
        except ExpectedError as error:
            if self._stopping:
                return  # taken up at the next start
            state, message = JobState.FAILED, str(error)
            logger.warning("job %s failed: %s", job_id, error)
        except Exception:  # thread boundary: the job ends, with the cause in the log
            state, message = JobState.FAILED, "the backend failed on this job; its log says why"
            logger.exception("job %s failed", job_id)
        self._cancelled.discard(job_id)
        self._end(job, state, message)
        ended = self._job(job_id)
        if ended.deliver and state is not JobState.CANCELLED:
            self._delivered(ended)

    def _end(self, job: Job, state: JobState, message: str) -> None:
        try:
            self._store.update_job(job.id, state=state, message=message)
        except StoreError as error:  # begun again at the next start; until then, told from here
            logger.error("the end of the job cannot be stored: %s", error)
            self._unsaved[job.id] = replace(job, state=state, message=message)
        logger.info("the job is %s", state)
        self._notify()

    def _work(self, job: Job) -> None:
        self._engine.wait_ready(READY_SECONDS)
        work = self._open(job.request)
        try:
            self._track(job, work)
        finally:
            self._paces.pop(job.id, None)
            work.close()

    def _track(self, job: Job, work: Work) -> None:
        total = sum(len(span.frames) for goal in work.goals for span in goal.spans)
        stride = work.stride or self._stride
        stored = self._store.anchors(job.track, stride=stride)
        passes = [self._plan(job.track, work.goals, stored, reverse) for reverse in (False, True)]
        left = sum(len(frames) for each in passes for frames in each.wanted.values())
        self._store.update_job(job.id, total=total, done=total - left)
        run = _Run(job, work, stride, total - left, _unanswered(work.goals, stored))
        for sweep in passes:
            if sweep.wanted:
                self._sweep(run, sweep)
        self._answer_prompts(run)

    def _plan(
        self,
        track: str,
        goals: Sequence[Goal],
        stored: Mapping[tuple[str, int], str],
        reverse: bool,
    ) -> _Pass:
        """What is still to be done in one direction.

        Frames that are stored and follow from the same prompt are done. Where a span was
        interrupted, its last finished mask stands in for what the tracker remembered.
        """
        prompts: list[tuple[int, str, PixelPrompt]] = []
        wanted: dict[str, dict[int, str]] = {}
        for goal in goals:
            spans = [span for span in goal.spans if span.reverse == reverse]
            for span in spans:
                digest = goal.digests[span.anchor]
                frames = list(span.frames)
                left = [f for f in frames if stored.get((goal.object_id, f)) != digest]
                wanted.setdefault(goal.object_id, {}).update(dict.fromkeys(left, digest))
                if left and left[0] != frames[0]:
                    last = frames[frames.index(left[0]) - 1]
                    mask = next(self._store.masks(track, object_id=goal.object_id, frame=last))
                    prompts.append((last, goal.object_id, _mask_prompt(mask)))
            if wanted.get(goal.object_id):
                anchors = [span.anchor for span in spans]
                prompts += [
                    (frame, goal.object_id, prompt)
                    for frame, prompt in goal.prompts.items()
                    if (frame >= min(anchors) if reverse else frame <= max(anchors))
                ]
        wanted = {name: frames for name, frames in wanted.items() if frames}
        return _Pass(reverse, sorted(prompts, key=lambda item: item[0]), wanted)

    def _sweep(self, run: _Run, sweep: _Pass) -> None:
        """One pass over the frames. Stops when cancelled."""
        tracker = self._open_tracker(run, sweep)
        for frame, object_id, prompt in sweep.prompts:
            if self._interrupted(run.job.id):
                return
            self._prompt(run, tracker, frame, object_id, prompt)
        order = sweep.order
        steps = tracker.step(
            order[0],
            len(order),
            reverse=sweep.reverse,
            stopped=lambda: self._interrupted(run.job.id),
        )
        for frame, objects in steps:
            size = run.work.size_of(frame)
            found = [
                _tracked(each, frame, sweep.wanted[each.object_id][frame], size, run.stride)
                for each in objects
                if frame in sweep.wanted.get(each.object_id, {})
            ]
            run.done += len(found)
            if found:
                self._put(run, found)
            if self._interrupted(run.job.id):
                return

    def _open_tracker(self, run: _Run, sweep: _Pass) -> Tracker:
        frames = run.work.frames
        if run.stride == 1:
            return self._engine.open_tracker(frames)
        prompted = {frame for frame, _, _ in sweep.prompts}
        chosen = sorted({*tracked_frames(sweep.order, prompted, run.stride), *prompted})
        return StridedTracker(self._engine.open_tracker, frames, chosen)

    def _answer_prompts(self, run: _Run) -> None:
        """Masks for the prompts that no pass began with. Stops when cancelled."""
        prompts = {goal.object_id: goal.prompts for goal in run.work.goals}
        tracker = self._engine.open_tracker(run.work.frames) if run.unanswered else None
        for object_id, frame in sorted(run.unanswered, key=lambda item: item[1]):
            if tracker is None or self._interrupted(run.job.id):
                return
            self._prompt(run, tracker, frame, object_id, prompts[object_id][frame])

    def _prompt(
        self, run: _Run, tracker: Tracker, frame: int, object_id: str, prompt: PixelPrompt
    ) -> None:
        """Prompt the tracker, and store what it answers where that is wanted."""
        answer = tracker.prompt(frame, object_id, prompt)
        digest = run.unanswered.pop((object_id, frame), None)
        if digest is not None:
            found = _tracked(answer, frame, digest, run.work.size_of(frame))
            self._put(run, [replace(found, prompted=True)])

    def _put(self, run: _Run, found: list[TrackedMask]) -> None:
        self._store.put_masks(run.job.track, found, job_id=run.job.id, done=run.done)
        self._paces.setdefault(run.job.id, Pace()).mark(time.monotonic(), run.done)
        self._notify()

    def _interrupted(self, job_id: str) -> bool:
        return self._stopping or job_id in self._cancelled


def _tracked(
    found: TrackedObject, frame: int, anchor: str, size: tuple[int, int], stride: int = 1
) -> TrackedMask:
    mask = found.mask
    if size != (mask.width, mask.height):
        mask = PackedMask.pack(resize_mask(mask.unpack(), *size))
    name, iou, presence = found.object_id, found.iou, found.presence
    return TrackedMask(name, frame, anchor, mask, iou, presence, stride=stride)


def _unanswered(
    goals: Sequence[Goal], stored: Mapping[tuple[str, int], str]
) -> dict[tuple[str, int], str]:
    """See ``_Run.unanswered``."""
    return {
        (goal.object_id, frame): goal.digests[frame]
        for goal in goals
        for frame in goal.answers
        if stored.get((goal.object_id, frame)) != goal.digests[frame]
    }


def _mask_prompt(found: TrackedMask) -> PixelPrompt:
    return PixelPrompt(np.zeros((0, 2)), np.zeros(0, dtype=bool), mask=found.mask.unpack())
