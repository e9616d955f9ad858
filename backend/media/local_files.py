"""Files of an allow-listed folder that is mounted here, read where they lie."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path, PurePosixPath

from backend.media.cache import MediaFile
from backend.media.errors import MediaError, Reason, shown

_HASHES_KEPT = 4096


class LocalFiles:
    """The folder that Label Studio calls LOCAL_FILES_DOCUMENT_ROOT.

    Reading it directly skips Label Studio's own check that a storage of the task's project
    covers the file; whoever mounts the folder here opens all of it.

    Args:
        root: the folder; files outside it are refused, also through links.
        max_bytes: files above this size are not read whole.
        max_stream_bytes: files above this size are not read in parts either.
    """

    def __init__(self, root: Path, *, max_bytes: int, max_stream_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._max_stream_bytes = max_stream_bytes
        self._digest = lru_cache(_HASHES_KEPT)(_digest)

    def find(self, relative: str, *, whole: bool = True) -> MediaFile:
        """A file under the root.

        Args:
            whole: it will be read whole; else it is named by path and version, which takes no
                reading.

        Raises:
            MediaError: see ``path_inside``; or it is too large, or cannot be read.
        """
        path = path_inside(self._root, relative)
        limit, setting = (
            (self._max_bytes, "MAX_MEDIA_MB") if whole else (self._max_stream_bytes, "MAX_VIDEO_MB")
        )
        try:
            status = path.stat()
            if status.st_size > limit:
                raise MediaError(
                    f"{shown(relative)} has {status.st_size} bytes; the limit is {limit}.",
                    f"Raise {setting} of the backend if it has the memory for it.",
                    reason=Reason.TOO_LARGE,
                )
            version = status.st_ino, status.st_mtime_ns, status.st_size
            name = self._digest(path, version) if whole else _version_name(path, version)
        except OSError as error:
            raise MediaError(
                f"{shown(relative)} cannot be read: {error.strerror}.",
                "Check the file's permissions for the user the backend runs as.",
                reason=Reason.UNAUTHORIZED,
            ) from None
        return MediaFile(path, name, status.st_size)


def path_inside(root: Path, relative: str) -> Path:
    """The existing regular file ``relative`` names under ``root``, symlinks resolved.

    Args:
        relative: slash-separated; a leading slash still means the root.

    Raises:
        MediaError: it leaves the root (``..``, symlink), or there is no such file.
    """
    if "\0" in relative or ".." in PurePosixPath(relative.replace("\\", "/")).parts:
        raise MediaError("The local file path climbs out of its folder.", reason=Reason.REFUSED)
    try:
        base = root.resolve(strict=True)
        path = (base / relative.lstrip("/")).resolve(strict=True)
    except (OSError, RuntimeError):
        raise _no_such_file(relative) from None
    if not path.is_relative_to(base):
        raise MediaError(
            f"{shown(relative)} is a link that leaves the local files folder.",
            reason=Reason.REFUSED,
        )
    if not path.is_file():
        raise _no_such_file(relative)
    return path


def _no_such_file(relative: str) -> MediaError:
    return MediaError(
        f"There is no file {shown(relative)} in the backend's local files folder.",
        "Check that the same folder is mounted for Label Studio and for the backend.",
        reason=Reason.NOT_FOUND,
    )


def _digest(path: Path, version: tuple[int, int, int]) -> str:
    """SHA-256 of the content in hexadecimal; ``version`` is what it is remembered by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_name(path: Path, version: tuple[int, int, int]) -> str:
    inode, modified, size = version
    text = f"{path}\n{inode} {modified} {size}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
