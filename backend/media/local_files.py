"""Files of an allow-listed folder that is mounted here, read where they lie."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from backend.media.addresses import path_inside
from backend.media.errors import MediaError, Reason, shown

_READ_BYTES = 1024 * 1024
_REMEMBERED = 4096


class LocalFiles:
    """The folder that Label Studio calls LOCAL_FILES_DOCUMENT_ROOT.

    Reading it directly skips Label Studio's own check that a storage of the task's project
    covers the file; whoever mounts the folder here opens all of it.

    Args:
        root: the folder; files outside it are refused, also through links.
        max_bytes: files above this size are refused.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._hashes: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()

    def find(self, relative: str) -> tuple[Path, str, int]:
        """Path, SHA-256 in hexadecimal and size in bytes of a file under the root.

        Raises:
            MediaError: see ``path_inside``; or it is too large, or cannot be read.
        """
        path = path_inside(self._root, relative)
        try:
            status = path.stat()
            if status.st_size > self._max_bytes:
                raise _too_large(relative, status.st_size, self._max_bytes, "MAX_MEDIA_MB")
            version = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
            return path, self._hash(path, version), status.st_size
        except OSError as error:
            raise MediaError(
                f"{shown(relative)} cannot be read: {error.strerror}.",
                "Check the file's permissions for the user the backend runs as.",
                reason=Reason.UNAUTHORIZED,
            ) from None

    def open(self, relative: str, max_bytes: int) -> tuple[Path, str, int]:
        """As ``find``, without reading the file: its content is named by path and version.

        Args:
            max_bytes: files above this size are refused.
        """
        path = path_inside(self._root, relative)
        status = path.stat()
        if status.st_size > max_bytes:
            raise _too_large(relative, status.st_size, max_bytes, "MAX_VIDEO_MB")
        version = f"{path}\n{status.st_ino} {status.st_mtime_ns} {status.st_size}"
        return path, hashlib.sha256(version.encode("utf-8", "replace")).hexdigest(), status.st_size

    def _hash(self, path: Path, version: tuple[str, int, int, int]) -> str:
        """The content's hash, computed once per version of the file."""
        with self._lock:
            if known := self._hashes.get(version):
                self._hashes.move_to_end(version)
                return known
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
        with self._lock:
            self._hashes[version] = digest.hexdigest()
            if len(self._hashes) > _REMEMBERED:
                self._hashes.popitem(last=False)
        return digest.hexdigest()


def _too_large(relative: str, size: int, limit: int, setting: str) -> MediaError:
    return MediaError(
        f"{shown(relative)} has {size} bytes; the limit is {limit}.",
        f"Raise {setting} of the backend if it has the memory for it.",
        reason=Reason.TOO_LARGE,
    )
