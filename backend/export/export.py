"""``python -m backend export``: masks with page or frame, object and label."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from backend.expected import ExpectedError
from backend.export.formats import WRITERS, Writer
from backend.export.masks import Kind, MaskReader, Media, Origin
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import newest_results
from backend.labelstudio.tags import LabelConfig
from backend.media.resolver import MediaResolver
from backend.runs.command_line import CommandError, say
from backend.runs.projects import read_project, read_task
from backend.wiring import Wiring


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="export masks of tasks with page or frame, object and label",
        description="Exports the newest annotation of each task. Run it with the settings of the "
        "service, whose store holds the masks behind the boxes of videos.",
    )
    parser.add_argument("--task", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--project", type=int, help="all tasks of a project")
    parser.add_argument("--format", choices=sorted(WRITERS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument(
        "--predictions", action="store_true", help="of tasks without annotation, the prediction"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    if not arguments.task and arguments.project is None:
        raise CommandError("Say what to export: --task N (may be repeated) or --project N.")
    client = wiring.connect()
    with (
        closing(wiring.media(client)) as resolver,
        closing(wiring.tracks()) as store,
        closing(wiring.decoder(warm=1)) as decoder,
    ):
        reader = MaskReader(store, wiring.base_model().version, decoder.masks)
        export = _Export(arguments, reader, resolver, wiring.settings.state_dir.expanduser())
        for task in _chosen_tasks(client, arguments.task, arguments.project):
            export.task(task)
    return export.finish()


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


@dataclass
class _Export:
    """Writes task after task, and counts."""

    arguments: argparse.Namespace
    reader: MaskReader
    resolver: MediaResolver
    state_dir: Path  # where masks behind the boxes of videos were looked for
    writer: Writer | None = None
    counts: Counter[Origin] = field(default_factory=Counter)
    on_videos: Counter[Origin] = field(default_factory=Counter)
    untracked: int = 0  # videos none of whose boxes has a mask
    tasks: int = 0
    empty: int = 0
    failed: int = 0

    def task(self, task: ProjectTask) -> None:
        """Export a task; one that cannot be is named, and the others go on."""
        before = self.counts.total()
        try:
            for media in self._media(task):
                self._write(media, task.config)
        except ExpectedError as error:
            self.failed += 1
            say(f"task {task.task_id} failed: {error}")
            return
        self.tasks += 1
        if self.counts.total() == before:
            self.empty += 1

    def _media(self, task: ProjectTask) -> Iterator[Media]:
        kinds = ("annotations", "predictions") if self.arguments.predictions else ("annotations",)
        results = newest_results(task.task, *kinds)
        yield from self.reader.pictures(task, results)
        yield from self.reader.videos(task, results, self.resolver)

    def _write(self, media: Media, config: LabelConfig) -> None:
        if self.writer is None:
            self.writer = WRITERS[self.arguments.format](self.arguments.out, _labels(config))
        origins: Counter[Origin] = Counter()
        try:
            for page in media.pages():
                self.writer.page(media, page)
                origins.update(mask.origin for mask in page.masks)
        finally:
            self.writer.end(media)
        self.counts += origins
        if media.kind is Kind.VIDEO:
            self.on_videos += origins
            self.untracked += not origins[Origin.TRACKED]

    def finish(self) -> int:
        """Close the files and say what is in them; returns the exit code."""
        if self.writer is not None:
            self.writer.close()
        masks = self.counts.total()
        if not masks and not self.failed:
            raise CommandError(
                "There is nothing to export: no task has a mask or box in an annotation that was "
                "submitted (--predictions takes predictions too)."
            )
        boxes = self.counts[Origin.BOX]
        filled = f", {boxes} of them boxes, filled: no mask is known there" if boxes else ""
        nothing = f"; {self.empty} without masks" if self.empty else ""
        say(f"{masks} masks of {self.tasks} tasks in {self.arguments.out}{filled}{nothing}")
        if total := self.on_videos.total():
            known = self.on_videos[Origin.TRACKED]
            say(f"{known} of {total} boxes on videos have a tracked mask in {self.state_dir}")
        if self.untracked:
            say(
                f"warning: {self.untracked} videos have none there. If they were tracked, export "
                "with STATE_DIR and SAM2_VARIANT as the service has them (--env-file)."
            )
        if self.failed:
            say(f"{self.failed} tasks failed")
        return 1 if self.failed else 0


def _labels(config: LabelConfig) -> list[str]:
    controls = (*config.answers, *config.other_shapes)
    labels = [label for control in controls for label in control.labels]
    labels += [label for tag in config.labels_tags for label in tag.labels]
    return list(dict.fromkeys(label.name for label in labels))
