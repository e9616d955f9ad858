"""``python -m backend state``: what lies in STATE_DIR, and what is to leave it or to be saved."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from backend.expected import counted
from backend.runs.command_line import CommandError, say
from backend.runs.run_store import RunStore
from backend.settings import MIB
from backend.tracking.database import check_file, lock
from backend.tracking.purge import forget_project
from backend.tracking.store import TrackStore
from backend.wiring import Wiring

TRACKS = "tracks.sqlite3"
FOLDERS = ("models", "finetune")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "state",
        help="show, back up, restore or clear tracks, masks and fine-tuned weights",
        description="Without an option, says what lies in STATE_DIR. Everything but --restore may "
        "run beside the service.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--backup", type=Path, metavar="FOLDER", help="copy all of it to a new folder"
    )
    what.add_argument(
        "--restore", type=Path, metavar="FOLDER", help="put a backup in its place, service stopped"
    )
    what.add_argument(
        "--forget-project",
        type=int,
        metavar="N",
        help="drop the ended jobs and runs of a project with all that they found, delivered or not",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    folder = wiring.settings.state_dir.expanduser()
    if arguments.restore is not None:
        restore(folder, arguments.restore)
        return 0
    with closing(wiring.tracks()) as store:
        if arguments.backup is not None:
            back_up(store, folder, arguments.backup)
        elif arguments.forget_project is not None:
            _forget(store, arguments.forget_project)
        else:
            _show(store, folder)
    return 0


def back_up(store: TrackStore, folder: Path, target: Path) -> None:
    """Copy what lies in ``folder`` to ``target``; the tracks as they are at one moment.

    Raises:
        CommandError: there is something already, or it cannot be written.
        StoreError: the tracks cannot be read.
    """
    if target.exists():
        raise CommandError(f"{target} is there already; name a new folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as name:
            made = Path(name) / "backup"
            made.mkdir()
            store.database.back_up(made / TRACKS)
            for each in FOLDERS:
                _copy(folder / each, made / each)
            made.rename(target)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}.") from error
    say(f"{_megabytes(target)} are in {target}")


def restore(folder: Path, source: Path) -> None:
    """Put a backup in the place of what lies in ``folder``, which is moved aside.

    Raises:
        CommandError: it is no backup, is damaged, or the service runs.
        SchemaError: it is of a later version.
    """
    _check(source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            lock(folder / TRACKS, fcntl.LOCK_EX),
            tempfile.TemporaryDirectory(dir=folder, prefix="restoring-") as name,
        ):
            copied = Path(name)
            _copy(source, copied)
            aside = folder / time.strftime("before-restore-%Y%m%d-%H%M%S")
            aside.mkdir()
            for each in (TRACKS, f"{TRACKS}-wal", f"{TRACKS}-shm", *FOLDERS):
                if (folder / each).exists():
                    (folder / each).rename(aside / each)
                if (copied / each).exists():
                    (copied / each).rename(folder / each)
    except BlockingIOError:
        raise CommandError(
            f"{folder} is in use: stop the service and the commands that run on it, then restore."
        ) from None
    except OSError as error:
        raise CommandError(f"{folder} cannot be restored: {error}.") from error
    say(f"{folder} is as {source} was; what was there before is in {aside}")


def _check(source: Path) -> None:
    tracks = source / TRACKS
    if not tracks.is_file():
        raise CommandError(f"{source} is no backup: there is no {TRACKS} in it.")
    check_file(tracks)
    try:
        with closing(sqlite3.connect(f"{tracks.absolute().as_uri()}?mode=ro", uri=True)) as file:
            found = file.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = error
    if found != "ok":
        raise CommandError(f"{tracks} is damaged: {found}.")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder while files in it come and go; nothing where there is none."""
    for place, _, names in os.walk(source):
        there = target / Path(place).relative_to(source)
        there.mkdir(exist_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(Path(place) / name, there / name)


def _forget(store: TrackStore, project: int) -> None:
    gone, left = forget_project(store.database, project)
    while store.database.give_back():
        pass
    jobs = counted(gone, "job")
    say(f"{jobs} of project {project} forgotten, with the masks that nothing else had")
    if left:
        cancel = "POST /runs/<id>/cancel and POST /jobs/<id>/cancel"
        waiting = counted(left, "job has", "jobs have")
        say(f"{waiting} not ended: cancel first ({cancel}), then forget again")


def _show(store: TrackStore, folder: Path) -> None:
    sizes = store.database.sizes
    free = sizes["tracks_free"] // MIB
    say(f"tracks    {sizes['tracks'] // MIB} MiB, {free} MiB of it free for new ones", sys.stdout)
    for name in FOLDERS:
        say(f"{name:9} {_megabytes(folder / name)}", sys.stdout)
    counted = ", ".join(f"{number} {state}" for state, number in store.states().items() if number)
    say(f"jobs      {counted or 'none'}", sys.stdout)
    runs = RunStore(store.database).states()
    counted = ", ".join(f"{number} {state}" for state, number in runs.items() if number)
    say(f"runs      {counted or 'none'}", sys.stdout)


def _megabytes(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{total // MIB} MiB"
