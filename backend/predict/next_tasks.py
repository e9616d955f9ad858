"""The tasks behind the one that was opened, in the order in which a project is worked through."""

from __future__ import annotations

from typing import Any, Protocol

from backend.labelstudio.project_task import ProjectTask
from backend.recent_values import Recent

NEXT = 2  # encoded ahead
_ASKED_SECONDS = 60.0  # within which opening a task again asks nobody
_KEPT = 1000


class TaskLister(Protocol):
    """As much of ``LabelStudioClient`` as this module uses."""

    def tasks_after(self, project: int, task: int, count: int) -> list[dict[str, Any]]: ...


class NextTasks:
    """Asks Label Studio, at most once a minute for each task."""

    def __init__(self, label_studio: TaskLister) -> None:
        self._label_studio = label_studio
        self._asked: Recent[bool] = Recent(entries=_KEPT, seconds=_ASKED_SECONDS)

    def after(self, task: ProjectTask) -> list[ProjectTask]:
        """The tasks that are likely to be opened next; none where that cannot be told.

        Raises:
            LabelStudioError: it does not say.
        """
        project, _, created = task.project.partition(".")
        number = task.task.get("id")
        known = task.project, number
        if not (project.isdecimal() and created) or type(number) is not int:
            return []
        if self._asked.get(known):
            return []
        self._asked.put(known, True)
        found = self._label_studio.tasks_after(int(project), number, NEXT)
        return [
            ProjectTask(task.project, each, task.label_config, task.config)
            for each in found
            if isinstance(each.get("data"), dict)
        ]
