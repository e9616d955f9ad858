"""What the commands share: their errors, their lines of text, their way to Label Studio."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TextIO

from backend.engine.building import ModelChoice
from backend.expected import ExpectedError
from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.tags import LabelConfig
from backend.media.resolver import MediaResolver
from backend.media.s3_clients import S3Clients
from backend.predict.dispatch import Dispatcher
from backend.settings import Settings
from backend.tracking.store import TrackStore

API_SECONDS = 120.0  # a page of tasks can hold tens of megabytes of masks


class ToolError(ExpectedError):
    """Why a command cannot go on, in one line that says what to do."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line, to stderr unless told otherwise, at once."""
    out = stream or sys.stderr
    out.write(text + "\n")
    out.flush()


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


class Parts(Protocol):
    """What a command is handed: the settings, and what is made from them when it is asked for."""

    settings: Settings

    def label_studio(self, timeout: float = ...) -> LabelStudioClient | None: ...

    def s3_clients(self) -> S3Clients: ...

    def media(self, label_studio: LabelStudioClient | None) -> MediaResolver: ...

    def tracks(self) -> TrackStore: ...

    def base_model(self) -> ModelChoice: ...

    def model(self) -> ModelChoice: ...

    def batch_service(self, *, jobs: int, fetch_seconds: float) -> Dispatcher: ...


def connect(parts: Parts) -> LabelStudioClient:
    """The Label Studio of the settings.

    Raises:
        ToolError: there is none in the settings.
    """
    client = parts.label_studio(timeout=API_SECONDS)
    if client is None:
        raise ToolError(
            "No Label Studio is configured: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."
        )
    return client


def read_project(client: LabelStudioClient, number: int) -> Project:
    """The project called ``number``.

    Raises:
        ToolError, LabelStudioError, LabelConfigError: there is none that can be used.
    """
    try:
        found = client.get_project(number)
    except LabelStudioError as error:
        raise _not_there(error, f"project {number}") from error
    xml = str(found.get("label_config") or "")
    try:
        created = datetime.fromisoformat(str(found.get("created_at")))
    except ValueError as error:
        raise ToolError(f"{client.name} does not say when project {number} was made.") from error
    # As _create_project_uid in label_studio/ml/api_connector.py makes it.
    uid = f"{number}.{int(created.timestamp())}"
    return Project(number, uid, xml, parse_label_config(xml))


def read_task(client: LabelStudioClient, number: int) -> dict[str, Any]:
    """The task called ``number``, data as it was imported.

    Raises:
        ToolError, LabelStudioError: it cannot be had.
    """
    try:
        return client.get_task(number, resolve_uri=False)
    except LabelStudioError as error:
        raise _not_there(error, f"task {number}") from error


def chosen_tasks(
    client: LabelStudioClient, tasks: list[int], project: int | None
) -> Iterator[tuple[Project, Mapping[str, Any]]]:
    """The tasks named one by one and those of a whole project, with their projects."""
    projects: dict[int, Project] = {}
    for number in tasks:
        task = read_task(client, number)
        owner = int(task.get("project") or 0)
        if owner not in projects:
            projects[owner] = read_project(client, owner)
        yield projects[owner], task
    if project is not None:
        whole = projects.get(project) or read_project(client, project)
        for task in client.list_tasks(project):
            if task.get("id") not in tasks:
                yield whole, task


def _not_there(error: LabelStudioError, what: str) -> Exception:
    if error.status == 404:
        return ToolError(f"There is no {what}, or the user of the API key cannot see it.")
    return error
