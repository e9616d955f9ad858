"""``python -m backend doctor``: all checks, in the order in which things have to work."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

from backend.doctor.findings import (
    Finding,
    Level,
    broken,
    setting_problem,
    warning,
)
from backend.doctor.label_studio import config_findings, connection_findings, server_findings
from backend.doctor.machine import (
    disk_findings,
    engine_finding,
    model_findings,
    settings_findings,
    state_findings,
)
from backend.doctor.samples import media_findings
from backend.doctor.services import ask_service, detector_findings
from backend.engine.engine import Engine
from backend.expected import counted
from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.json_values import mappings, whole_number
from backend.labelstudio.label_config import LabelConfigError, parse_label_config
from backend.labelstudio.tags import LabelConfig
from backend.logs import Redactor
from backend.media.errors import MediaError
from backend.runs.command_line import CommandError, say
from backend.runs.projects import read_task
from backend.settings import SettingsError
from backend.wiring import Wiring

PAGE = 100  # Label Studio's own
API_SECONDS = 30.0  # Label Studio tries every backend of a project before it answers


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong with the set-up, and how to fix it",
        description="Checks the settings, disk, model and device, Label Studio "
        "and its token; with a project or task also its label config, its connection to this "
        "backend, and a sample of its media. Exits with 1 where something is broken.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--project", type=int, metavar="ID", help="look at this project too")
    chosen.add_argument("--task", type=int, metavar="ID", help="look at this task and its project")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Look at everything; 1 where something is broken."""
    wanted = {"project": arguments.project, "task": arguments.task}
    service, findings = ask_service(wiring.settings, **wanted)
    if findings is None:
        return _report(chain([service], examine(wiring, model_findings(wiring), **wanted)))
    return _report([service, *findings])


def refuse_settings(error: SettingsError) -> int:
    """Print what is wrong with settings that cannot even be read; always 1."""
    findings = (setting_problem(line) for line in str(error).splitlines())
    return _report(findings, "; nothing else was looked at")


def _report(findings: Iterable[Finding], ending: str = "") -> int:
    """Print findings as they are made, then how many are bad; 1 where something is broken."""
    count: Counter[Level] = Counter()
    for finding in findings:
        count[finding.level] += 1
        say(finding.line, sys.stdout)
    say(
        f"{count[Level.BROKEN]} broken, {counted(count[Level.WARNING], 'warning')}{ending}",
        sys.stdout,
    )
    return int(count[Level.BROKEN] > 0)


def diagnose(
    wiring: Wiring, engine: Engine, *, project: int | None, task: int | None
) -> dict[str, object]:
    """What ``examine`` finds out about a service that runs, as JSON."""
    model = [engine_finding(engine.status(), engine.model_version)]
    findings = list(examine(wiring, model, project=project, task=task))
    works = all(finding.level is not Level.BROKEN for finding in findings)
    return {"ok": works, "findings": [asdict(each) for each in findings]}


def examine(
    wiring: Wiring, model: Iterable[Finding], *, project: int | None, task: int | None
) -> Iterator[Finding]:
    """Look at everything; findings come as they are made.

    Args:
        model: about the model; a service that runs has one, a command line must load it.
        project: look at its label config, connection, and a sample of its media.
        task: look at its media, and at its project.
    """
    redact = Redactor(wiring.settings.secrets())  # none should hold a secret
    for finding in _findings(wiring, model, project, task):
        yield replace(finding, text=redact(finding.text), fix=redact(finding.fix))


def _findings(
    wiring: Wiring, model: Iterable[Finding], project: int | None, task: int | None
) -> Iterator[Finding]:
    yield from settings_findings(wiring)
    yield from disk_findings(wiring.settings)
    yield from state_findings(wiring)
    yield from model
    yield from detector_findings(wiring)
    wanted = task is not None or project is not None
    try:
        client = wiring.label_studio(API_SECONDS)
    except LabelStudioError:
        return  # among the problems of the settings
    if client is None:
        if wanted:
            yield broken("project", "it cannot be looked at without LABEL_STUDIO_URL")
        return
    found, usable = server_findings(client)
    yield from found
    if usable and wanted:
        yield from _project(wiring, client, project, task)
    elif usable:
        yield warning("project", "none was looked at", "add --project ID or --task ID")


def _project(
    wiring: Wiring, client: LabelStudioClient, project: int | None, task: int | None
) -> Iterator[Finding]:
    single: list[Mapping[str, Any]] = []
    config = None
    try:
        if task is not None:
            single = [read_task(client, task)]
            project = int(single[0].get("project") or 0)
        number = project or 0
        config = parse_label_config(str(client.get_project(number).get("label_config") or ""))
    except (LabelStudioError, CommandError) as error:
        yield broken("project", str(error))
        return
    except LabelConfigError as error:
        yield broken(f"label config of project {number}", str(error))
    else:
        yield from config_findings(number, config)
    yield from connection_findings(client, wiring.settings, number, wiring.model().version)
    if config is None:
        return
    try:
        tasks = single or _tasks(client, number)
    except (LabelStudioError, ValueError) as error:
        yield broken("media", f"the tasks cannot be listed: {error}")
        return
    yield from _media(wiring, client, config, tasks)


def _media(
    wiring: Wiring,
    client: LabelStudioClient,
    config: LabelConfig,
    tasks: list[Mapping[str, Any]],
) -> Iterator[Finding]:
    try:
        resolver = wiring.media(client)
    except (SettingsError, MediaError, OSError, RuntimeError):
        return  # among the problems of the settings
    decoder = wiring.decoder(warm=1)
    with closing(resolver), closing(decoder):
        yield from media_findings(resolver, decoder, config, tasks)


def _tasks(client: LabelStudioClient, project: int) -> list[Mapping[str, Any]]:
    """The first and the last tasks of a project, without what was drawn on them: those of a
    storage that was added later are among the last.

    Raises:
        LabelStudioError, ValueError: they cannot be listed.
    """

    def page(number: int) -> Mapping[str, Any]:
        wanted = {"project": project, "resolve_uri": "false", "page": number, "page_size": PAGE}
        found = client.request("GET", "/api/tasks/", params=wanted).json()
        return found if isinstance(found, dict) else {}

    first = page(1)
    total = whole_number(first.get("total")) or 0
    last = page(-(-total // PAGE)) if total > PAGE else {}
    return [*mappings(first.get("tasks")), *mappings(last.get("tasks"))]
