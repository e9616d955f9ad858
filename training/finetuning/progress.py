"""What a fine-tuning says of itself while it runs: one small JSON file, replaced as it goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from backend.files import replace_text


class Stage(StrEnum):
    """Where a run is."""

    READING = "reading"
    TRAINING = "training"
    DONE = "done"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self in (Stage.DONE, Stage.FAILED)


@dataclass
class Progress:
    """As ``backend.finetune`` shows it.

    Attributes:
        pictures: with accepted masks, read so far.
        steps: at most.
        curve: held-out IoU by step.
        message: the outcome, in a sentence.
        version: the new model version; None where there is none.
    """

    stage: Stage = Stage.READING
    pictures: int = 0
    step: int = 0
    steps: int = 0
    curve: Sequence[dict[str, float]] = ()
    message: str = ""
    version: str | None = None

    def write(self, path: Path) -> None:
        """Replace the file."""
        replace_text(path, json.dumps(asdict(self)) + "\n")


def unfinished(path: Path) -> bool:
    """Whether the file is of a run that was stopped before its end."""
    try:
        return not Stage(json.loads(path.read_text(encoding="utf-8"))["stage"]).ended
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
