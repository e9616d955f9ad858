"""Embeddings on the disk, in half precision: what a picture's encoder made outlives the process.

Several processes may share the folder. A file is there whole or not at all, says itself what it
holds, and carries a checksum: one that is damaged is thrown away, and the picture encoded anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_BEGIN = b"embedding 1\n"
_DIGEST = 16  # bytes
ABOUT = 1024  # bytes of a file beside the embedding, at most
_END = ".embedding"
_PARTIAL = ".partial-"
_PARTIAL_SECONDS = 3600.0  # after which nobody goes on with it
_SHARE_UNSEEN = 50  # of the files, one in so many may be written before the folder is looked at


@dataclass(frozen=True)
class PackedEmbedding:
    """An embedding in host memory, in half precision.

    Attributes:
        parts: of the features, the bits of their numbers.
        made_as, kept_as: of each part, the numbers that the encoder made, and those that the bits
            are, as torch calls them.
        original_size: height and width of the image, pixels.
    """

    parts: tuple[NDArray[np.uint16], ...]
    made_as: tuple[str, ...]
    kept_as: tuple[str, ...]
    original_size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True)
class DiskRoom:
    """How much of the embeddings the disk keeps.

    Attributes:
        each: bytes of one.
        capacity: bytes of all; 0 where none are kept.
        used: bytes that are there.
    """

    each: int
    capacity: int
    used: int

    @property
    def fits(self) -> int:
        """How many there may be."""
        return self.capacity // self.each if self.each else 0


class EmbeddingDisk:
    """The least recently used leave once there is no room, and those that nobody used for long.

    Args:
        capacity: bytes. Where several processes write at the same time it may be exceeded by what
            they write within a moment.
        age: seconds.
    """

    def __init__(self, folder: Path, capacity: int, age: float) -> None:
        self.capacity = capacity
        self._folder, self._age = folder, age
        self._lock = threading.Lock()
        self._used: int | None = None  # as far as it is known
        self._unseen = 0  # files that may be written before the folder is looked at again
        self._is_failing = False
        self.damaged = 0  # files thrown away

    @property
    def used(self) -> int:
        """Bytes that are there, others' too, as of the last look."""
        with self._lock:
            if self._used is None:
                self._look()
            return self._used or 0

    def load(self, key: str) -> PackedEmbedding | None:
        """What was stored under ``key``; None where there is nothing, or nothing whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            found = _read(data, key)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%s) and is thrown away", path.name, error)
            self.damaged += 1
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # it may leave meanwhile
            os.utime(path)
        return found

    def store(self, key: str, packed: PackedEmbedding) -> None:
        """Keep an embedding. A disk that takes nothing costs the embedding and nothing else."""
        path = self._path(key)
        partial = path.with_name(f"{path.name}{_PARTIAL}{os.getpid()}-{threading.get_ident()}")
        data = _written(packed, key)
        size = sum(len(part) for part in data)
        if size > self.capacity:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._make_room(size)
            with partial.open("wb") as file:
                file.writelines(data)
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            if not self._is_failing:
                logger.warning("embeddings cannot be kept in %s: %s", self._folder, error)
            self._is_failing = True
        else:
            self._is_failing = False

    def _path(self, key: str) -> Path:
        return self._folder / (hashlib.sha256(key.encode()).hexdigest()[:40] + _END)

    def _make_room(self, size: int) -> None:
        """Make sure that ``size`` more bytes fit; what others have written is seen now and then."""
        if self._used is None or self._unseen <= 0 or self._used + size > self.capacity:
            self._look(size)
        self._used = (self._used or 0) + size
        self._unseen -= 1

    def _look(self, size: int = 0) -> None:
        """Count what is there, and take away what is too old or too much."""
        with self._alone():
            found = sorted(self._entries())
            now, kept = time.time(), 0
            total = sum(entry[1] for entry in found)
            for used_at, length, path in found:
                if now - used_at > self._age or total + size > self.capacity:
                    path.unlink(missing_ok=True)
                    total -= length
                else:
                    kept += 1
        self._used, self._unseen = total, 1 + kept // _SHARE_UNSEEN

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each file was used last, its length, and the file."""
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    try:
                        about = entry.stat()
                    except OSError:  # it left meanwhile
                        continue
                    path = Path(entry.path)
                    if entry.name.endswith(_END):
                        yield about.st_mtime, about.st_size, path
                    elif _PARTIAL in entry.name and about.st_mtime < time.time() - _PARTIAL_SECONDS:
                        path.unlink(missing_ok=True)
        except FileNotFoundError:
            return

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process takes files away meanwhile: together they would take too many."""
        try:
            lock = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:  # there is no folder yet
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _written(packed: PackedEmbedding, key: str) -> list[bytes]:
    shapes = [part.shape for part in packed.parts]
    about = {
        "key": key,
        "made_as": packed.made_as,
        "kept_as": packed.kept_as,
        "size": packed.original_size,
        "shapes": shapes,
    }
    head = _BEGIN + json.dumps(about).encode() + b"\n"
    body = [part.tobytes() for part in packed.parts]
    return [head, *body, _checksum([head, *body])]


def _read(data: bytes, key: str) -> PackedEmbedding:
    """What a file holds.

    Raises:
        ValueError, KeyError, TypeError: it is not whole, or not what is looked for.
    """
    view = memoryview(data)
    if not data.startswith(_BEGIN) or _checksum([view[:-_DIGEST]]) != data[-_DIGEST:]:
        raise ValueError("its checksum is another")
    start = data.index(b"\n", len(_BEGIN)) + 1
    about = json.loads(data[len(_BEGIN) : start])
    if about["key"] != key:
        raise ValueError("it is of something else")
    parts = []
    for shape in about["shapes"]:
        count = int(np.prod(shape))
        parts.append(np.frombuffer(data, np.uint16, count, start).reshape(shape))
        start += 2 * count
    height, width = about["size"]
    made_as, kept_as = tuple(about["made_as"]), tuple(about["kept_as"])
    return PackedEmbedding(tuple(parts), made_as, kept_as, (int(height), int(width)))


def _checksum(parts: list[bytes] | list[memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        digest.update(part)
    return digest.digest()
