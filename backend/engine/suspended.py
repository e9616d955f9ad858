"""What trackers remember while nothing is asked of them: in memory, and on the disk beyond that.

The files have no name, so they leave with the process however it ends, and nobody else can write
what is read back from them.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from backend.engine.engine import EngineError

if TYPE_CHECKING:
    from sam2model.track_memory import SuspendedTracks

logger = logging.getLogger(__name__)

MEMORY_BYTES = 256 << 20
DISK_BYTES = 4 << 30


class Kept(Protocol):
    """What one tracker remembers, kept until it is taken back or dropped."""

    def take(self) -> SuspendedTracks:
        """All of it; it is not kept any more.

        Raises:
            EngineError: it cannot be read back.
        """

    def drop(self) -> None:
        """Forget it."""


class KeptInMemory:
    """See ``Kept``."""

    def __init__(self, tracks: SuspendedTracks, freed: Callable[[], None] = lambda: None) -> None:
        self._tracks: SuspendedTracks | None = tracks
        self._freed = freed

    def take(self) -> SuspendedTracks:
        """See ``Kept``."""
        tracks = self._tracks
        self.drop()
        if tracks is None:
            raise EngineError("what the track remembers was dropped already")
        return tracks

    def drop(self) -> None:
        """See ``Kept``."""
        if self._tracks is not None:
            self._tracks = None
            self._freed()


class KeptOnDisk:
    """See ``Kept``."""

    def __init__(self, file: IO[bytes], freed: Callable[[], None]) -> None:
        self._file = file
        self._freed = freed

    def take(self) -> SuspendedTracks:
        """See ``Kept``."""
        try:
            self._file.seek(0)
            tracks: SuspendedTracks = pickle.load(self._file)  # noqa: S301 - see the module
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            logger.error("what a track remembers cannot be read back: %s", error)
            raise EngineError(
                "what the track remembers could not be read back from the disk; track again, and "
                "it goes on after the last frame that is done"
            ) from error
        finally:
            self.drop()
        return tracks

    def drop(self) -> None:
        """See ``Kept``."""
        if not self._file.closed:
            self._file.close()
            self._freed()


class SuspendedMemory:
    """Keeps what suspended trackers remember, within bounds; safe to share between threads.

    Args:
        folder: for what does not fit into memory; made when it is needed.
        memory_bytes, disk_bytes: what is kept at most.
    """

    def __init__(
        self, folder: Path, *, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES
    ) -> None:
        self._folder = folder
        self._most = {"memory": memory_bytes, "disk": disk_bytes}
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> dict[str, int]:
        """Bytes that are kept, by where."""
        with self._lock:
            return {where: self._held[where] for where in self._most}

    def keep(self, tracks: SuspendedTracks) -> Kept:
        """Keep all of it until it is taken or dropped.

        Raises:
            EngineError: there is no room.
        """
        nbytes = tracks.nbytes
        if self._claim("memory", nbytes):
            return KeptInMemory(tracks, partial(self._give_back, "memory", nbytes))
        if not self._claim("disk", nbytes):
            raise EngineError("no more tracks can wait for their turn beside those that do")
        give_back = partial(self._give_back, "disk", nbytes)
        try:
            return KeptOnDisk(self._written(tracks), give_back)
        except OSError as error:
            give_back()
            logger.warning("what a track remembers cannot be put on the disk: %s", error)
            raise EngineError(
                f"there is no room in {self._folder} for what a track remembers"
            ) from error

    def _written(self, tracks: SuspendedTracks) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by ``drop``
        try:
            pickle.dump(tracks, file, protocol=5)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    def _claim(self, where: str, nbytes: int) -> bool:
        with self._lock:
            if self._held[where] + nbytes > self._most[where]:
                return False
            self._held[where] += nbytes
            return True

    def _give_back(self, where: str, nbytes: int) -> None:
        with self._lock:
            self._held[where] -= nbytes
