"""Tracking jobs: begun or joined by a command, run in the background, resumed after a kill.

A job runs in slices: after each it gives its place to a job of another project that waits for one,
and comes back when its project's turn comes. Meanwhile it is suspended with its tracker, so its
masks are those of a job that ran in one piece.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from backend.engine.engine import Engine, EngineError, Moved, TrackedObject, Tracker
from backend.engine.interpolation import tracked_frames
from backend.engine.pixel_prompts import PixelPrompt
from backend.expected import ExpectedError
from backend.job_state import MAX_CRASHES, JobState
from backend.pixels.recipes import FramesRecipe
from backend.threads.caller import serving
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy
from backend.tracking.database import StoreError
from backend.tracking.probation import Probation
from backend.tracking.spans import Goal
from backend.tracking.store import Job, TrackedMask, TrackStore

logger = logging.getLogger(__name__)

SLICE_SECONDS = 2.0  # how long a job keeps its place where another project waits for one
MAX_SUSPENDED = 64  # jobs; each holds its plan, its prompts and a place in the media cache
READY_SECONDS = 600.0  # a job begun while the model loads waits for it
MEASURED_FRAMES = 30
GIVEN_UP = (
    f"given up, because {MAX_CRASHES} starts of this track ended the backend before a frame was "
    "stored: mark another object or another frame, and tell whoever runs the backend"
)


@dataclass(frozen=True)
class Work:
    """A job, ready to run.

    Attributes:
        frames: what is tracked through.
        goals: what is wanted of each object.
        stride: track every n-th frame and interpolate between; None for the runner's.
    """

    frames: FramesRecipe
    goals: Sequence[Goal]
    stride: int | None = None


class JobRunner:
    """Runs jobs of a store: ``workers`` of a project at a time, and as many of all others.

    Args:
        open_work: turns a job's request into work; called on the job's thread, and again after a
            restart.
        hand_over: takes an ended job whose result is to be delivered; raises nothing.
        stride: track every n-th frame where a job does not say it.
    """

    def __init__(
        self,
        store: TrackStore,
        engine: Engine,
        open_work: Callable[[Mapping[str, Any]], Work],
        *,
        hand_over: Callable[[Job], None],
        workers: int = 2,
        stride: int = 1,
    ) -> None:
        self._store = store
        self._engine = engine
        self._open = open_work
        self._hand_over = hand_over
        self._stride = stride
        self._pool = FairPool(2 * workers, "track")
        self._changed = threading.Condition()
        self._cancelled: set[str] = set()
        self._taken: set[str] = set()  # jobs that this process runs or has run
        self._running: set[str] = set()
        self._suspended: dict[str, _Run] = {}  # between two slices
        self._probation = Probation()
        self._stopping = False
        self._paces: dict[str, Pace] = {}  # of the jobs that run or are suspended
        self._unsaved: dict[str, Job] = {}  # ends that the store could not take

    def submit(self, track: str, request: Mapping[str, Any], *, deliver: bool = False) -> Job:
        """Begin a job, or join the one that is doing the same; see ``TrackStore.add_job``.

        One that another process left unfinished is taken up, at its last finished frame.
        """
        digest = hashlib.sha256(json.dumps([track, request], sort_keys=True).encode()).hexdigest()
        job = self._store.add_job(uuid.uuid4().hex[:12], track, digest, request, deliver=deliver)
        self._take_up(job)
        return job

    def resume(self) -> int:
        """Take up what a stopped process left unfinished; returns the number of jobs."""
        unfinished = self._store.jobs(unfinished=True)
        for job in reversed(unfinished):
            try:
                self._take_up(job)
            except Busy:  # the queue is full: taken up when asked for again, or at the next start
                self._taken.discard(job.id)
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
            if self._drop(job_id) or job.state is JobState.QUEUED:
                self._store.update_job(job_id, state=JobState.CANCELLED)
            self._notify()
        return self._job(job_id)

    @property
    def suspended(self) -> int:
        """Jobs that were begun and wait for their next slice."""
        return len(self._suspended)

    def seconds_left(self, job: Job) -> float | None:
        """What the rest of a job that runs here will take; None while that is not known."""
        pace = self._paces.get(job.id)
        return None if pace is None else pace.seconds_left(job.total)

    def stop_soon(self) -> None:
        """Stop within the frames under way; those who wait are told how far the jobs are."""
        self._stopping = True
        for job_id in list(self._running):  # whoever kills a process that stops is no crash
            self._set_down(job_id)
        self._notify()

    def close(self) -> None:
        """Stop within the frames under way; unfinished jobs are taken up at the next start."""
        self.stop_soon()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for job_id in list(self._suspended):
            self._drop(job_id)

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
                with serving(project=job.project, job=job.id, run=job.request.get("run", "")):
                    logger.info("the job begins")
                    self._pool.submit(self._run, job.id)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self, job_id: str) -> None:
        job = self._job(job_id)
        if not (job.state.ended or self._stopping):
            try:
                outcome = self._attempt(job)
            except Moved as error:
                logger.warning("job %s: %s", job_id, error)
                given_up = error.died and self._probation.ended_replica(job_id) >= MAX_CRASHES
                outcome = (JobState.FAILED, GIVEN_UP) if given_up else None  # goes on elsewhere
            except ExpectedError as error:
                logger.warning("job %s failed: %s", job_id, error)
                outcome = JobState.FAILED, str(error)
            except Exception:  # thread boundary: the job ends, with the cause in the log
                logger.exception("job %s failed", job_id)
                outcome = JobState.FAILED, "the backend failed on this job; its log says why"
            if job_id in self._cancelled:
                outcome = JobState.CANCELLED, ""
            if self._stopping:
                return  # taken up at the next start
            if outcome is None:
                self._pool.submit_rest(self._run, job_id)
                return
            self._end(job, *outcome)
        self._drop(job_id)
        self._cancelled.discard(job_id)
        self._probation.acquit(job_id)

    def _attempt(self, job: Job) -> tuple[JobState, str] | None:
        """Run a job; returns how it ended, None where it is to go on later.

        Raises:
            ExpectedError: why it failed.
        """
        self._engine.wait_ready(READY_SECONDS)  # first: a model that cannot load is not its fault
        crashes = job.crashes + job.under_way
        if crashes >= MAX_CRASHES:
            logger.error("job %s is given up: %d starts of it ended the process", job.id, crashes)
            return JobState.FAILED, GIVEN_UP

        given_up = partial(self._given_up, job.id)
        if not self._probation.enter(job.id, suspect=crashes > 0, given_up=given_up):
            return None
        try:
            self._running.add(job.id)
            self._store.begin_job(job.id)
            done = given_up() or self._work(job)
            return (JobState.DONE, "") if done else None
        finally:
            self._running.discard(job.id)
            self._set_down(job.id)
            self._probation.leave(job.id)

    def _set_down(self, job_id: str) -> None:
        try:
            self._store.update_job(job_id, under_way=False)
        except StoreError as error:
            logger.error("that job %s has stopped cannot be stored: %s", job_id, error)

    def _end(self, job: Job, state: JobState, message: str) -> None:
        try:
            self._store.update_job(job.id, state=state, message=message)
        except StoreError as error:  # begun again at the next start; until then known here
            logger.error("the end of the job cannot be stored: %s", error)
            self._unsaved[job.id] = replace(job, state=state, message=message)
        logger.info("the job is %s", state)
        self._notify()
        ended = self._job(job.id)
        if ended.deliver and state is not JobState.CANCELLED:
            self._hand_over(ended)

    def _work(self, job: Job) -> bool:
        """Track until all is stored, or the job is stopped; False if it is to go on later."""
        with self._changed:
            run = self._suspended.pop(job.id, None)
        begun, suspended = time.monotonic(), False
        run = run or self._begin(job)
        try:
            for _ in run.steps:
                if self._gives_way(job.id, begun):
                    suspended = self._suspend(job.id, run)
                    # Closed, it begins anew after what is stored: it must get further every time.
                    if suspended or run.has_stored:
                        return False
            return True
        finally:
            if not suspended:
                self._close(job.id, run)

    def _begin(self, job: Job) -> _Run:
        def stored() -> None:
            self._probation.acquit(job.id)
            self._notify()

        work = self._open(job.request)
        run = _Run(
            job,
            work,
            self._store,
            self._engine,
            stride=work.stride or self._stride,
            stopped=partial(self._given_up, job.id),
            stored=stored,
        )
        self._paces[job.id] = run.pace
        return run

    def _gives_way(self, job_id: str, begun: float) -> bool:
        """Whether a job whose slice has ``begun`` then is to let others go first."""
        if self._probation.must_yield(job_id):
            return True
        over = time.monotonic() - begun >= SLICE_SECONDS
        return over and not self._probation.on_trial(job_id) and self._pool.others_wait()

    def _suspend(self, job_id: str, run: _Run) -> bool:
        """Keep a job as it is until its next slice; False where there is no room."""
        if len(self._suspended) >= MAX_SUSPENDED:
            return False
        try:
            run.suspend()
        except (EngineError, Busy) as error:
            logger.info("the job cannot be suspended: %s", error)
            return False
        with self._changed:
            self._suspended[job_id] = run
        return True

    def _drop(self, job_id: str) -> bool:
        """Free all that a suspended job holds; False where it is not suspended."""
        with self._changed:
            run = self._suspended.pop(job_id, None)
        if run is not None:
            self._close(job_id, run)
        return run is not None

    def _close(self, job_id: str, run: _Run) -> None:
        self._paces.pop(job_id, None)
        run.close()

    def _given_up(self, job_id: str) -> bool:
        return self._stopping or job_id in self._cancelled


@dataclass(frozen=True)
class _Sweep:
    """One pass over the frames in one direction: per object its prompts and its frames."""

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


class _OtherWeights(Exception):
    """The model has been replaced since a job began."""


class _Run:
    """A job under way.

    Args:
        stopped: whether it is to end early.
        stored: called whenever masks were stored.

    Attributes:
        steps: tracks while it is iterated over, and stops wherever the job may be suspended;
            at its end, all masks are stored that were wanted and not stored yet.
        has_stored: whether masks were stored by it.
    """

    def __init__(
        self,
        job: Job,
        work: Work,
        store: TrackStore,
        engine: Engine,
        *,
        stride: int,
        stopped: Callable[[], bool],
        stored: Callable[[], None],
    ) -> None:
        self.pace = Pace()
        self.has_stored = False
        self.steps = self._track()
        self._tracker: Tracker | None = None
        self._job, self._work, self._stride = job, work, stride
        self._store, self._engine = store, engine
        self._stopped, self._stored = stopped, stored
        self._done = 0  # masks of the job's spans that are stored
        # By object and prompted frame: digests of the prompts whose own masks are still wanted.
        self._unanswered: dict[tuple[str, int], str] = {}

    def suspend(self) -> None:
        """Nothing is asked of ``steps`` for a while. Raises as ``Tracker.suspend`` does."""
        if self._tracker is not None:
            self._tracker.suspend()

    def close(self) -> None:
        """Free everything."""
        self.steps.close()

    def _track(self) -> Generator[None, None, None]:
        while True:
            try:
                for sweep in self._sweeps():
                    yield from self._sweep(sweep)
                yield from self._answer_prompts()
                return
            except _OtherWeights:  # what is stored of it is not followed any more
                logger.info("the weights have been replaced; the track begins anew with them")

    def _sweeps(self) -> list[_Sweep]:
        """What is to be done, forward and back."""
        goals = self._work.goals
        stored = self._store.anchors(self._job.track, stride=self._stride)
        self._unanswered = {
            (goal.object_id, frame): goal.digests[frame]
            for goal in goals
            for frame in goal.answers
            if stored.get((goal.object_id, frame)) != goal.digests[frame]
        }
        sweeps = [self._plan(stored, reverse) for reverse in (False, True)]
        total = sum(len(span.frames) for goal in goals for span in goal.spans)
        left = sum(len(frames) for sweep in sweeps for frames in sweep.wanted.values())
        self._done = total - left
        self._store.update_job(self._job.id, total=total, done=self._done)
        return [sweep for sweep in sweeps if sweep.wanted]

    def _plan(self, stored: Mapping[tuple[str, int], str], reverse: bool) -> _Sweep:
        """What is still to be done in one direction.

        Frames that are stored and follow from the same prompt are done. Where a span was
        interrupted, its last finished mask stands in for what the tracker remembered.
        """
        prompts: list[tuple[int, str, PixelPrompt]] = []
        wanted: dict[str, dict[int, str]] = {}
        for goal in self._work.goals:
            name = goal.object_id
            spans = [span for span in goal.spans if span.reverse == reverse]
            frames_left: dict[int, str] = {}
            for span in spans:
                digest = goal.digests[span.anchor]
                frames = list(span.frames)
                left = [frame for frame in frames if stored.get((name, frame)) != digest]
                frames_left.update(dict.fromkeys(left, digest))
                if left and left[0] != frames[0]:
                    last = frames[frames.index(left[0]) - 1]
                    if found := self._store.mask(self._job.track, name, last):
                        prompts.append((last, name, PixelPrompt(mask=found.mask.unpack())))
            if frames_left:
                wanted[name] = frames_left
                anchors = [span.anchor for span in spans]
                prompts += [
                    (frame, name, prompt)
                    for frame, prompt in goal.prompts.items()
                    if (frame >= min(anchors) if reverse else frame <= max(anchors))
                ]
        return _Sweep(reverse, sorted(prompts, key=lambda item: item[0]), wanted)

    def _sweep(self, sweep: _Sweep) -> Iterator[None]:
        chosen = self._chosen(sweep)
        with self._opened(chosen) as tracker:
            for frame, object_id, prompt in sweep.prompts:
                if self._stopped():
                    return
                self._prompt(tracker, frame, object_id, prompt)
                yield
            order = sweep.order
            steps = tracker.step(order[0], len(order), reverse=sweep.reverse, stopped=self._stopped)
            for frame, objects in steps:
                found = [
                    self._tracked(each, frame, sweep.wanted[each.object_id][frame], self._stride)
                    for each in objects
                    if frame in sweep.wanted.get(each.object_id, {})
                ]
                self._done += len(found)
                if found:
                    self._put(found)
                if self._stopped():
                    return
                # Between those that are tracked, whole masks are held to interpolate between.
                if chosen is None or frame in chosen:
                    yield

    def _chosen(self, sweep: _Sweep) -> Collection[int] | None:
        """The frames that are tracked; None for all."""
        if self._stride == 1:
            return None
        prompted = {frame for frame, _, _ in sweep.prompts}
        return {*tracked_frames(sweep.order, prompted, self._stride), *prompted}

    @contextmanager
    def _opened(self, chosen: Collection[int] | None = None) -> Iterator[Tracker]:
        frames = self._work.frames
        if chosen is None:
            tracker = self._engine.open_tracker(frames)
        else:
            tracker = self._engine.open_tracker(frames, sorted(chosen))
        with closing(tracker):
            self._keep_to(tracker.weights)
            self._tracker = tracker
            yield tracker
            self._tracker = None

    def _keep_to(self, weights: str) -> None:
        """The masks of a job are of the same weights, on whatever replica and after any restart.

        Raises:
            _OtherWeights: it began with others.
        """
        places = [
            (goal.object_id, frame)
            for goal in self._work.goals
            for frames in (*(span.frames for span in goal.spans), goal.answers)
            for frame in frames
        ]
        if not self._store.keep_to_weights(self._job, weights, places):
            raise _OtherWeights

    def _answer_prompts(self) -> Iterator[None]:
        """Masks for the prompts that no sweep began with."""
        if not self._unanswered:
            return
        prompts = {goal.object_id: goal.prompts for goal in self._work.goals}
        with self._opened() as tracker:
            for object_id, frame in sorted(self._unanswered, key=lambda item: item[1]):
                if self._stopped():
                    return
                self._prompt(tracker, frame, object_id, prompts[object_id][frame])
                yield

    def _prompt(self, tracker: Tracker, frame: int, object_id: str, prompt: PixelPrompt) -> None:
        """Prompt the tracker, and store what it answers where that is wanted."""
        answer = tracker.prompt(frame, object_id, prompt)
        digest = self._unanswered.pop((object_id, frame), None)
        if digest is not None:
            self._put([replace(self._tracked(answer, frame, digest), prompted=True)])

    def _tracked(
        self, found: TrackedObject, frame: int, anchor: str, stride: int = 1
    ) -> TrackedMask:
        known = found.mask, found.iou, found.presence, False, stride, found.elsewhere
        return TrackedMask(found.object_id, frame, anchor, *known)

    def _put(self, found: list[TrackedMask]) -> None:
        self._store.put_masks(self._job.track, found, job_id=self._job.id, done=self._done)
        self.has_stored = True
        self.pace.mark(time.monotonic(), self._done)
        self._stored()


class Pace:
    """Masks over time of one run of a job, with the times that it gives its place away; frames of
    earlier runs do not count, nor does waiting to begin."""

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
