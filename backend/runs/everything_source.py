"""Everything as where a run's prompts come from: all objects of pictures, with one label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from backend.engine.engine import MOST_OBJECTS, Everything
from backend.engine.scheduler import Priority
from backend.expected import counted
from backend.labelstudio.json_values import Results
from backend.labelstudio.media_refs import MissingMedia, page_count
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import newest_results
from backend.labelstudio.tags import ImageTag
from backend.labelstudio.timing import page_index
from backend.predict.everything_command import (
    MOST_REGIONS,
    EverythingFinder,
    SearchedPlace,
    label_for,
)
from backend.runs.prompt_sources import OpenSource, Place, Prompts, SourceOptions
from backend.runs.run_request import RunError
from backend.tracking.store import Sighting

EVERYTHING = "everything"


class EverythingSource:
    """On pictures the masks are the result; on sequences those of one page are tracked. What the
    task's annotation holds there already is left out.

    Args:
        label: of what is found; None for the only one of the label config.
        most: objects of a picture.
        page: of sequences, as the editor counts.
    """

    every: int | None = None

    def __init__(
        self, finder: EverythingFinder, label: str | None, *, most: int, page: int
    ) -> None:
        self._finder = finder
        self._label = label
        self._most = most
        self._page = page

    def begin(self, task: ProjectTask, until: float) -> Prompts:
        """See ``PromptSource``."""
        marks: Results = []
        finished: Results = []
        left_out: list[str] = []
        for tag in task.config.images:
            regions, everything = self._find(task, tag, until)
            (marks if tag.is_sequence else finished).extend(regions)
            left_out += _left_out(everything, f"<Image name={tag.name}>", self._most)
        if not task.config.images:
            return Prompts(nothing="no picture, and everything is for pictures and pages")
        return Prompts(marks, finished, left_out=left_out)

    def look(
        self, task: ProjectTask, place: Place, seen: Sequence[Sighting], until: float
    ) -> Prompts:
        """See ``PromptSource``; it is never asked."""
        return Prompts()

    def _find(self, task: ProjectTask, tag: ImageTag, until: float) -> tuple[Results, Everything]:
        page = None
        if tag.is_sequence:
            page, count = page_index(self._page), page_count(task.data, tag)
            if page >= count:
                raise MissingMedia(f"there is no page {self._page}: the pages are 1-{count}")
        return self._finder.find(
            task,
            SearchedPlace(tag, page),
            label_for(self._label, task.config, tag),
            newest_results(task.task, "annotations"),
            Priority.RUN,
            until,
            most=self._most,
        )


def _left_out(everything: Everything, where: str, cap: int) -> list[str]:
    """What a search has left out, in words."""
    said = []
    if everything.more:
        said.append(f"{where}: {counted(everything.more, 'object')} beyond the {cap} of the cap")
    if everything.overlapping:
        covered = "masks that a better one or an annotation covers"
        said.append(f"{where}: {everything.overlapping} {covered}")
    if everything.looked < 1:
        said.append(f"{where}: only {everything.looked:.0%} was looked through in the time")
    return said


def open_everything(finder: EverythingFinder) -> OpenSource:
    """What makes the source of a run."""
    return partial(_open, finder)


def _open(finder: EverythingFinder, options: SourceOptions) -> EverythingSource:
    if options.text is not None:
        raise RunError(
            "everything finds all objects and takes no text: name the label that they get"
        )
    if options.every is not None:
        raise RunError(
            "everything looks at one page of a sequence, the first of the range: leave every out"
        )
    if options.cap is not None and options.cap > MOST_OBJECTS:
        raise RunError(f"everything finds at most {MOST_OBJECTS} objects: choose a lower cap")
    most = MOST_REGIONS if options.cap is None else options.cap
    return EverythingSource(finder, options.label, most=most, page=options.first)
