"""What the editors asked for lately, and what they got: "did my click arrive?"

Only what is shown of a request is kept, cut to size, the last ones of each project.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.expected import counted, cut
from backend.labelstudio.commands import read_text
from backend.labelstudio.json_values import Results
from backend.labelstudio.read_results import labels_of, sign_of
from backend.predict.click import Reply, Request
from backend.recent_values import Recent

KEPT = 30  # requests of a project
PROJECTS = 50
_KEPT_SECONDS = 7 * 86_400.0
_LOOKED_AT = 200  # results of a request
_LONGEST = 120  # characters of what somebody wrote
_TOOLS = {"keypointlabels": "point", "keypoint": "point", "rectanglelabels": "box",
          "rectangle": "box", "videorectangle": "video box", "textarea": "text"}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request of an editor, and its answer.

    Attributes:
        at: when it was answered, seconds since 1970.
        project: Label Studio's number of it, as text.
        tool: what the annotator used, such as "point".
        label: what was chosen for it; of several the first ones.
        prompts: what it was, in words: "2 clicks, 1 of them negative".
        outcome: as the metrics count it.
        answer: what went back, in words.
    """

    at: float
    project: str
    task: str
    tool: str
    label: str
    prompts: str
    seconds: float
    outcome: str
    answer: str


class AskedLately:
    """Keeps the last requests of each project; for several threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._projects: Recent[deque[Asked]] = Recent(
            entries=PROJECTS, seconds=_KEPT_SECONDS, clock=clock
        )

    def add(self, request: Request, reply: Reply, seconds: float) -> None:
        """Keep a request that was answered."""
        items = [item for item, _ in zip(request.items, range(_LOOKED_AT), strict=False)]
        tool, prompts = _prompts(items)
        asked = Asked(
            at=self._clock(),
            project=cut(request.project.partition(".")[0], _LONGEST),
            task=request.task_id,
            tool=tool,
            label=cut(", ".join(_labels(items)[:5]), _LONGEST),
            prompts=cut(prompts, _LONGEST),
            seconds=seconds,
            outcome=reply.outcome,
            answer=cut(_answer(reply), _LONGEST),
        )
        with self._lock:
            kept = self._projects.get(request.project) or deque(maxlen=KEPT)
            kept.append(asked)
            self._projects.put(request.project, kept)

    def newest(self, limit: int, project: int | None = None) -> list[Asked]:
        """The newest first: of one project, or of all."""
        with self._lock:
            every = [each for kept in self._projects.values(lambda key: True) for each in kept]
        if project is not None:
            every = [each for each in every if each.project == str(project)]
        return sorted(every, key=lambda each: -each.at)[:limit]


def _prompts(items: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """What was used, and what was said with it."""
    count: Counter[str] = Counter()
    negative = 0
    typed = ""
    for item in items:
        tool = _TOOLS.get(str(item.get("type")), "")
        if not tool:
            continue
        count[tool] += 1
        negative += sign_of(item) is False
        found = read_text(item)
        if found is not None:
            typed = found.newest
    if typed and len(count) == 1:
        return "text", typed
    said = [_counted(tool, number) for tool, number in count.items() if tool != "text"]
    if negative:
        said.append(f"{negative} of them negative")
    return ", ".join(tool for tool in count if tool != "text"), ", ".join(said) or "nothing"


def _labels(items: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(label for item in items for label in labels_of([item])))


def _counted(tool: str, number: int) -> str:
    return counted(number, "click") if tool == "point" else counted(number, tool)


def _answer(reply: Reply) -> str:
    """The regions and the sentence that went back."""
    regions = {str(item.get("id")) for item in _regions(reply.results)}
    said = [counted(len(regions), "region")] if regions else []
    for item in reply.results:
        found = read_text(item) if item.get("type") == "textarea" else None
        if found is not None:
            said.append(found.newest)
    if reply.error and reply.error not in said:
        said.append(reply.error)
    return "; ".join(said) or "nothing"


def _regions(results: Results) -> Results:
    return [each for each in results if each.get("type") != "textarea" and not each.get("dynamic")]
