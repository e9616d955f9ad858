"""What a run is asked to do: read from JSON, and refused where a word of it is not understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from backend.expected import ExpectedError
from backend.labelstudio.commands import ParsedCommand, TextKind, Word
from backend.runs.prompt_sources import THERE, SourceOptions

LABEL = "label"
WARM = "warm"
DIRECTIONS = ("forward", "back", "both")
MAX_CONCURRENCY = 8
MAX_STRIDE = 99  # as in the text box
MAX_NUMBER = 2**31 - 1
MAX_TASKS = 1_000_000
MAX_TEXT = 1000


class RunError(ExpectedError):
    """Why there can be no such run, in a sentence that says what to do."""


@dataclass(frozen=True)
class RunRequest:
    """What a run works on, and how.

    Attributes:
        project: its number in Label Studio.
        kind: what is done with each task.
        source: where the prompts come from, see ``prompt_sources``.
        tasks: their numbers; None for all that the other two leave.
        view: the number of a tab of the Data Manager, whose filters and ticks choose the tasks.
        only_unlabelled: leave out tasks that have an annotation.
        direction, range, stride: as of a ``track`` command; pages and frames as the editor counts.
        overwrite: also tasks that have a prediction of this model, which is replaced.
        limit: only so many tasks.
        concurrency: tasks side by side.
        dry_run: only find out what would be done, and how long it would take.
        text, label, cap, every: see ``SourceOptions``.
    """

    project: int
    kind: str = LABEL
    source: str = THERE
    tasks: tuple[int, ...] | None = None
    view: int | None = None
    only_unlabelled: bool = False
    direction: str = "both"
    range: tuple[int, int] | None = None
    stride: int | None = None
    overwrite: bool = False
    limit: int | None = None
    concurrency: int = 2
    dry_run: bool = False
    text: str | None = None
    label: str | None = None
    cap: int | None = None
    every: int | None = None

    @property
    def command(self) -> ParsedCommand:
        """As if it had been typed into the editor's text box."""
        return ParsedCommand(
            TextKind.COMMAND,
            Word.TRACK,
            "track",
            frames=self.range,
            direction=self.direction,
            stride=self.stride,
        )

    @property
    def source_options(self) -> SourceOptions:
        first = 1 if self.range is None else self.range[0]
        return SourceOptions(self.text, self.label, self.cap, self.every, first)

    def as_json(self) -> dict[str, Any]:
        """As ``read_run_request`` takes it."""
        return asdict(self)


def read_run_request(body: object) -> RunRequest:
    """The request that a JSON value is.

    Raises:
        RunError: it is none; the text names what is wrong.
    """
    if not isinstance(body, Mapping):
        raise RunError('a run is a JSON object such as {"project": 12}')
    unknown = sorted(str(name)[:40] for name in body.keys() - RunRequest.__annotations__.keys())
    if unknown:
        raise RunError(f"a run has no option {', '.join(unknown[:5])}")
    given = {name: value for name, value in body.items() if value is not None}
    if "project" not in given:
        raise RunError("a run needs a project: its number in Label Studio")
    found = RunRequest(**{name: _READERS[name](name, value) for name, value in given.items()})
    if found.tasks is not None and found.view is not None:
        raise RunError("a run takes a list of tasks or a view, not both")
    return found


def _number(name: str, value: Any, most: int = MAX_NUMBER) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise RunError(f"{name} must be a whole number from 1 to {most}")
    return value


def _up_to(most: int) -> Any:
    return lambda name, value: _number(name, value, most)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RunError(f"{name} must be true or false")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise RunError(f"{name} must be a text of at most {MAX_TEXT} characters")
    return value.strip()


def _direction(name: str, value: Any) -> str:
    if value not in DIRECTIONS:
        raise RunError(f"{name} must be one of {', '.join(DIRECTIONS)}")
    return str(value)


def _range(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise RunError(f"{name} must be two numbers such as [1, 40]")
    first, last = (_number(name, each) for each in value)
    if first > last:
        raise RunError(f"{name} must be two numbers such as [1, 40], the smaller first")
    return first, last


def _tasks(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_TASKS:
        raise RunError(f"{name} must be a list of task numbers, at least one")
    return tuple(dict.fromkeys(_number(name, each) for each in value))


_READERS: Mapping[str, Any] = {
    **dict.fromkeys(("project", "view", "limit", "cap", "every"), _number),
    **dict.fromkeys(("only_unlabelled", "overwrite", "dry_run"), _flag),
    **dict.fromkeys(("kind", "source", "text", "label"), _text),
    "stride": _up_to(MAX_STRIDE),
    "concurrency": _up_to(MAX_CONCURRENCY),
    "direction": _direction,
    "range": _range,
    "tasks": _tasks,
}
