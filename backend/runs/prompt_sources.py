"""Where the prompts of a run come from: what a task holds already, or what something else finds.

A source gives Label Studio results, which are read as those of an editor are: boxes, clicks and
masks become prompts of the model, or are carried through pages and frames.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from backend.expected import ExpectedError
from backend.labelstudio.json_values import Results, mappings, text
from backend.labelstudio.model_names import model_of
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.prompts import prompts_from_task
from backend.labelstudio.read_results import newest_results, read_results
from backend.labelstudio.tags import LabelConfig
from backend.labelstudio.video_regions import read_video_regions
from backend.tracking.store import Sighting

_MASKS = frozenset({"brush", "brushlabels", "bitmask", "bitmasklabels"})

THERE = "there"


class SourceUnavailable(ExpectedError):
    """A source cannot be asked at the moment, whatever the task: the run waits, and asks again."""


class SourceLate(ExpectedError):
    """A source that can be asked did not answer in time about a task: it is asked again a few
    times, as it may be the task."""


@dataclass(frozen=True)
class SourceOptions:
    """What a run says to its source; each source takes what it knows.

    Attributes:
        text: what to look for, in words; None for the labels of the config.
        label: of what is found without one.
        cap: the most objects of a picture; None for the source's own.
        every: ask on every n-th page or frame; None for the source's own.
        first: the first page or frame that is worked on, as the editor counts.
    """

    text: str | None = None
    label: str | None = None
    cap: int | None = None
    every: int | None = None
    first: int = 1


@dataclass(frozen=True)
class Place:
    """A page of a sequence or a frame of a video.

    Attributes:
        tag: the name of its Image or Video tag.
        number: as the editor counts, from 1.
    """

    tag: str
    number: int


@dataclass(frozen=True)
class Prompts:
    """What to start from. It is stored as JSON while a task is under way, so that a source is
    asked once.

    Attributes:
        marks: results to segment on pictures, and to track through pages and frames; each has an
            id.
        finished: results on pictures that are masks already, with ids and scores; stored as they
            are.
        nothing: where both are empty, why, in words.
        left_out: what the source found and left out, and why, in words.
    """

    marks: Results = field(default_factory=list)
    finished: Results = field(default_factory=list)
    nothing: str = ""
    left_out: list[str] = field(default_factory=list)


class PromptSource(Protocol):
    """Gives the prompts for the tasks of one run; called on the run's threads, several at a time.

    Attributes:
        every: ask on every n-th page and frame, too; None not to.
    """

    @property
    def every(self) -> int | None: ...

    def begin(self, task: ProjectTask, until: float) -> Prompts:
        """What there is to start from in a task as Label Studio has it, with its annotations and
        predictions.

        A source with ``every`` gives what is on pictures, and is asked about pages and frames with
        ``look``.

        Args:
            until: when to have ended, on ``time.monotonic``.

        Raises:
            SourceUnavailable: it cannot be asked now.
            SourceLate: it did not answer in time about this task.
            ExpectedError: why it has nothing for this task.
        """

    def look(
        self, task: ProjectTask, place: Place, seen: Sequence[Sighting], until: float
    ) -> Prompts:
        """What there is on a page or frame that is none of ``seen``; asked in ascending order,
        and tracked from there before the next one is asked. Raises as ``begin``.

        Args:
            seen: the masks there of what is tracked already, with their boxes in pixels.

        Returns:
            Only marks, on that page, or key frames on that frame.
        """


OpenSource = Callable[[SourceOptions], PromptSource]
"""Makes the source of a run. Raises ``ExpectedError`` where the options are of no use to it."""


class There:
    """What a task holds: its annotation, else a prediction that this model did not make.

    Args:
        model_version: of the model that labels now.
    """

    every: int | None = None

    def __init__(self, model_version: Callable[[], str]) -> None:
        self._model_version = model_version

    def begin(self, task: ProjectTask, until: float) -> Prompts:
        """See ``PromptSource``."""
        marks = marks_of(task.task, self._model_version())
        if mark_kinds(marks, task.config):
            return Prompts(marks)
        return Prompts(nothing=why_nothing_to_do(marks))

    def look(
        self, task: ProjectTask, place: Place, seen: Sequence[Sighting], until: float
    ) -> Prompts:
        """See ``PromptSource``; it is never asked."""
        return Prompts()


def marks_of(task: Mapping[str, Any], model_version: str) -> Results:
    """The results of the newest annotation that counts; without one, of the newest prediction
    that this model did not make itself. Every result has an id, the same in every run: regions
    are known by it in a track."""
    marks = []
    found = newest_results(task, "annotations", "predictions", not_by=model_version)
    for position, item in enumerate(found):  # detectors' predictions often come without ids
        name = hashlib.sha256(f"{task.get('id')} {position}".encode()).hexdigest()[:10]
        marks.append(item if text(item.get("id")) else {**item, "id": name})
    return marks


def mark_kinds(marks: Sequence[Mapping[str, object]], config: LabelConfig) -> set[str]:
    """What the marks are on: "image", "sequence", "video"; empty where there is nothing to do.

    On images only boxes and clicks ask for something: masks are there already.
    """
    kinds = set()
    if read_video_regions(marks, config):
        kinds.add("video")
    sequences = {tag.name for tag in config.images if tag.is_sequence}
    if any(region.image in sequences for region in read_results(marks, config).regions):
        kinds.add("sequence")
    prompts = prompts_from_task({"annotations": [{"result": list(marks)}]}, config)
    if any(prompt.image not in sequences for prompt in prompts):
        kinds.add("image")
    return kinds


def why_nothing_to_do(marks: Sequence[Mapping[str, object]]) -> str:
    """What marks are that ``mark_kinds`` finds nothing to do for, in words."""
    types = Counter(text(mark.get("type")) or "untyped" for mark in marks)
    masks = {name: types[name] for name in sorted(types) if name in _MASKS}
    if masks:
        return f"only masks already ({', '.join(masks)})"
    return f"only {', '.join(sorted(types))}" if types else "nothing"


def own_predictions(task: Mapping[str, Any], model_version: str) -> list[int]:
    """The ids of this model's predictions."""
    every = mappings(task.get("predictions"))
    ids = [each.get("id") for each in every if model_of(each.get("model_version")) == model_version]
    return [number for number in ids if isinstance(number, int)]
