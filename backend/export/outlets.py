"""Where the files of an export go: a folder, or a ZIP that is sent while it is made."""

from __future__ import annotations

import os
import shutil
import stat
import time
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from backend.export.folders import writing
from backend.files import replacing, sync

_PARTIAL = ".partial-"
_STORED = (".png", ".jpg", ".jpeg", ".webp", ".npz")  # deflating them again saves nothing


class Outlet(Protocol):
    """Takes files by their names, with slashes."""

    def stage(self, name: str, content: bytes | Path) -> None:
        """Write a file that is there after ``commit``; a path is copied."""

    def commit(self) -> None:
        """Put what was staged in its place."""

    def discard(self) -> None:
        """Forget what was staged."""

    def remove(self, name: str) -> None:
        """Take a file away that was written before."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write bytes to, which is in its place at the end."""


class FolderOutlet:
    """A folder on this machine, in which whoever reads finds whole files only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staged: list[tuple[Path, Path]] = []
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.rglob(f"*{_PARTIAL}*"):  # of a run that was killed
                left.unlink(missing_ok=True)

    def stage(self, name: str, content: bytes | Path) -> None:
        path = self._folder / name
        partial = path.with_name(f"{path.name}{_PARTIAL}{os.getpid()}")
        self._staged.append((partial, path))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, partial)
            else:
                partial.write_bytes(content)
            sync(partial)

    def commit(self) -> None:
        for partial, path in self._staged:
            with writing(path):
                partial.replace(path)
        self._staged.clear()

    def discard(self) -> None:
        for partial, _ in self._staged:
            partial.unlink(missing_ok=True)
        self._staged.clear()

    def remove(self, name: str) -> None:
        path = self._folder / name
        path.unlink(missing_ok=True)
        for parent in path.relative_to(self._folder).parents:
            try:
                (self._folder / parent).rmdir()
            except OSError:  # something else is in it
                return

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        path = self._folder / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, partial.open("wb") as file:
                yield file
                file.flush()


class ZipOutlet:
    """A ZIP of which what is there can be taken at any time; nothing of it is kept.

    A file is in it as soon as it is staged: what was sent cannot be taken back.
    """

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._zip = zipfile.ZipFile(cast(IO[bytes], self._pieces), "w", allowZip64=True)

    def take(self) -> Iterator[bytes]:
        """What has been written since."""
        taken, self._pieces.taken = self._pieces.taken, []
        yield from taken

    def stage(self, name: str, content: bytes | Path) -> None:
        with self.open(name) as file:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.write(content)

    def commit(self) -> None:
        """Nothing is left to do."""

    def discard(self) -> None:
        """It cannot be taken back."""

    def remove(self, name: str) -> None:
        """Nothing was there before."""

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        about = zipfile.ZipInfo(name, time.localtime()[:6])
        about.external_attr = (stat.S_IFREG | 0o644) << 16
        stored = name.lower().endswith(_STORED)
        about.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        with self._zip.open(about, "w", force_zip64=True) as file:
            yield file

    def close(self) -> None:
        """Write the list of files at the end, without which it is no ZIP."""
        self._zip.close()


class _Pieces:
    """A file that is only written to, forwards."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.taken.append(bytes(data))
        return len(self.taken[-1])

    def flush(self) -> None:
        """Everything is there already."""
