"""A task as requests, jobs and commands look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.labelstudio.tags import LabelConfig


@dataclass(frozen=True)
class ProjectTask:
    """A task, and the label config of its project.

    Attributes:
        project: Label Studio's ``<id>.<creation time>``.
        task: as Label Studio sends it.
        label_config: the XML that ``config`` was read from.
    """

    project: str
    task: Mapping[str, Any]
    label_config: str
    config: LabelConfig

    @property
    def task_id(self) -> str:
        """The task's id as text, for keys and log lines; ``None`` where Label Studio sent none.

        Who sends something else than a number or a name does not get it into the log.
        """
        name = self.task.get("id")
        return str(name)[:60] if isinstance(name, (int, str)) else "None"

    @property
    def key(self) -> tuple[str, str]:
        """Names it among the tasks of all projects."""
        return self.project, self.task_id

    @property
    def data(self) -> Mapping[str, Any]:
        """The task's data; empty where it is no object."""
        data = self.task.get("data")
        return data if isinstance(data, Mapping) else {}

    def as_json(self) -> dict[str, Any]:
        """What is needed to work on its media later."""
        return {
            "project": self.project,
            "task": {"id": self.task.get("id"), "data": dict(self.data)},
            "label_config": self.label_config,
        }
