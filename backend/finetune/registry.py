"""The fine-tuned versions of the base model, and which of them is in use.

    STATE_DIR/models/<base>/ft3-p12.safetensors   the weights, whole
                            ft3-p12.json          what they were made from, and their scores
                            current               the name of the version in use

A version exists when its ``.json`` does, which is written after the weights; ``current`` is
replaced in one step. So a reader never sees half of anything, whenever the writer is killed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.engine.building import ModelChoice
from backend.files import replace_text, set_aside, sync

BASE = "base"
"""The setting's value for the weights that everything began with."""
_CURRENT = "current"
_NAME = re.compile(r"(?:[\w.-]+-)?ft(\d+)-p\d+")


class ModelRegistry:
    """Versions of one base model, in a folder that the service and fine-tuning share.

    Args:
        root: folder for all base models.
        base: the model that the operator chose.
    """

    def __init__(self, root: Path, base: ModelChoice) -> None:
        self.base = base
        self._folder = root / re.sub(r"[^\w.-]", "_", base.version)

    def choice(self, wanted: str | None) -> ModelChoice:
        """The model to load.

        Args:
            wanted: a version as ``versions`` lists it; ``base``; or None for the newest one.

        A version that does not exist gives a choice whose weights are missing: loading it says so.
        """
        if wanted in (BASE, self.base.version):
            return self.base
        if wanted is not None:
            size = f"-{self.base.image_size}px" if self.base.image_size is not None else ""
            return self._choice(wanted.removeprefix(f"{self.base.variant}-").removesuffix(size))
        return self._choice(stem) if (stem := self._current()) else self.base

    def _current(self) -> str | None:
        """The version in use; where the file that names it is damaged, the newest one."""
        path = self._folder / _CURRENT
        try:
            stem = path.read_text(encoding="utf-8").strip()
            if _NAME.fullmatch(stem) and self._is_there(stem):
                return stem
            set_aside(path, "it names no version that is there")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            set_aside(path, error)
        newest = next(filter(self._is_there, self._stems()), None)
        if newest is not None:
            with suppress(OSError):
                replace_text(path, newest + "\n")
        return newest

    def _is_there(self, stem: str) -> bool:
        return (self._folder / f"{stem}.safetensors").is_file()

    def _stems(self) -> list[str]:
        """The newest first."""
        found = [path.stem for path in self._folder.glob("*.json") if _NAME.fullmatch(path.stem)]
        return sorted(found, key=_number, reverse=True)

    def versions(self) -> list[str]:
        """All versions, the newest first and the base last."""
        return [*(self._choice(stem).version for stem in self._stems()), self.base.version]

    def notes(self) -> list[dict[str, Any]]:
        """What is remembered of each version, in the order of ``versions``; of the base nothing but
        its name."""
        found = [
            {**_read_notes(self._folder / f"{stem}.json"), "version": self._choice(stem).version}
            for stem in self._stems()
        ]
        return [*found, {"version": self.base.version}]

    def use(self, version: str) -> bool:
        """Put a version into use, or the base; False where there is none of that name. The next one
        that is published takes its place."""
        if version == self.base.version:
            (self._folder / _CURRENT).unlink(missing_ok=True)
            return True
        for stem in filter(self._is_there, self._stems()):
            if self._choice(stem).version == version:
                replace_text(self._folder / _CURRENT, stem + "\n")
                return True
        return False

    def publish(
        self, project: int, write: Callable[[Path], None], notes: Mapping[str, Any]
    ) -> ModelChoice:
        """Add a version and put it into use.

        Args:
            project: whose annotations it was made from.
            write: writes the weights to a path.
            notes: what to remember of it, as JSON.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"partial-{os.getpid()}.safetensors"
        try:
            write(partial)
            stem = self._take_name(partial, project)
        finally:
            partial.unlink(missing_ok=True)
        choice = self._choice(stem)
        text = json.dumps({"version": choice.version, **notes}, indent=1) + "\n"
        replace_text(self._folder / f"{stem}.json", text)
        replace_text(self._folder / _CURRENT, stem + "\n")
        return choice

    def _take_name(self, partial: Path, project: int) -> str:
        """Give written weights the next free name; two writers never get the same."""
        sync(partial)
        prefix = f"{self.base.checkpoint.stem}-" if self.base.checkpoint else ""
        while True:
            taken = (_number(path.stem) for path in self._folder.glob("*.safetensors"))
            stem = f"{prefix}ft{max(taken, default=0) + 1}-p{project}"
            with suppress(FileExistsError):  # another writer was quicker
                os.link(partial, self._folder / f"{stem}.safetensors")
                return stem

    def _choice(self, stem: str) -> ModelChoice:
        path = self._folder / f"{stem}.safetensors"
        return replace(self.base, checkpoint=path, family=self.base.version)


def _read_notes(path: Path) -> dict[str, Any]:
    """What stands in a file of notes; nothing where that is damaged: the weights are of use."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(stem: str) -> int:
    match = _NAME.fullmatch(stem)
    return int(match[1]) if match else 0
