"""One version of a large object of which only some blocks are stored, and its readers.

The blocks lie where they belong in a sparse file of the object's size, and the index of the cache
knows which are there, with a checksum of each. Whatever a reader has seen is not fetched again,
by nobody, as long as there is room for it; with the last block it becomes a file like any other.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from itertools import groupby

from backend.media.cache import Lease, MediaCache
from backend.media.cache_index import Entry
from backend.media.errors import MediaError, Reason
from backend.media.sources import RangedObject, Restart
from backend.threads.fair_pool import FairPool
from backend.threads.fair_queue import Busy

logger = logging.getLogger(__name__)

BLOCK_BYTES = 512 * 1024
_READ_AHEAD_BLOCKS = 16
"""8 MiB: what Label Studio's proxy gives at once, and several round trips to any storage."""

_UNSTORED_BLOCKS = 2 * _READ_AHEAD_BLOCKS  # kept in memory where the disk has no room


class PartialObject:
    """The blocks of one version of one object; shared by all who read it in this process.

    Args:
        cache: where they are kept.
        entry: what is known of this version; with its size.
        lease: the file, open for reading and writing.
        pool: its threads fetch.

    Attributes:
        changed: the source has another version by now.
    """

    def __init__(self, cache: MediaCache, entry: Entry, lease: Lease, pool: FairPool) -> None:
        self.content_key = entry.content_key
        self.validators = entry.validators
        self.size = entry.validators.size or 0
        self.count = -(-self.size // BLOCK_BYTES)
        self._cache = cache
        self._lease = lease
        self._pool = pool
        self._lock = threading.Lock()  # everything below
        self._stored = cache.index.blocks(entry.content_key)  # block: checksum
        self._verified: set[int] = set()
        self._under_way: dict[int, Future[bytes]] = {}
        self._begun: set[int] = set()  # those of them that a thread fetches
        self._unstored: OrderedDict[int, bytes] = OrderedDict()
        self.changed = False
        if len(self._stored) == self.count:  # the last process ended before it could say so
            self._complete_soon()

    def get(self, block: int, source: RangedObject) -> bytes:
        """The content of a block, fetched if it is not stored.

        Raises:
            MediaError: it cannot be had; or the object is another one by now.
        """
        while True:
            with self._lock:
                if self.changed:
                    raise _changed(source)
                flight, begun = self._under_way.get(block), block in self._begun
            if flight is not None:
                if not begun:  # it may be another project's, whose turn is late
                    with suppress(Busy):
                        self._pool.submit_for(
                            source.host, self._fetch_run, range(block, block + 1), source
                        )
                try:
                    return flight.result()
                except MediaError:
                    continue  # another reader's way there failed; this one's may not
            found = self._stored_block(block)
            if found is not None:
                return found
            claimed = self.fetch(block, block + 1, source)
            if block in claimed:
                return claimed[block].result()

    def fetch(self, first: int, stop: int, source: RangedObject) -> dict[int, Future[bytes]]:
        """Begin to fetch those of the blocks ``first`` to ``stop`` (not included) that are neither
        stored nor on their way; returns these."""
        with self._lock:
            known = (self._stored, self._under_way, self._unstored)
            wanted = range(first, min(stop, self.count))
            missing = [block for block in wanted if not any(block in blocks for blocks in known)]
            claimed: dict[int, Future[bytes]] = {block: Future() for block in missing}
            self._under_way |= claimed
        for run in _runs(missing):
            try:
                self._pool.submit_for(source.host, self._fetch_run, run, source)
            except Busy as busy:
                self._fail(run, MediaError(f"{source.name}: {busy}.", reason=Reason.TIMEOUT))
        return claimed

    def store(self, first: int, stop: int, chunks: Iterable[bytes]) -> None:
        """Keep the blocks ``first`` to ``stop`` (not included) as they arrive in ``chunks``.

        Raises:
            Restart, MediaError: as ``chunks``.
        """
        block, buffer = first, bytearray()
        for chunk in chunks:
            self._cache.stats.add("bytes_fetched", len(chunk))
            buffer += chunk
            while block < stop and len(buffer) >= self._length(block):
                length = self._length(block)
                self._arrived(block, bytes(buffer[:length]))
                del buffer[:length]
                block += 1

    def _length(self, block: int) -> int:
        return min(BLOCK_BYTES, self.size - block * BLOCK_BYTES)

    def _fetch_run(self, run: range, source: RangedObject) -> None:
        """In the pool: fetch those of the blocks that nobody has begun to fetch yet."""
        with self._lock:
            left = [each for each in run if each in self._under_way and each not in self._begun]
            self._begun.update(left)
        for stretch in _runs(left):
            self._fetch_stretch(stretch, source)

    def _fetch_stretch(self, run: range, source: RangedObject) -> None:
        error = MediaError(f"{source.name} cannot be read.", reason=Reason.FAILED)
        try:
            self._cache.stats.add("ranges")
            end = min(run.stop * BLOCK_BYTES, self.size)
            chunks = source.read_range(run.start * BLOCK_BYTES, end, self.validators)
            self.store(run.start, run.stop, chunks)
        except Restart:
            self._forget()
            error = _changed(source)
        except MediaError as failure:
            error = failure
        except Exception:  # the end of this thread's work; its readers must not wait for ever
            logger.exception("reading %s failed", source.name)
        finally:
            self._fail(run, error)

    def _fail(self, run: range, error: MediaError) -> None:
        """Tell those who wait for blocks that did not arrive."""
        with self._lock:
            left = [self._under_way.pop(block, None) for block in run]
            self._begun.difference_update(run)
        for flight in left:
            if flight is not None:
                flight.set_exception(error)

    def _arrived(self, block: int, content: bytes) -> None:
        checksum = zlib.crc32(content)
        stored = self._write(block, content, checksum)
        with self._lock:
            if stored:
                self._stored[block] = checksum
                self._verified.add(block)
            else:
                self._unstored[block] = content
                if len(self._unstored) > _UNSTORED_BLOCKS:
                    self._unstored.popitem(last=False)
            flight = self._under_way.pop(block, None)
            self._begun.discard(block)
            whole = len(self._stored) == self.count
        if flight is not None:
            flight.set_result(content)
        if stored and whole:
            self._complete_soon()

    def _stored_block(self, block: int) -> bytes | None:
        with self._lock:
            content = self._unstored.get(block)
            checksum = self._stored.get(block)
            checked = block in self._verified
        if content is not None or checksum is None:
            return content
        content = os.pread(self._lease.file, self._length(block), block * BLOCK_BYTES)
        if checked or zlib.crc32(content) == checksum:
            with self._lock:
                self._verified.add(block)
            return content
        logger.warning("Media cache: block %d of %s is damaged", block, self.content_key)
        with self._lock:
            self._stored.pop(block, None)
        with self._cache.index.writing() as index:
            index.drop_block(self.content_key, block, self._length(block))
        return None

    # --- the disk ------------------------------------------------------------------------------

    def _write(self, block: int, content: bytes, checksum: int) -> bool:
        """Whether there was room for it, or others made it."""
        try:
            return self._write_once(block, content, checksum)
        except sqlite3.IntegrityError:
            return False  # another process has completed the file, or dropped it
        except (OSError, sqlite3.Error) as error:
            cause = error
        try:
            if self._cache.make_room_on_disk(cause, len(content)):
                return self._write_once(block, content, checksum)
        except (OSError, sqlite3.Error) as error:
            cause = error
        logger.warning("Media cache: a block cannot be kept: %s", cause)
        return False

    def _write_once(self, block: int, content: bytes, checksum: int) -> bool:
        with self._cache.index.writing() as index:
            if not self._cache.make_room(index, len(content)):
                return False
            index.add_block(self.content_key, block, checksum, len(content))
            position, view = block * BLOCK_BYTES, memoryview(content)
            while view:
                written = os.pwrite(self._lease.file, view, position)
                position, view = position + written, view[written:]
        return True

    def _complete_soon(self) -> None:
        with suppress(Busy):  # else when it is opened next
            self._pool.submit(self._complete)

    def _complete(self) -> None:
        """In the pool: all blocks are stored; make it a file like any other."""
        digest, cache = hashlib.sha256(), self._cache
        try:
            for block in range(self.count):
                digest.update(os.pread(self._lease.file, self._length(block), block * BLOCK_BYTES))
            os.fdatasync(self._lease.file)
            content = digest.hexdigest()
            path, part = cache.path(content), cache.path(self.content_key)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with cache.index.writing() as index:
                if not index.complete(self.content_key, content, self.size, cache.now()):
                    return
                if cache.open_checked(Entry(content, self.size, self.validators, 0.0)):
                    part.unlink(missing_ok=True)
                else:
                    part.replace(path)
            cache.stats.add("fetches")
        except (OSError, sqlite3.Error) as error:
            logger.warning("Media cache: %s stays in parts: %s", self.content_key, error)

    def _forget(self) -> None:
        """The source has another version now: this one is of no use to anybody."""
        with self._lock:
            self.changed = True
        try:
            with self._cache.index.writing() as index:
                index.forget(self.content_key)
                self._cache.path(self.content_key).unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            logger.warning("Media cache: %s cannot be removed: %s", self.content_key, error)


class BlockReader:
    """One reader's view of an object in blocks, with read-ahead that grows while it reads on."""

    def __init__(self, partial: PartialObject, source: RangedObject) -> None:
        self._partial, self._source = partial, source
        self._last, self._content = -9, b""
        self._window = 1
        self._ahead_to = 0

    def another(self) -> BlockReader:
        return BlockReader(self._partial, self._source)

    def read_at(self, position: int, length: int) -> bytes:
        """At least one byte from ``position`` on, which is within the object."""
        block, offset = divmod(position, BLOCK_BYTES)
        if block != self._last:
            self._read_ahead(block)
            self._content = self._partial.get(block, self._source)
            self._last = block
        return self._content[offset : offset + length]

    def _read_ahead(self, block: int) -> None:
        """Begin with what will be wanted soon: nothing after a jump, more the longer it goes on.
        One block in between may be left out: sound between pictures is."""
        if not 0 < block - self._last <= 2:
            self._window, self._ahead_to = 1, block + 1
            return
        self._window = min(self._window * 2, _READ_AHEAD_BLOCKS)
        if self._ahead_to - block <= self._window // 2:
            first, self._ahead_to = max(block, self._ahead_to), block + self._window
            self._partial.fetch(first, self._ahead_to, self._source)


def _changed(source: RangedObject) -> MediaError:
    return MediaError(
        f"{source.name} was replaced while it was being read.",
        "Try again: then the new one is read.",
        reason=Reason.FAILED,
    )


def _runs(blocks: list[int]) -> list[range]:
    """Ascending numbers as ranges without gaps."""
    # Within a run, number and place grow alike.
    grouped = groupby(enumerate(blocks), key=lambda pair: pair[1] - pair[0])
    runs = [[block for _, block in group] for _, group in grouped]
    return [range(run[0], run[-1] + 1) for run in runs]
