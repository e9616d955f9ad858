"""Masks of tasks, written in a format task by task; what has not changed is left as it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backend.expected import ExpectedError, counted
from backend.export.formats import WRITERS
from backend.export.ledger import Ledger, Pages
from backend.export.masks import Kind, MaskPage, MaskReader, Media, Origin
from backend.export.medium_pictures import MediumPictures, pictures_of
from backend.export.outlets import FolderOutlet, Outlet, ZipOutlet
from backend.export.polygons import LEAST_IOU
from backend.export.writer import Options, Writer
from backend.labelstudio.json_values import Results
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import newest_results
from backend.labelstudio.tags import LabelConfig
from backend.media.resolver import MediaResolver
from backend.runs.command_line import CommandError
from backend.wiring import Wiring

VERSION = 1  # of what is written: a higher one writes everything anew
REPORT = "export.txt"
NOTHING = (
    "There is nothing to export: no task has a mask or box in an annotation that was "
    "submitted (--predictions takes predictions too)."
)


@dataclass(frozen=True)
class Source:
    """Where masks and pictures are read.

    Attributes:
        state_dir: where masks behind the boxes of videos are looked for.
        decode: makes pixels of a file.
    """

    reader: MaskReader
    resolver: MediaResolver
    decode: Callable[[Path], np.ndarray]
    state_dir: Path


@contextmanager
def opened_source(wiring: Wiring) -> Iterator[Source]:
    """A source of its own, with the settings of the service."""
    with (
        closing(wiring.media(wiring.connect())) as resolver,
        closing(wiring.tracks()) as store,
        closing(wiring.decoder(warm=1)) as decoder,
    ):
        reader = MaskReader(store, wiring.base_model().version, decoder.masks)
        state = wiring.settings.state_dir.expanduser()
        yield Source(reader, resolver, decoder.load, state)


@dataclass(frozen=True)
class Order:
    """What is to be exported, and how.

    Attributes:
        kind: the name of the format.
        predictions: of tasks without annotation, the prediction.
    """

    kind: str
    options: Options = field(default_factory=Options)
    predictions: bool = False

    @property
    def text(self) -> str:
        """What all files depend on."""
        return json.dumps([VERSION, self.kind, dataclasses.asdict(self.options)])


@dataclass
class Export:
    """Writes task after task, and counts. What it does is done in steps, between which whoever
    takes a ZIP takes what is there.

    Attributes:
        ledger_path: of the file that says what is in the outlet.
        failures: of tasks that could not be written, each a line.
    """

    order: Order
    source: Source
    outlet: Outlet
    ledger_path: Path
    failures: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _ledger: Ledger | None = None
    _opened: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Let go of the ledger."""
        self._opened.close()

    def task(self, task: ProjectTask) -> Iterator[None]:
        """Export a task; one that cannot be is named, and the others go on."""
        number = int(task.task["id"])
        ledger = self._begin(task.config)
        try:
            results = self._results(task)
            digest = self._digest(task, results)
            summary = ledger.find(number, digest)
            if summary is None:
                with ledger.writing(number, digest) as pages:
                    yield from self._write(task, results, pages)
                summary = pages.summary
        except ExpectedError as error:
            kept = "; what was exported of it before stays" if ledger.keep(number) else ""
            self.failures.append(f"task {task.task_id} failed: {error}{kept}")
            self.counts["failed"] += 1
            return
        self.counts += summary
        self.counts["tasks"] += 1
        self.counts["empty"] += not summary["masks"]

    def finish(self) -> Iterator[None]:
        """Write the files over all tasks, where anything has changed.

        Raises:
            CommandError: there is nothing.
        """
        if self._ledger is None or not (self.counts["masks"] or self.failures):
            raise CommandError(NOTHING)
        self._ledger.leave_out_others()
        self.counts["unchanged"] = self._ledger.unchanged
        if self._ledger.changed:
            yield from self._writer.close(self._ledger)

    def lines(self, place: str) -> list[str]:
        """What became of it, in words."""
        count = self.counts
        boxes = count[f"of {Origin.BOX}"]
        said = f"{counted(count['masks'], 'mask')} of {counted(count['tasks'], 'task')} in {place}"
        if boxes:
            filled = counted(boxes, "is a filled box", "are filled boxes")
            said += f", of which {filled}: no mask is known there"
        if count["empty"]:
            said += f"; {count['empty']} without masks"
        if count["unchanged"]:
            said += f"; {counted(count['unchanged'], 'task as it was', 'tasks as they were')}"
        lines = [said]
        if count["on videos"]:
            known = count[f"on videos, {Origin.TRACKED}"]
            lines.append(
                f"of {counted(count['on videos'], 'box')} on videos "
                f"{counted(known, 'has', 'have')} a tracked mask in {self.source.state_dir}"
            )
        if count["untracked"]:
            videos = counted(count["untracked"], "video has", "videos have")
            lines.append(
                f"warning: {videos} none there. If the service tracks with another STATE_DIR or "
                "SAM2_VARIANT, export with its settings (--env-file)."
            )
        lines += self._about_polygons()
        if self.failures:
            lines.append(f"{counted(len(self.failures), 'task')} failed")
        return lines

    def _about_polygons(self) -> Iterator[str]:
        count = self.counts
        if count["apart"]:
            yield (
                f"{counted(count['apart'], 'mask')} in several parts became a polygon for each "
                "part: joined they would not fit; objects.csv says which lines are one object"
            )
        if count["rough"]:
            yield (
                f"warning: {counted(count['rough'], 'mask has', 'masks have')} an IoU below "
                f"{LEAST_IOU} as polygons: ask for finer ones (--detail), or leave it out"
            )
        missing = [split for split in ("train", "val") if not count[split]]
        if self.order.kind == "yolo" and len(missing) == 1:
            yield (
                f"warning: nothing is in {missing[0]}, without which Ultralytics does not train: "
                "change --val, or share out pages of one task with --split-by page"
            )

    # --- one task --------------------------------------------------------------------------

    def _begin(self, config: LabelConfig) -> Ledger:
        if self._ledger is None:
            self._writer: Writer = WRITERS[self.order.kind](self.order.options)
            labels = labels_of(config)
            settings = json.dumps([self.order.text, labels])
            ledger = Ledger(self.ledger_path, self.outlet, settings, labels)
            self._ledger = self._opened.enter_context(closing(ledger))
        return self._ledger

    def _results(self, task: ProjectTask) -> Results:
        kinds = ("annotations", "predictions") if self.order.predictions else ("annotations",)
        return newest_results(task.task, *kinds)

    def _digest(self, task: ProjectTask, results: Results) -> str:
        """Names all that a task's files are made of."""
        digest = hashlib.sha256()
        for part in (task.project, task.label_config, task.data, results):
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
        for known in self.source.reader.known(task):
            digest.update(f"{known}\n".encode())
        return digest.hexdigest()

    def _write(self, task: ProjectTask, results: Results, pages: Pages) -> Iterator[None]:
        tracked = f"on videos, {Origin.TRACKED}"
        for media in self._media(task, results):
            self._writer.begin()
            before = pages.summary[tracked]
            with ExitStack() as opened:
                pictures = None
                if self.order.options.pictures:
                    source = self.source.resolver, self.source.decode
                    pictures = opened.enter_context(pictures_of(media, *source))
                for page in self._pages(media):
                    self._page(media, page, pictures, pages)
                    yield
            self._writer.end(media, pages)
            if media.kind is Kind.VIDEO:
                pages.summary["untracked"] += pages.summary[tracked] == before

    def _media(self, task: ProjectTask, results: Results) -> Iterator[Media]:
        yield from self.source.reader.pictures(task, results)
        yield from self.source.reader.videos(task, results, self.source.resolver)

    def _pages(self, media: Media) -> Iterator[MaskPage]:
        """Those with masks, and all where the format wants them."""
        if not self._writer.every_frame:
            yield from media.pages()
            return
        without = iter(media.names)
        size: tuple[int, int] | None = None
        waiting: list[int] = []
        for page in media.pages():
            size = size or (page.width, page.height)
            for index in without:
                if index == page.index:
                    break
                waiting.append(index)
            yield from (MaskPage(index, *size, ()) for index in waiting)
            waiting.clear()
            yield page
        if size is not None:
            yield from (MaskPage(index, *size, ()) for index in without)

    def _page(
        self, media: Media, page: MaskPage, pictures: MediumPictures | None, to: Pages
    ) -> None:
        name = None
        if pictures is not None:
            ending, content = pictures.get(page.index, jpeg=self._writer.jpeg_only)
            name = self._writer.picture(media, page.index) + ending
            to.file(name, content if isinstance(content, bytes) else content.path)
        self._writer.page(media, page, name, to)
        for mask in page.masks:
            to.summary["masks"] += 1
            to.summary[f"of {mask.origin}"] += 1
            if media.kind is Kind.VIDEO:
                to.summary["on videos"] += 1
                to.summary[f"on videos, {mask.origin}"] += 1


