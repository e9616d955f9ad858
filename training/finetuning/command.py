"""``python -m training finetune``: fine-tune on the accepted annotations of a project.

Reads a project through Label Studio's API (settings as for the service, from the environment), or
a JSON export with ``--annotations``. A fifth of the tasks is never trained on. The new weights
become a model version only if they beat the old ones on those tasks by more than chance; a service
with the same STATE_DIR then uses them without a restart. Killed at any point, it goes on when it is
started again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backend.engine.building import ModelChoice
from backend.expected import ExpectedError
from backend.files import replace_text, replacing
from backend.finetune.registry import ModelRegistry
from backend.labelstudio.label_config import parse_label_config
from backend.runs.command_line import CommandError
from backend.runs.projects import Project, read_project
from backend.settings import Settings
from backend.wiring import Wiring
from sam2model import CheckpointError, build_model
from training.finetuning.annotations import Reader
from training.finetuning.dataset import AnnotatedPage
from training.finetuning.parts import What
from training.finetuning.progress import Stage
from training.finetuning.run import Outcome, Run, alone
from training.finetuning.tuner import Plan

_log = logging.getLogger(__name__)
_EXPECTED = (ExpectedError, CheckpointError)


@dataclass(frozen=True)
class Source:
    """Where annotations come from, opened.

    Attributes:
        number: of the project; 0 where an export does not say.
        name: of the folder of its runs.
        pages: reads them.
    """

    number: int
    name: str
    pages: Callable[[], Iterator[AnnotatedPage]]


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "finetune",
        help="fine-tune on the accepted annotations of a project",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--project", type=int, help="of the Label Studio in the settings")
    source.add_argument("--annotations", type=Path, help="a JSON export instead")
    parser.add_argument("--label-config", type=Path, help="XML file; needed with --annotations")
    parser.add_argument("--variant", help="model variant, if not that of the settings")
    parser.add_argument("--checkpoint", type=Path, help="weights to begin with")
    parser.add_argument("--image-size", type=int, help="side of the network's input")
    parser.add_argument("--what", type=What, choices=list(What), default=What.DECODER)
    parser.add_argument("--steps", type=int, default=Plan.steps, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="write better weights to this file, and leave the service alone"
    )
    parser.add_argument(
        "--background", action="store_true", help="lowest priority; ends when its input is closed"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code: 1 where something was wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if arguments.background:
        _stay_behind()
    try:
        wiring = Wiring(_settings(arguments))
        with ExitStack() as stack:
            return _run(arguments, wiring, stack)
    except _EXPECTED as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("stopped; started again, it goes on", file=sys.stderr)  # noqa: T201
        return 130


def _run(arguments: argparse.Namespace, wiring: Wiring, stack: ExitStack) -> int:
    settings = wiring.settings
    source = _open(arguments, wiring, stack)
    registry = wiring.models()
    own = arguments.checkpoint is not None
    begin = wiring.base_model() if own else registry.choice(settings.model_version)
    folder = settings.state_dir.expanduser() / "finetune" / source.name
    stack.enter_context(alone(folder))
    model = build_model(
        begin.variant, begin.checkpoint, device="cpu", dtype="float32", image_size=begin.image_size
    )
    plan = Plan.default(model, arguments.what, arguments.steps, arguments.seed)
    this = Run(folder, model, source.pages, plan)
    try:
        outcome = this.go()
        version = _hand_over(outcome, registry, begin, source, arguments.out)
    except _EXPECTED as error:
        this.end(Stage.FAILED, str(error))
        raise
    this.end(Stage.DONE, outcome.message, version)
    print(outcome.message)  # noqa: T201
    if version is not None:
        print(f"new model version: {version}")  # noqa: T201
    return 0


def _hand_over(
    outcome: Outcome, registry: ModelRegistry, begin: ModelChoice, source: Source, out: Path | None
) -> str | None:
    """Make better weights a version, or the file that was asked for; returns its name."""
    if outcome.weights is None:
        return None
    notes = {"project": source.number, "began_with": begin.version, **outcome.notes}
    if out is None:
        return registry.publish(source.number, outcome.weights, notes).version
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        outcome.weights(partial)
    replace_text(out.with_suffix(".json"), json.dumps(notes, indent=1) + "\n")
    return str(out)


def _settings(arguments: argparse.Namespace) -> Settings:
    """The service's settings, with what the command line says instead."""
    settings = Settings.from_env(os.environ)
    if arguments.variant is not None:
        settings = replace(settings, variant=arguments.variant, checkpoint=None)
    if arguments.checkpoint is not None:
        settings = replace(settings, checkpoint=arguments.checkpoint)
    if arguments.image_size is not None:
        settings = replace(settings, image_size=arguments.image_size)
    return settings


def _open(arguments: argparse.Namespace, wiring: Wiring, stack: ExitStack) -> Source:
    settings = wiring.settings
    client = wiring.connect() if settings.label_studio_url or arguments.project else None
    resolver = wiring.media(client)
    stack.callback(resolver.close)
    store = wiring.tracks()
    stack.callback(store.close)
    tasks: Iterable[Mapping[str, Any]]
    if arguments.project is not None:
        assert client is not None  # noqa: S101 - connect() has refused
        project = read_project(client, arguments.project)
        tasks, name = client.list_tasks(arguments.project), f"project-{arguments.project}"
    else:
        project, tasks = _read_export(arguments)
        digest = hashlib.sha256(str(arguments.annotations.resolve()).encode()).hexdigest()[:8]
        name = f"file-{arguments.annotations.stem}-{digest}"
    decoder = wiring.decoder(warm=1)
    stack.callback(decoder.close)
    reader = Reader(project, store, resolver, decoder)

    def pages() -> Iterator[AnnotatedPage]:
        yield from reader.pages(tasks)
        for reason, count in reader.passed_over.items():
            if count:
                _log.info("passed over: %d %s", count, reason)

    return Source(project.id, name, pages)


def _read_export(arguments: argparse.Namespace) -> tuple[Project, list[Mapping[str, Any]]]:
    if arguments.label_config is None:
        raise CommandError("An export does not hold the label config: say --label-config FILE.xml.")
    try:
        xml = arguments.label_config.read_text(encoding="utf-8")
        tasks = json.loads(arguments.annotations.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{arguments.annotations}: {error}.") from error
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and "id" in t for t in tasks):
        raise CommandError(
            f"{arguments.annotations} is no JSON export: it must be a list of tasks."
        )
    number = next((int(t["project"]) for t in tasks if isinstance(t.get("project"), int)), 0)
    return Project(number, f"{number}.0", xml, parse_label_config(xml)), tasks


def _stay_behind() -> None:
    """Give way to the service, and end with it: its death closes our input."""
    os.nice(19)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))

    def wait() -> None:
        # Not sys.stdin: its lock, held here, would make the end of the process a fatal error.
        while os.read(0, 1024):
            pass
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()
