"""The runs of a service: queued, a few at work, paused, cancelled, taken up after a restart."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.metrics import Metrics
from backend.predict.dispatch import Dispatcher
from backend.predict.everything_command import EverythingFinder
from backend.predict.segment import Segmenter
from backend.runs.detector_source import DETECTOR, DetectorSource
from backend.runs.everything_source import EVERYTHING, open_everything
from backend.runs.label_tasks import LabelTasks
from backend.runs.projects import read_project
from backend.runs.prompt_sources import THERE, OpenSource, There
from backend.runs.run import OpenKind, RunAtWork, RunParts
from backend.runs.run_report import report, report_text, shown, shown_task
from backend.runs.run_request import LABEL, WARM, RunError, RunRequest, read_run_request
from backend.runs.run_store import Run, RunState, RunStore, TaskState
from backend.runs.warm_tasks import WarmTasks
from backend.settings import SettingsError
from backend.tracking.database import StoreError
from backend.wiring import Wiring

logger = logging.getLogger(__name__)

AT_WORK = 2  # runs of different projects, side by side
STOP_SECONDS = 5.0
ROOM_SECONDS = 30.0  # until it is known how large an embedding is; the run itself knows it by then
_OPEN = (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)


def kinds() -> dict[str, OpenKind]:
    """By name: what runs can do with tasks."""
    return {LABEL: LabelTasks, WARM: WarmTasks}


def sources(wiring: Wiring, service: Dispatcher) -> dict[str, OpenSource]:
    """By name: where the prompts of runs can come from."""
    engine = service.engine
    segmenter = Segmenter(engine, wiring.metrics)
    return {
        THERE: lambda options: There(lambda: engine.model_version),
        DETECTOR: partial(DetectorSource, service),
        EVERYTHING: open_everything(EverythingFinder(segmenter)),
    }


class Runs:
    """Starts runs and says how they are. Every method raises ``StoreError`` where the store cannot
    be used, and those about one run ``KeyError`` where there is none.

    Args:
        connect: makes the client for the work of runs, which is patient.
        ask: makes the client for a look at a project, whose answer somebody waits for.
    """

    def __init__(
        self,
        service: Dispatcher,
        metrics: Metrics,
        *,
        connect: Callable[[], LabelStudioClient],
        ask: Callable[[], LabelStudioClient | None],
        kinds: Mapping[str, OpenKind],
        sources: Mapping[str, OpenSource],
        **options: Any,
    ) -> None:
        self._service, self._metrics = service, metrics
        self._connect, self._ask = connect, ask
        self._kinds, self._sources = kinds, sources
        self._options = options
        self.store = RunStore(service.tracking.store.database)
        self._lock = threading.RLock()
        self._at_work: dict[str, RunAtWork] = {}
        self._closed = False
        self._export()

    def submit(self, body: object) -> dict[str, Any]:
        """Queue the run that a JSON value asks for.

        Raises:
            RunError, SettingsError: it cannot be done.
            LabelStudioError: the project cannot be looked at.
        """
        request = read_run_request(body)
        if request.kind not in self._kinds:
            raise RunError(f"kind must be one of {', '.join(sorted(self._kinds))}")
        if request.source not in self._sources:
            raise RunError(f"source must be one of {', '.join(sorted(self._sources))}")
        self._sources[request.source](request.source_options)
        self._check(request)
        run = self.store.add(uuid.uuid4().hex[:12], request)
        logger.info("run %s on project %d is queued", run.id, request.project)
        self._schedule()
        return self.get(run.id)

    @property
    def sources(self) -> list[str]:
        """Where the prompts of a run may come from, by name."""
        return sorted(self._sources)

    def newest(
        self, *, project: int | None = None, unfinished: bool = False, limit: int
    ) -> list[dict[str, Any]]:
        """Runs as JSON, the newest first."""
        found = self.store.runs(project=project, unfinished=unfinished, limit=limit)
        return [self._shown(run) for run in found]

    def get(self, run_id: str) -> dict[str, Any]:
        """A run as JSON."""
        return self._shown(self.store.get(run_id))

    def tasks(
        self, run_id: str, *, state: TaskState | None, after: int, limit: int
    ) -> list[dict[str, Any]]:
        """Tasks of a run as JSON, behind a position."""
        self.store.get(run_id)
        found = self.store.tasks(run_id, state=state, after=after, limit=limit)
        return [shown_task(each) for each in found]

    def report(self, run_id: str) -> dict[str, Any]:
        """What came of a run, as JSON; ``text`` is for people."""
        run = self.store.get(run_id)
        room = self._service.engine.disk_room(ROOM_SECONDS) if run.request.kind == WARM else None
        found = report(run, self.store, self._metrics.mean_seconds, room)
        now = self._shown(run)
        return {"run": now, **found, "text": report_text(now, found)}

    def pause(self, run_id: str) -> dict[str, Any]:
        """Stop a run within the frames it is at; it keeps its place, and what is done."""
        return self._put_down(run_id, RunState.PAUSED)

    def cancel(self, run_id: str) -> dict[str, Any]:
        """End a run within the frames it is at; what is done stays."""
        return self._put_down(run_id, RunState.CANCELLED)

    def resume(self, run_id: str) -> dict[str, Any]:
        """Go on with a run where it stopped; tasks that failed are tried again."""
        self.store.get(run_id)
        before = [RunState.PAUSED, RunState.DONE, RunState.FAILED, RunState.CANCELLED]
        if self.store.turn(run_id, before, RunState.QUEUED):
            self.store.queue_again(run_id)
            logger.info("run %s is to go on", run_id)
            self._schedule()
        return self.get(run_id)

    def take_up(self) -> None:
        """Go on with what a stopped process left unfinished."""
        try:
            self._schedule()
        except StoreError as error:
            logger.error("runs that were not finished cannot be looked up: %s", error)

    def stop_soon(self) -> None:
        """Begin to stop what is at work; it is taken up at the next start."""
        with self._lock:
            self._closed = True
            for each in self._at_work.values():
                each.stop()

    def close(self) -> None:
        """Stop within the frames under way."""
        self.stop_soon()
        end = time.monotonic() + STOP_SECONDS
        for each in list(self._at_work.values()):
            each.join(max(0.0, end - time.monotonic()))

    def _check(self, request: RunRequest) -> None:
        client = self._ask()
        if client is None:
            raise SettingsError(
                "A run reads the tasks of a project and stores predictions there: set "
                "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY for the service."
            )
        project = read_project(client, request.project)
        if not project.config.usable:
            problems = "; ".join(project.config.problems)
            raise RunError(problems or "the label config takes no masks")

    def _put_down(self, run_id: str, state: RunState) -> dict[str, Any]:
        before = [*_OPEN] if state is RunState.PAUSED else [*_OPEN, RunState.PAUSED]
        self.store.get(run_id)
        if self.store.turn(run_id, before, state):
            logger.info("run %s is %s", run_id, state)
            with self._lock:
                if run_id in self._at_work:
                    self._at_work[run_id].stop()
        return self.get(run_id)

    def _schedule(self) -> None:
        """Begin what may run: those of one project one after another, the oldest first."""
        with self._lock:
            projects = {each.project for each in self._at_work.values()}
            for run in reversed(self.store.runs(unfinished=True)):
                if self._closed or len(self._at_work) >= AT_WORK:
                    return
                project = run.request.project
                if run.state not in _OPEN or project in projects:
                    continue
                projects.add(project)
                try:
                    parts = RunParts(
                        *(self.store, self._service, self._connect(), self._kinds, self._sources),
                        **self._options,
                    )
                except (SettingsError, LabelStudioError) as error:
                    self.store.turn(run.id, _OPEN, RunState.FAILED, str(error))
                    continue
                at_work = RunAtWork(run, parts, partial(self._ended, run.id))
                self._at_work[run.id] = at_work
                at_work.start()

    def _ended(self, run_id: str) -> None:
        with self._lock:
            del self._at_work[run_id]
        self.take_up()

    def _shown(self, run: Run) -> dict[str, Any]:
        return shown(run, self.store, self._at_work.get(run.id))

    def _export(self) -> None:
        self._metrics.gauges(
            "sam2_runs", "Runs through whole projects, by state", "state", self._states
        )
        self._metrics.gauge(
            "sam2_run_tasks_per_hour",
            "Tasks that the runs at work end in an hour, as it has been lately",
            lambda: sum(each.tasks_per_hour or 0.0 for each in list(self._at_work.values())),
        )

    def _states(self) -> dict[str, int]:
        try:
            return self.store.states()
        except StoreError:  # the other metrics are needed now
            return {}


def open_runs(wiring: Wiring, service: Dispatcher) -> Runs:
    """The runs of a service, and those of an earlier process taken up."""
    runs = Runs(
        service,
        wiring.metrics,
        connect=wiring.connect,
        ask=wiring.label_studio,
        kinds=kinds(),
        sources=sources(wiring, service),
    )
    runs.take_up()
    return runs
