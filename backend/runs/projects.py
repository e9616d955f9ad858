"""A project of Label Studio and its tasks, as commands read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.tags import LabelConfig
from backend.runs.command_line import CommandError


@dataclass(frozen=True)
class Project:
    """A project of Label Studio.

    Attributes:
        uid: how Label Studio names it to ML backends, ``<id>.<creation time>``; tracks are
            stored under it.
        label_config: the XML that ``config`` was read from.
    """

    id: int
    uid: str
    label_config: str
    config: LabelConfig

    def with_task(self, task: Mapping[str, Any]) -> ProjectTask:
        return ProjectTask(self.uid, task, self.label_config, self.config)


def read_project(client: LabelStudioClient, number: int) -> Project:
    """The project called ``number``.

    Raises:
        CommandError, LabelStudioError, LabelConfigError: there is none that can be used.
    """
    try:
        found = client.get_project(number)
    except LabelStudioError as error:
        raise _not_there(error, f"project {number}") from error
    xml = str(found.get("label_config") or "")
    try:
        created = datetime.fromisoformat(str(found.get("created_at")))
    except ValueError as error:
        raise CommandError(f"{client.name} does not say when project {number} was made.") from error
    # As _create_project_uid in label_studio/ml/api_connector.py makes it.
    uid = f"{number}.{int(created.timestamp())}"
    return Project(number, uid, xml, parse_label_config(xml))


def read_task(client: LabelStudioClient, number: int) -> dict[str, Any]:
    """The task called ``number``, data as it was imported.

    Raises:
        CommandError, LabelStudioError: it cannot be had.
    """
    try:
        return client.get_task(number)
    except LabelStudioError as error:
        raise _not_there(error, f"task {number}") from error


def _not_there(error: LabelStudioError, what: str) -> Exception:
    if error.status == 404:
        return CommandError(f"There is no {what}, or the user of the API key cannot see it.")
    return error
