"""The frames that deserve a look, as a CSV file that grows over runs."""

from __future__ import annotations

import csv
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.files import replacing
from backend.runs.command_line import CommandError

COLUMNS = ["task", "object", "label", "frame", "reason"]


@dataclass(frozen=True)
class Remark:
    """A frame to look at.

    Attributes:
        object_id: of the region or object.
        frame: the page or the frame of a video, as the editor counts, from 1; None for an image.
    """

    object_id: str
    label: str
    frame: int | None
    reason: str


class ReviewFile:
    """Rows by task; those of a task that is done again take the place of its earlier ones.

    Raises:
        CommandError: the file cannot be written, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._rows: list[list[str]] = []
        try:
            if path.exists():
                with path.open(newline="") as file:
                    header, *self._rows = [*csv.reader(file)] or [COLUMNS]
                if header != COLUMNS:
                    raise CommandError(f"{path} is not a review file: choose another name.")
            self._save()
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CommandError(f"{path} cannot be used: {error}.") from error

    def put(self, task: int, remarks: Sequence[Remark]) -> None:
        new = []
        for each in remarks:
            frame = "" if each.frame is None else str(each.frame)
            new.append([str(task), each.object_id, each.label, frame, each.reason])
        with self._lock:
            known = [row for row in self._rows if row[0] == str(task)]
            if known != new:
                self._rows = [row for row in self._rows if row[0] != str(task)] + new
                self._save()

    def _save(self) -> None:
        with replacing(self._path) as partial, partial.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self._rows])
