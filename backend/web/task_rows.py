"""The tasks of a project as the page lists them: what is known of each, sorted, filtered, paged.

Of a task that was tracked, its newest job counts. What its masks say is worked out once for every
state of the track, a little at a time, so that a page never waits for ten thousand of them.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.job_state import JobState, iso_time
from backend.recent_values import Recent
from backend.runs.labeller import worst_stretch
from backend.runs.run_report import every_task
from backend.runs.run_store import RunStore, RunTask, TaskState
from backend.tracking.review import doubts
from backend.tracking.store import Job, Sighting, TrackStore

PAGE = 50
_SECONDS = 0.3  # a page spends on tracks that it has not looked at yet
_RUNS_LOOKED_AT = 20  # for one that is no dry run
_FRESH = 4.0  # seconds, for which a list is shown as it was read
_RUNNING_SECONDS = 20.0
_KEPT = 20_000
_KEPT_SECONDS = 30 * 86_400.0
_STRETCH = 25  # frames in a row whose mean confidence counts: about a second


@dataclass(frozen=True)
class TrackSummary:
    """What the masks of a track say.

    Attributes:
        worst, mean: predicted IoU, 0 to 1: of the worst stretch of an object, and of all masks;
            None without masks.
        looks: frames to look at.
        frame: the first of them, else the first with a mask; from 0.
    """

    objects: int
    worst: float | None
    mean: float | None
    looks: int
    frame: int


@dataclass(frozen=True)
class TaskRow:
    """A task as it is listed.

    Attributes:
        job: id of the job that tracks it; empty for a task of pictures.
        summary: None where its masks were not looked at yet, or are not here.
    """

    task: int | str
    job: str
    state: str
    done: int
    total: int
    message: str
    updated: float
    summary: TrackSummary | None = None

    def as_json(self) -> dict[str, Any]:
        known = asdict(self.summary) if self.summary else dict.fromkeys(_KNOWN)
        row = {name: getattr(self, name) for name in ("task", "job", "state", "done", "total")}
        return {**row, "message": self.message, "updated": iso_time(self.updated), **known}


_KNOWN = tuple(TrackSummary.__annotations__)
_LAST = float("inf")


def _worst(row: TaskRow) -> float:
    return _LAST if row.summary is None or row.summary.worst is None else row.summary.worst


def _mean(row: TaskRow) -> float:
    return _LAST if row.summary is None or row.summary.mean is None else row.summary.mean


SORTS: dict[str, Callable[[TaskRow], Any]] = {
    "worst": _worst,
    "mean": _mean,
    "looks": lambda row: -(row.summary.looks if row.summary else -1),
    "task": lambda row: (
        not isinstance(row.task, int),
        row.task if isinstance(row.task, int) else 0,
    ),
    "updated": lambda row: -row.updated,
}
"""By name: what comes first is the smallest; what is not known comes last."""
STATES = (*JobState, TaskState.STORED, TaskState.SKIPPED)
"""Of jobs, and of the tasks of runs that no job tracks."""


@dataclass(frozen=True)
class TaskQuery:
    """What a page asks for.

    Attributes:
        state: only these; "" for all.
        doubtful: only tasks with frames to look at.
        task: only this one.
        page: from 1.
    """

    sort: str = "worst"
    state: str = ""
    doubtful: bool = False
    task: int | None = None
    page: int = 1

    def wants(self, row: TaskRow) -> bool:
        looks = row.summary.looks if row.summary else 0
        return (
            (not self.state or row.state == self.state)
            and (not self.doubtful or looks > 0)
            and (self.task is None or row.task == self.task)
        )


@dataclass(frozen=True)
class TaskPage:
    """A page of tasks.

    Attributes:
        found: tasks that the query leaves.
        unread: tasks of the project whose masks were not looked at yet.
    """

    rows: list[TaskRow]
    found: int
    pages: int
    page: int
    unread: int


class TaskRows:
    """Lists the tasks of projects."""

    def __init__(
        self, store: TrackStore, runs: RunStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._runs = runs
        self._clock = clock
        self._summaries: Recent[TrackSummary] = Recent(entries=_KEPT, seconds=_KEPT_SECONDS)
        self._of_running: Recent[TrackSummary] = Recent(
            entries=_KEPT, seconds=_RUNNING_SECONDS, clock=clock
        )
        self._listed: Recent[list[TaskRow]] = Recent(entries=20, seconds=_FRESH, clock=clock)
        self._listing = threading.Lock()

    def page(self, project: int, query: TaskQuery) -> TaskPage:
        """Those that a query asks for."""
        rows = self._rows(project)
        found = sorted(filter(query.wants, rows), key=SORTS[query.sort])
        pages = max(1, -(-len(found) // PAGE))
        page = min(query.page, pages)
        unread = sum(row.summary is None for row in rows)
        return TaskPage(found[(page - 1) * PAGE : page * PAGE], len(found), pages, page, unread)

    def _rows(self, project: int) -> list[TaskRow]:
        """All of a project: read once for all who look at it in the same moment."""
        with self._listing:
            rows = self._listed.get(project)
            if rows is None:
                tracked = self._summarised(self._newest(project))
                rows = [*tracked, *self._of_the_last_run(project, {row.task for row in tracked})]
                self._listed.put(project, rows)
            return rows

    def forget(self, project: int) -> None:
        """Read the tasks of a project anew: something was done to them."""
        self._listed.forget(lambda key: key == project)

    def _newest(self, project: int) -> Iterable[Job]:
        """The newest job of each task."""
        newest: dict[object, Job] = {}
        for job in self._store.jobs(project=project):
            newest.setdefault(job.task, job)
        return newest.values()

    def _of_the_last_run(self, project: int, tracked: set[int | str]) -> Iterator[TaskRow]:
        """The tasks of the newest run that is no dry one, but for those that are tracked."""
        newest = self._runs.runs(project=project, limit=_RUNS_LOOKED_AT)
        run = next((each for each in newest if not each.request.dry_run), None)
        for task in every_task(run.id, self._runs) if run is not None else ():
            if task.task not in tracked:
                yield _of_a_run(task, run.updated if run is not None else 0.0)

    def _summarised(self, jobs: Iterable[Job]) -> list[TaskRow]:
        end = self._clock() + _SECONDS
        rows = []
        for job in jobs:
            # A track that goes on is looked at anew now and then only.
            kept = self._summaries if job.state.ended else self._of_running
            key = job.track, job.done if job.state.ended else 0
            summary = kept.get(key)
            if summary is None and self._clock() < end:
                summary = summarise(self._store.sightings(job.track))
                kept.put(key, summary)
            task = job.task if job.task is not None else "?"
            row = TaskRow(task, job.id, job.state, job.done, job.total, job.message, job.updated)
            rows.append(replace(row, summary=summary))
        return rows


def _of_a_run(task: RunTask, updated: float) -> TaskRow:
    """A task of a run; its objects are known by label, and its masks are in Label Studio."""
    found = task.found.objects.values()
    objects = sum(count for count, _, _ in found)
    summary = TrackSummary(
        objects=objects,
        worst=task.score,
        mean=sum(total for _, total, _ in found) / objects if objects else None,
        looks=len(task.found.looks) + task.found.more_looks,
        frame=0,
    )
    done = int(task.state is TaskState.STORED)
    return TaskRow(task.task, "", task.state, done, 1, task.message, updated, summary)


def summarise(masks: list[Sighting]) -> TrackSummary:
    """What the masks of a track say.

    Args:
        masks: in order of object and frame.
    """
    by_object: defaultdict[str, list[Sighting]] = defaultdict(list)
    for each in masks:
        by_object[each.object_id].append(each)
    stretches = [worst_stretch(of_object, _STRETCH) for of_object in by_object.values()]
    present = [each for each in masks if each.area]
    looks = sorted({doubt.frame for doubt in doubts(masks)})
    first = looks or sorted(each.frame for each in present)
    return TrackSummary(
        objects=len(by_object),
        worst=min((each for each in stretches if each is not None), default=None),
        mean=sum(each.iou for each in present) / len(present) if present else None,
        looks=len(looks),
        frame=first[0] if first else 0,
    )
