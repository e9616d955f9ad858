"""``python -m backend doctor``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from backend.doctor.examine import examine
from backend.doctor.findings import Finding, Level, any_broken, broken
from backend.doctor.model import model_findings
from backend.runs.command_line import Parts, say
from backend.settings import SettingsError


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong with the set-up, and how to mend it",
        description="Checks the settings of the environment, disk, model and device, Label Studio "
        "and its token; with a project or task also its label config, its connection to this "
        "backend, and a sample of its media. Exits with 1 where something is broken.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--project", type=int, metavar="ID", help="look at this project too")
    chosen.add_argument("--task", type=int, metavar="ID", help="look at this task and its project")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, parts: Parts) -> int:
    """Print the findings as they are made; 1 where something is broken."""
    findings = []
    for finding in examine(parts, model_findings, project=arguments.project, task=arguments.task):
        findings.append(finding)
        say(finding.line, sys.stdout)
    say(_summary(findings), sys.stdout)
    return int(any_broken(findings))


def refuse_settings(error: SettingsError) -> int:
    """Print what is wrong with settings that cannot even be read; always 1."""
    findings = []
    for line in str(error).splitlines():
        variable, _, text = line.partition(": ")
        findings.append(broken(variable, text) if text else broken("settings", line))
        say(findings[-1].line, sys.stdout)
    say(_summary(findings) + "; nothing else was looked at", sys.stdout)
    return 1


def _summary(findings: list[Finding]) -> str:
    count = {level: sum(f.level is level for f in findings) for level in Level}
    return f"{count[Level.BROKEN]} broken, {count[Level.WARNING]} warnings"
