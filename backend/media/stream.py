"""Media as seekable files: only what is read is fetched."""

from __future__ import annotations

import io
import os
import sqlite3
import threading
from contextlib import suppress
from typing import BinaryIO
from weakref import WeakValueDictionary

from backend.media.blocks import BLOCK_BYTES, BlockReader, PartialObject
from backend.media.cache import Lease, MediaCache, MediaFile
from backend.media.cache_index import Entry, identity_key, partial_key
from backend.media.errors import MediaError, Reason
from backend.media.sources import (
    Download,
    RangedObject,
    RemoteObject,
    Restart,
    Validators,
)
from backend.threads.fair_pool import FairPool

THREADS = 16


class MediaStream(io.RawIOBase, BinaryIO):
    """A seekable binary file over media, for one reader at a time.

    Reading raises ``MediaError`` where the bytes cannot be had, also when the object has been
    replaced since it was opened: bytes of two versions are never mixed. Close it, or keep it
    only as long as you read: what is open cannot leave the cache.

    Attributes:
        content_key: names the content; equal keys mean equal bytes.
        size: length in bytes.
    """

    def __init__(self, content_key: str, size: int, content: BlockReader | _WholeFile) -> None:
        super().__init__()
        self.content_key = content_key
        self.size = size
        self._content: BlockReader | _WholeFile | None = content
        self._position = 0

    @classmethod
    def of_file(cls, file: MediaFile) -> MediaStream:
        content = _WholeFile(file)
        return cls(file.content_key, content.size, content)

    @property
    def file(self) -> MediaFile | None:
        """The file, where it is stored whole."""
        content = self._open_content()
        return content.file if isinstance(content, _WholeFile) else None

    def another(self) -> MediaStream:
        """The same content for another reader, from the start."""
        content = self._open_content().another()
        return MediaStream(self.content_key, self.size, content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._open_content()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, which is before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as the content goes."""
        content, view, filled = self._open_content(), memoryview(buffer).cast("B"), 0
        wanted = min(len(view), max(0, self.size - self._position))
        while filled < wanted:
            chunk = content.read_at(self._position, wanted - filled)
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
            self._position += len(chunk)
        return filled

    def close(self) -> None:
        self._content = None
        super().close()

    def _open_content(self) -> BlockReader | _WholeFile:
        if self._content is None:
            raise ValueError("I/O operation on closed file")
        return self._content


class _WholeFile:
    """A file on disk, held in the cache as long as this lives."""

    def __init__(self, file: MediaFile) -> None:
        self.file = file
        self._lease = Lease(os.open(file.path, os.O_RDONLY))
        self.size = os.fstat(self._lease.file).st_size

    def another(self) -> _WholeFile:
        return self

    def read_at(self, position: int, length: int) -> bytes:
        """At least one byte from ``position`` on, which is within the file."""
        found = os.pread(self._lease.file, length, position)
        if not found:
            raise MediaError("The media file was cut short meanwhile.", reason=Reason.TRUNCATED)
        return found


class StreamCache:
    """Opens remote objects as files, through a ``MediaCache``; safe to share between threads.

    Args:
        cache: keeps what is read, and fetches whole what cannot be read in ranges.
        max_bytes: larger objects are refused.
    """

    def __init__(self, cache: MediaCache, *, max_bytes: int) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._pool = FairPool(THREADS, "ranges")
        self._shared_lock = threading.Lock()  # both of the following
        self._opening: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._shared: WeakValueDictionary[str, PartialObject] = WeakValueDictionary()

    def close(self) -> None:
        """Begin nothing more; what is under way is abandoned when the process ends."""
        self._pool.shutdown(wait=False)

    def open(self, source: RemoteObject) -> MediaStream:
        """The object as a file. One request at most, unless it must be fetched whole.

        Raises:
            MediaError: it cannot be had, or there is no room for it.
        """
        if not isinstance(source, RangedObject):
            return MediaStream.of_file(self._cache.fetch(source))
        key = identity_key(source.identity)
        with self._shared_lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:
            return self._cache.using_index(lambda: self._open(key, source))

    def fresh(self, source: RemoteObject) -> MediaStream | None:
        """The object, where some of it is stored and its source need not be asked whether it is
        still the same; makes no request, and waits for nobody who does."""
        if not isinstance(source, RangedObject):
            return None
        with suppress(sqlite3.Error):  # ``open`` will see to it
            return self._fresh(self._cache.index.find(identity_key(source.identity)), source)
        return None

    def _fresh(self, entry: Entry | None, source: RangedObject) -> MediaStream | None:
        if entry is None or not self._cache.is_fresh(entry, source):
            return None
        found = self._cached(entry, source)
        if found:
            self._cache.stats.add("hits")
        return found

    def _open(self, key: str, source: RangedObject) -> MediaStream:
        entry = self._cache.index.find(key)
        if found := self._fresh(entry, source):
            return found
        cached = self._cached(entry, source) if entry else None
        part = source.begin(BLOCK_BYTES, entry.validators if entry and cached else None)
        self._cache.note_answer(source)
        if part is not None:
            return self._begin(key, entry, source, part)
        if cached is None:
            raise MediaError(f"{source.name} cannot be read.", reason=Reason.FAILED)
        self._cache.note_unchanged(key)
        return cached

    def _begin(
        self, key: str, entry: Entry | None, source: RangedObject, part: Download
    ) -> MediaStream:
        validators = part.validators
        if not (part.ranged and validators.tell_versions_apart and validators.size):
            part.close()
            return MediaStream.of_file(self._cache.fetch(source))
        try:
            if validators.size <= BLOCK_BYTES:
                small = Download(part.chunks, validators)
                return MediaStream.of_file(self._cache.keep(source, small))
            if validators.size > self._max_bytes:
                raise MediaError(
                    f"{source.name} has {validators.size / 2**20:.0f} MiB; the limit is "
                    f"{self._max_bytes / 2**20:.0f} MiB.",
                    "Raise MAX_VIDEO_MB of the backend.",
                    reason=Reason.TOO_LARGE,
                )
            partial = self._new(key, entry, source.identity, validators)
            partial.store(0, 1, part.chunks)
        except Restart:
            raise MediaError(
                f"{source.name} changes while it is being read.", "Try again.", reason=Reason.FAILED
            ) from None
        finally:
            part.close()
        self._cache.stats.add("streams")
        return self._stream(partial, source)

    def _cached(self, entry: Entry, source: RangedObject) -> MediaStream | None:
        """What the cache holds of an object, all or some of it."""
        if not entry.is_partial:
            file = self._cache.lease(entry)
            return MediaStream.of_file(file) if file else None
        with self._shared_lock:
            partial = self._shared.get(entry.content_key)
            if partial is None:
                lease = Lease.of(self._cache.path(entry.content_key), os.O_RDWR)
                # It may have been cut short by a crash of the machine.
                if lease is None or os.fstat(lease.file).st_size != entry.validators.size:
                    return None
                partial = self._share(entry, lease)
        self._cache.index.note_used(entry.content_key, self._cache.now())
        return self._stream(partial, source)

    def _new(
        self, key: str, entry: Entry | None, identity: str, validators: Validators
    ) -> PartialObject:
        """The file for an object that has just been seen, or seen changed, with no block yet."""
        cache, version = self._cache, (validators.etag, validators.last_modified, validators.size)
        new = Entry(partial_key(f"{identity} {version}"), 0, validators, cache.now())
        path = cache.path(new.content_key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._shared_lock, cache.index.writing() as index:
            if entry and entry.is_partial and entry.content_key != new.content_key:
                cache.remove(index, entry.content_key)
            index.put(key, new, cache.now())
            shared = self._shared.get(new.content_key)
            if shared and not shared.changed:
                return shared
            lease = Lease.of(path, os.O_RDWR | os.O_CREAT)
            if lease is None:
                raise OSError(f"{path} vanished")
            os.ftruncate(lease.file, validators.size or 0)
            return self._share(new, lease)

    def _share(self, entry: Entry, lease: Lease) -> PartialObject:
        made = PartialObject(self._cache, entry, lease, self._pool)
        self._shared[entry.content_key] = made
        return made

    def _stream(self, partial: PartialObject, source: RangedObject) -> MediaStream:
        return MediaStream(partial.content_key, partial.size, BlockReader(partial, source))
