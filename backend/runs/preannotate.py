"""``python -m backend preannotate``: a run through a project, in the service, and followed."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.expected import counted
from backend.files import replacing
from backend.runs.command_line import CommandError, positive_number, say
from backend.runs.label_tasks import UNMARKED
from backend.runs.review_file import Remark, ReviewFile
from backend.runs.run_request import DIRECTIONS, LABEL, WARM, RunRequest
from backend.runs.run_store import RunState, TaskState
from backend.runs.service_client import ServiceClient, ServiceGone
from backend.wiring import Wiring

PROGRESS_SECONDS = 5.0  # between lines, where there is no terminal
POLL_SECONDS = 0.5
GONE_SECONDS = 900.0  # in which a service that is restarted is waited for
OUTCOMES = (TaskState.STORED, TaskState.SKIPPED, TaskState.FAILED, TaskState.PLANNED)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "preannotate",
        help="have the service label the tasks of a project ahead, and follow it",
        description="Stores one prediction per task. The service does the work, and goes on where "
        "it was if it is restarted. Stopped from the keyboard, the run is cancelled; started "
        "again, it goes on.",
    )
    parser.add_argument("--project", type=int, required=True)
    parser.add_argument(
        "--kind",
        choices=(LABEL, WARM),
        default=LABEL,
        help="label: store predictions; warm: only encode the pictures ahead, for the disk",
    )
    parser.add_argument(
        "--url",
        help="the service's address (that of the settings, on this machine); its credentials are "
        "those of the environment",
    )
    parser.add_argument(
        "--concurrency", type=positive_number, default=2, help="tasks side by side (2)"
    )
    parser.add_argument("--direction", choices=DIRECTIONS, default="both", help="(both)")
    parser.add_argument(
        "--range",
        type=_range,
        metavar="A-B",
        help="pages or frames as the editor counts, from 1",
    )
    parser.add_argument(
        "--stride", type=positive_number, help="track every n-th frame, interpolate between"
    )
    parser.add_argument("--source", default="there", help="where the prompts come from (there)")
    parser.add_argument("--text", help="what the source looks for, in words")
    parser.add_argument("--label", help="of what the source finds without one")
    parser.add_argument("--cap", type=positive_number, help="the most objects of a picture")
    parser.add_argument(
        "--every", type=positive_number, help="ask the source on every n-th page or frame"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--view", type=positive_number, help="tasks of a tab of the Data Manager")
    which.add_argument(
        "--tasks", type=positive_number, nargs="+", metavar="N", help="only these tasks"
    )
    parser.add_argument(
        "--only-unlabelled", action="store_true", help="leave out tasks with an annotation"
    )
    parser.add_argument("--csv", type=Path, help="file for the frames that deserve a look")
    parser.add_argument("--report", type=Path, help="file for the report, as JSON")
    parser.add_argument("--limit", type=positive_number, help="look at the first N tasks only")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what would be done, and how long it would take",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also tasks that have a prediction of this model; it is replaced",
    )
    parser.add_argument(
        "--detach", action="store_true", help="start it, say its number, and do not wait"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    review = ReviewFile(arguments.csv) if arguments.csv is not None else None
    client = ServiceClient(wiring.settings, arguments.url, verify=wiring.verify)
    started = client.ask("POST", "/runs", body=_request(arguments))
    name = started["id"]
    if arguments.detach:
        say(name, sys.stdout)
        return 0
    try:
        ended = _follow(client, name)
    except KeyboardInterrupt:
        client.ask("POST", f"/runs/{name}/cancel")
        _show(client, name, review)
        raise
    return _finish(client, ended, arguments, review)


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    names = RunRequest.__annotations__.keys() - {"kind", "overwrite"}
    body = {name: getattr(arguments, name) for name in names}
    return {**body, "kind": arguments.kind, "overwrite": arguments.force}


def _follow(client: ServiceClient, name: str) -> dict[str, Any]:
    """The run when it has ended, or was paused by somebody else."""
    gone_since: float | None = None
    with _progress() as show:
        while True:
            try:
                now = client.ask("GET", f"/runs/{name}")
            except ServiceGone as error:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > GONE_SECONDS:
                    raise CommandError(
                        f"{error} The run {name} goes on when it is there again."
                    ) from None
                show(None, "the service does not answer; waiting for it")
            else:
                gone_since = None
                show(now, now["message"])
                state = RunState(now["state"])
                if state.ended or state is RunState.PAUSED:
                    return dict(now)
            time.sleep(POLL_SECONDS)


@contextmanager
def _progress() -> Iterator[Any]:
    """What shows how far a run is: a bar on a terminal, else a line now and then."""
    is_terminal = sys.stderr.isatty()
    said_at, said = time.monotonic(), ""
    with tqdm(unit=" tasks", dynamic_ncols=True) if is_terminal else nullcontext() as bar:

        def show(now: dict[str, Any] | None, message: str) -> None:
            nonlocal said_at, said
            ended = 0 if now is None else sum(now["counts"][each] for each in OUTCOMES)
            if bar is not None:
                if now is not None:
                    bar.total = now["total"]
                    bar.n = ended
                bar.set_postfix_str(message[:200], refresh=True)
            elif message != said or time.monotonic() - said_at >= PROGRESS_SECONDS:
                said_at, said = time.monotonic(), message
                progress = "" if now is None else f"{_of_all(ended, now['total'])} ended"
                if line := "; ".join(part for part in (progress, message) if part):
                    say(line)

        yield show


def _of_all(ended: int, total: int | None) -> str:
    return counted(ended, "task") if total is None else f"{ended} of {counted(total, 'task')}"


def _finish(
    client: ServiceClient,
    ended: dict[str, Any],
    arguments: argparse.Namespace,
    review: ReviewFile | None,
) -> int:
    """One line for each task, the report, and the exit code.

    Raises:
        CommandError: the run failed, or no task has anything to start from.
    """
    name = ended["id"]
    tasks = list(_tasks(client, name))
    found = client.ask("GET", f"/runs/{name}/report")
    if arguments.report is not None:
        with replacing(arguments.report) as partial:
            partial.write_text(json.dumps(found, indent=2), encoding="utf-8")
    lines = [each["message"] for each in tasks]
    if ended["state"] == RunState.FAILED:
        raise CommandError(ended["message"])
    if lines and all(line.startswith(UNMARKED) for line in lines):
        none = (
            "The only task has no" if len(lines) == 1 else f"None of the {len(lines)} tasks has a"
        )
        there = Counter(line.removeprefix(UNMARKED) for line in lines)
        raise CommandError(
            f"{none} box or click to start from "
            f"({', '.join(f'{count} with {what}' for what, count in there.items())}): "
            "draw some, import a detector's boxes as predictions, or choose another --source."
        )
    counted = _show(client, name, review, tasks)
    say(found["text"])
    return int(counted["failed"] > 0 or ended["state"] != RunState.DONE)


def _show(
    client: ServiceClient,
    name: str,
    review: ReviewFile | None,
    tasks: list[dict[str, Any]] | None = None,
) -> Counter[str]:
    """A line for each task that has ended; returns how many ended how."""
    counted: Counter[str] = Counter()
    ended = [each for each in tasks or _tasks(client, name) if each["state"] in OUTCOMES]
    for each in sorted(ended, key=lambda task: task["task"]):
        counted[each["state"]] += 1
        say(f"task {each['task']}: {each['message']}", sys.stdout)
        if review is not None and each["state"] == TaskState.STORED:
            review.put(each["task"], [_remark(look) for look in each["looks"]])
    counts = [f"{counted[state]} {state}" for state in OUTCOMES if counted[state]]
    say(", ".join(counts) or "the project has no tasks", sys.stdout)
    return counted


def _remark(look: dict[str, Any]) -> Remark:
    return Remark(look["object"], look["label"], look["frame"], look["reason"])


def _tasks(client: ServiceClient, name: str) -> Iterator[dict[str, Any]]:
    after: dict[str, int] = {}
    while found := client.ask("GET", f"/runs/{name}/tasks", params=after)["tasks"]:
        yield from found
        after = {"after": found[-1]["position"]}


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError("must be two numbers such as 1-40, the smaller first")
    return int(match[1]), int(match[2])
