"""A task as requests, jobs and commands look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backend.labelstudio.json_values import mappings
from backend.labelstudio.read_results import newest_first, owner_of
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

    @cached_property
    def owner(self) -> str | None:
        """Who asks, as far as the task says it: the owner of the newest draft, as Label Studio
        sends only those of who asks; where nothing is said of drafts (there is no editor then), of
        the newest annotation. Empty where an entry names nobody; None where there is no draft, so
        that it may be anybody."""
        kind = "drafts" if "drafts" in self.task else "annotations"
        entries = newest_first(self.task.get(kind))
        if not entries:
            return None if kind == "drafts" else ""
        return owner_of(entries[0])

    @cached_property
    def held(self) -> set[str]:
        """The ids of the regions that who asks holds, see ``owner``."""
        kind = "drafts" if "drafts" in self.task else "annotations"
        entries = newest_first(self.task.get(kind))
        return {str(item.get("id")) for entry in entries for item in mappings(entry.get("result"))}

    def as_json(self) -> dict[str, Any]:
        """What is needed to work on its media later."""
        return {
            "project": self.project,
            "task": {"id": self.task.get("id"), "data": dict(self.data)},
            "label_config": self.label_config,
        }
