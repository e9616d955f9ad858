"""The words of the text box that mean the same on sequences and on videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backend.engine.engine import Engine
from backend.labelstudio.commands import TRACK_HELP, ParsedCommand, TextKind, Word
from backend.labelstudio.project_task import ProjectTask
from backend.tracking.runner import JobRunner
from backend.tracking.store import Job, TrackStore

JobRequest = Mapping[str, Any]
"""All that is needed to run a job, now or after a restart, as JSON."""

TRACK = ParsedCommand(TextKind.COMMAND, Word.TRACK, "track")


class TrackCommands:
    """Does with the jobs of a track what a command says; a reply waits up to ``budget_seconds``.

    Args:
        retract: takes an ended job all of which the editor has got: nothing of it is to be stored
            in Label Studio.
    """

    def __init__(
        self,
        store: TrackStore,
        engine: Engine,
        jobs: JobRunner,
        budget_seconds: float,
        retract: Callable[[Job], None],
    ) -> None:
        self.store = store
        self.engine = engine
        self.jobs = jobs
        self.budget_seconds = budget_seconds
        self.retract = retract

    def carry_out(
        self, parsed: ParsedCommand, track: str, plan: Callable[[], JobRequest | str]
    ) -> Job | str | None:
        """Do what a command says.

        Args:
            plan: the request of the job that is to track, or why there is none.

        Returns:
            The job whose masks are to be shown; or the text that is the whole answer, None to
            empty the text box.
        """
        match parsed.word:
            case Word.TRACK | Word.REDO:
                request = plan()
                if isinstance(request, str):
                    return request
                if parsed.word is Word.REDO:
                    self.cancel(track)
                    self.store.forget_masks(track)
                return self.run(track, request)
            case Word.STATUS:
                jobs = self.store.jobs(track=track, limit=1)
                return jobs[0] if jobs else self.engine.status().detail
            case Word.STOP:
                stopped = self.cancel(track)
                return "stopped; what is done stays" if stopped else "nothing is being tracked"
            case Word.CLEAR:
                self.cancel(track)
                self.store.forget(track)
                return None
        return TRACK_HELP

    def run(self, track: str, request: JobRequest, *, wait: bool = True) -> Job:
        """Begin or join a job, and wait for it as long as the reply may.

        The result of a job that goes on is delivered when it ends.
        """
        job = self.jobs.submit(track, request)
        if wait:
            job = self.jobs.wait(job.id, self.budget_seconds)
        if not job.state.ended and not self.store.ask_delivery(job.id):
            return self.store.job(job.id) or job  # it has just ended
        return job

    def run_instead(self, track: str, request: JobRequest) -> Job:
        """Begin or join a job in the place of those that run on its track, without waiting; its
        result is delivered when it ends."""
        job = self.jobs.submit(track, request, deliver=True)
        for other in self.store.jobs(track=track, unfinished=True):
            if other.id != job.id:
                self.jobs.cancel(other.id)
        return self.store.job(job.id) or job

    def cancel(self, track: str) -> bool:
        """Stop what runs on a track; returns whether anything did."""
        running = self.store.jobs(track=track, unfinished=True)
        for job in running:
            self.jobs.cancel(job.id)
        for job in running:
            self.jobs.wait(job.id, self.budget_seconds)
        return bool(running)


def frames_asked_for(
    parsed: ParsedCommand, first: int, last: int, units: str = "frames"
) -> tuple[int, int] | str:
    """The first and the last frame or page that a command is about, of those from ``first`` to
    ``last``, as the editor counts; or why there are none."""
    begin, end = parsed.frames or (first, last)
    if begin > end or begin > last:
        return f"there is no range {begin}-{end}: the {units} are {first}-{last}"
    return max(begin, first), min(end, last)


def job_request(task: ProjectTask, parsed: ParsedCommand, first: int, last: int) -> JobRequest:
    """What stands in the request of every job that a command asks for."""
    direction = parsed.direction or ("both" if parsed.frames else "forward")
    stride = {} if parsed.stride is None else {"stride": parsed.stride}
    return {**task.as_json(), **stride, "first": first, "last": last, "direction": direction}
