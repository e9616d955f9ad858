"""``python -m backend preannotate``: a project labelled ahead, unattended."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from backend.expected import ExpectedError
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.commands import ParsedCommand, TextKind, Word
from backend.runs.command_line import CommandError, positive_number, say
from backend.runs.labeller import Labelled, Labeller, Stopped
from backend.runs.projects import Project, read_project
from backend.runs.prompt_sources import (
    Prompts,
    There,
    mark_kinds,
    marks_of,
    own_predictions,
    why_nothing_to_do,
)
from backend.runs.review_file import ReviewFile
from backend.tracking.store import Job
from backend.wiring import Wiring

logger = logging.getLogger(__name__)

MODEL_SECONDS = 1800.0  # for loading, weights may have to be downloaded
FETCH_SECONDS = 1800.0  # for one video
PROGRESS_SECONDS = 5.0
OUTCOMES = ("stored", "skipped", "failed", "planned")
UNMARKED = "no box or click to start from: it holds "


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "preannotate",
        help="label the tasks of a project ahead, from boxes or masks they hold",
        description="Stores one prediction per task. Started again after a stop, it goes on.",
    )
    parser.add_argument("--project", type=int, required=True)
    parser.add_argument(
        "--concurrency", type=positive_number, default=2, help="tasks side by side (2)"
    )
    parser.add_argument(
        "--direction", choices=["forward", "back", "both"], default="both", help="(both)"
    )
    parser.add_argument(
        "--range",
        type=_range,
        metavar="A-B",
        help="pages or frames as the editor counts, from 1",
    )
    parser.add_argument("--csv", type=Path, help="file for the frames that deserve a look")
    parser.add_argument("--limit", type=positive_number, help="look at the first N tasks only")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--force",
        action="store_true",
        help="also tasks that have a prediction of this model; it is replaced",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    client = wiring.connect()
    project = read_project(client, arguments.project)
    if not project.config.usable:
        raise CommandError("; ".join(project.config.problems) or "the label config takes no masks")
    report = _Report(wiring.model().version, arguments.force)
    tasks = islice(client.list_tasks(arguments.project), arguments.limit)
    try:
        if arguments.dry_run:
            for task in tasks:
                if report.wanted(task):
                    report.plan(task, project)
        else:
            _label_all(tasks, client, project, report, arguments, wiring)
    except BaseException:  # stopped from the keyboard, or Label Studio went away
        report.show()
        raise
    return report.finish()


class _Report:
    """What became of each task."""

    def __init__(self, model_version: str, force: bool) -> None:
        self._version = model_version
        self._force = force
        self._lock = threading.Lock()
        self._ended: dict[int, tuple[str, str]] = {}  # by task: what became of it, and a line
        self._said_at = time.monotonic()

    def add(self, task: int, what: str, line: str) -> None:
        """The last word on a task; ``what`` is one of ``OUTCOMES``."""
        with self._lock:
            self._ended[task] = what, line

    def wanted(self, task: Mapping[str, Any]) -> bool:
        """Whether the task is to be labelled; if not, why is noted."""
        if self._force or not own_predictions(task, self._version):
            return True
        self.add(int(task["id"]), "skipped", f"has a prediction of {self._version}")
        return False

    def plan(self, task: Mapping[str, Any], project: Project) -> None:
        marks = marks_of(task, self._version)
        kinds = mark_kinds(marks, project.config)
        if kinds:
            line = f"would be labelled ({' and '.join(sorted(kinds))}) from {len(marks)} results"
            self.add(int(task["id"]), "planned", line)
        else:
            self.add(int(task["id"]), "skipped", UNMARKED + why_nothing_to_do(marks))

    def progress(self, task: int, job: Job) -> None:
        """Say how far things are, every few seconds."""
        with self._lock:
            if time.monotonic() - self._said_at < PROGRESS_SECONDS:
                return
            self._said_at = time.monotonic()
            ended = len(self._ended)
        say(f"{ended} tasks ended; task {task}: {job.done} of {job.total} masks")

    def finish(self) -> int:
        """One line for each task, and the exit code.

        Raises:
            CommandError: no task has anything to start from.
        """
        lines = [line for _, line in self._ended.values()]
        if lines and all(line.startswith(UNMARKED) for line in lines):
            there = Counter(line.removeprefix(UNMARKED) for line in lines)
            raise CommandError(
                f"None of the {len(lines)} tasks has a box or click to start from "
                f"({', '.join(f'{count} with {what}' for what, count in there.items())}): "
                "draw some, or import a detector's boxes as predictions."
            )
        self.show()
        count = Counter(what for what, _ in self._ended.values())
        counts = [f"{count[what]} {what}" for what in OUTCOMES if count[what]]
        say(", ".join(counts) or "the project has no tasks", sys.stdout)
        return int(count["failed"] > 0)

    def show(self) -> None:
        for task, (_, line) in sorted(self._ended.items()):
            say(f"task {task}: {line}", sys.stdout)


def _label_all(
    tasks: Iterable[dict[str, Any]],
    client: LabelStudioClient,
    project: Project,
    report: _Report,
    arguments: argparse.Namespace,
    wiring: Wiring,
) -> None:
    """Label the tasks, a few at a time, read from Label Studio as they are needed."""
    review = ReviewFile(arguments.csv) if arguments.csv is not None else None
    settings = dataclasses.replace(
        wiring.settings, track_jobs=arguments.concurrency, track_budget_seconds=FETCH_SECONDS
    )
    wiring = Wiring(settings)
    service = wiring.service(wiring.engine(), for_editors=False)
    stopping = threading.Event()
    parsed = ParsedCommand(
        TextKind.COMMAND, Word.TRACK, "track", frames=arguments.range, direction=arguments.direction
    )
    source = There(lambda: service.engine.model_version)
    labeller = Labeller(service, project, parsed, source, stopping.is_set, report.progress)
    with closing(service):
        service.engine.wait_ready(MODEL_SECONDS)
        with ThreadPoolExecutor(arguments.concurrency, thread_name_prefix="label") as pool:
            try:
                under_way: set[Future[None]] = set()
                for task in tasks:
                    if not report.wanted(task):
                        continue
                    if len(under_way) >= 2 * arguments.concurrency:
                        _, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    under_way.add(pool.submit(_label_one, task, labeller, client, review, report))
                wait(under_way)
            except BaseException:  # the threads must end before it goes on its way
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _label_one(
    task: dict[str, Any],
    labeller: Labeller,
    client: LabelStudioClient,
    review: ReviewFile | None,
    report: _Report,
) -> None:
    number, model_version = int(task["id"]), labeller.service.engine.model_version
    try:
        made = labeller.label(task, _NothingKept())
        if made.nothing:
            report.add(number, "skipped", UNMARKED + made.nothing)
            return
        if review is not None:  # first: a task with a prediction is not looked at again
            review.put(number, made.remarks)
        if not made.results:
            report.add(number, "skipped", "nothing was found")
            return
        client.create_prediction(
            number, made.results, model_version=model_version, score=made.score
        )
        for earlier in own_predictions(task, model_version):
            client.delete_prediction(earlier)
    except Stopped:
        return
    except ExpectedError as error:
        report.add(number, "failed", f"failed: {error}")
        return
    except Exception:  # thread boundary: one task must not spoil the others
        logger.exception("task %s could not be labelled", number)
        report.add(number, "failed", "failed: a fault of this program; the log above says where")
        return
    report.add(number, "stored", _stored(made))


class _NothingKept:
    """Answers of a source that may be asked again at any time."""

    def recall(self, question: str) -> Prompts | None:
        return None

    def remember(self, question: str, answer: Prompts) -> None:
        pass


def _stored(made: Labelled) -> str:
    score = "" if made.score is None else f", score {made.score:.2f}"
    frames = len({(each.object_id, each.frame) for each in made.remarks})
    look = f", {frames} masks deserve a look" if frames else ""
    return f"stored {len(made.results)} results{score}{look}"


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError("must be two numbers such as 1-40, the smaller first")
    return int(match[1]), int(match[2])
