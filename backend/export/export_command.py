"""``python -m backend export``: masks with page or frame, object and label."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from backend.export.export import Order, export_to_folder, opened_source
from backend.export.formats import WRITERS
from backend.export.writer import Options, read_detail, read_share
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.project_task import ProjectTask
from backend.runs.command_line import CommandError, say
from backend.runs.projects import read_project, read_task
from backend.wiring import Wiring


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="export masks of tasks with page or frame, object and label",
        description="Exports the newest annotation of each task. Started again with the same "
        "folder, it writes only what has changed. Run it with the settings of the service, whose "
        "store holds the masks behind the boxes of videos.",
    )
    parser.add_argument("--task", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--project", type=int, help="all tasks of a project")
    parser.add_argument("--format", choices=sorted(WRITERS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument(
        "--predictions", action="store_true", help="of tasks without annotation, the prediction"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="the pictures, and frames of videos, too"
    )
    parser.add_argument(
        "--segmentation",
        choices=("rle", "polygons"),
        default="rle",
        help="of coco and youtube-vis: exact run lengths (rle), or polygons",
    )
    parser.add_argument(
        "--detail",
        type=_argument(read_detail),
        help="how far polygons may leave the masks, in pixels (POLYGON_DETAIL; else as far as they "
        "keep an IoU of 0.98)",
    )
    parser.add_argument(
        "--val",
        type=_argument(read_share),
        default=Options.val,
        help="of yolo and davis: share of tasks for validation",
    )
    parser.add_argument(
        "--split-by",
        choices=("task", "page"),
        default="task",
        help="of yolo: whether the pages of a task stay together (task)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    if not arguments.task and arguments.project is None:
        raise CommandError("Say what to export: --task N (may be repeated) or --project N.")
    detail = arguments.detail
    options = Options(
        pictures=arguments.pictures,
        polygons=arguments.segmentation == "polygons",
        detail=wiring.settings.polygon_detail if detail is None else detail,
        val=arguments.val,
        by_page=arguments.split_by == "page",
    )
    order = Order(arguments.format, options, arguments.predictions)
    tasks = _chosen_tasks(wiring.connect(), arguments.task, arguments.project)
    with opened_source(wiring) as source:
        export = export_to_folder(order, tasks, arguments.out, source, say)
    for line in export.lines(str(arguments.out)):
        say(line)
    return 1 if export.failures else 0


def _chosen_tasks(
    client: LabelStudioClient, tasks: list[int], project: int | None
) -> Iterator[ProjectTask]:
    project_of = cache(partial(read_project, client))
    for number in tasks:
        task = read_task(client, number)
        yield project_of(int(task.get("project") or 0)).with_task(task)
    if project is not None:
        whole = project_of(project)
        for task in client.list_tasks(project):
            if task.get("id") not in tasks:
                yield whole.with_task(task)


def _argument(read: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