def export_to_folder(
    order: Order,
    tasks: Iterable[ProjectTask],
    folder: Path,
    source: Source,
    tell: Callable[[str], None],
) -> Export:
    """Write tasks to a folder; what it holds already, and is as it was, stays.

    Args:
        tell: is called with each failure as it comes.
    """
    outlet = FolderOutlet(folder)
    export = Export(order, source, outlet, folder / f".export-{order.kind}.sqlite3")
    with closing(export):
        for task in tasks:
            told = len(export.failures)
            for _ in export.task(task):
                pass
            for failure in export.failures[told:]:
                tell(failure)
        for _ in export.finish():
            pass
    return export


def export_as_zip(order: Order, tasks: Iterable[ProjectTask], source: Source) -> Iterator[bytes]:
    """The pieces of a ZIP, made as they are asked for. What became of it is in its last file."""
    outlet = ZipOutlet()
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        export = Export(order, source, outlet, Path(folder) / "ledger.sqlite3")
        with closing(export):
            for task in tasks:
                for _ in export.task(task):
                    yield from outlet.take()
                yield from outlet.take()
            try:
                for _ in export.finish():
                    yield from outlet.take()
                lines = export.lines("this file")
            except CommandError as error:
                lines = [str(error)]
            said = "\n".join([*export.failures, *lines, ""])
            outlet.stage(REPORT, said.encode())
    outlet.close()
    yield from outlet.take()


def labels_of(config: LabelConfig) -> list[str]:
    """The labels of a label config, in its order."""
    controls = (*config.answers, *config.other_shapes)
    labels = [label for control in controls for label in control.labels]
    labels += [label for tag in config.labels_tags for label in tag.labels]
    return list(dict.fromkeys(label.name for label in labels))
