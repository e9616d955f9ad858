"""The disk cache: one download for many, bounded, durable, and never under a reader's feet."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.media.cache import MediaCache, MediaFile
from backend.media.cache_index import CacheIndex
from backend.media.errors import MediaError, Reason
from backend.media.sources import Download, Restart, Validators
from tests.waiting import LONGER, PATIENCE, until

MIB = 2**20


class Source:
    """A remote object whose body and validators a test can change."""

    proof = ""

    def __init__(self, identity: str, body: bytes = b"body", **validators: str) -> None:
        self.identity = identity
        self.body = body
        self.etag = validators.get("etag")
        self.asked: list[Validators | None] = []
        self.hold = threading.Event()
        self.hold.set()
        self.failure: Exception | None = None
        self.announced: int | None = None

    def download(self, known: Validators | None) -> Download | None:
        self.asked.append(known)
        assert self.hold.wait(LONGER)
        if self.failure:
            raise self.failure
        size = len(self.body) if self.announced is None else self.announced
        current = Validators(etag=self.etag, size=size)
        if known and known.same_object(current):
            return None
        return Download(self._chunks(), current)

    def _chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.body), 1000):
            yield self.body[start : start + 1000]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_cache(tmp_path: Path, clock: Clock) -> Callable[..., MediaCache]:
    def make(max_bytes: int = 10_000, max_object_bytes: int = 10_000) -> MediaCache:
        return MediaCache(
            tmp_path / "cache",
            max_bytes=max_bytes,
            max_object_bytes=max_object_bytes,
            fresh_seconds=300,
            clock=clock,
        )

    return make


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "objects").rglob("*") if path.is_file()]


def test_content_and_key(make_cache: Callable[..., MediaCache]) -> None:
    found = make_cache().fetch(Source("a", b"abc" * 1000))
    assert found.path.read_bytes() == b"abc" * 1000
    assert found.content_key == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert found.size == 3000


def test_fresh_objects_are_not_asked_about(
    make_cache: Callable[..., MediaCache], clock: Clock
) -> None:
    cache, source = make_cache(), Source("a", etag='"1"')
    cache.fetch(source)
    clock.now += 299
    cache.fetch(source)
    assert len(source.asked) == 1
    clock.now += 2
    cache.fetch(source)
    assert source.asked[1] == Validators(etag='"1"', size=4)
    clock.now += 299
    cache.fetch(source)
    assert len(source.asked) == 2
    stats = cache.stats
    assert (stats.hits, stats.revalidations, stats.fetches, stats.bytes_fetched) == (2, 1, 1, 4)


def test_a_clock_set_back_does_not_keep_objects_fresh(
    make_cache: Callable[..., MediaCache], clock: Clock
) -> None:
    cache, source = make_cache(), Source("a")
    cache.fetch(source)
    clock.now -= 86400
    cache.fetch(source)
    assert len(source.asked) == 2


def test_fresh_makes_no_request_and_finds_nothing_stale(
    make_cache: Callable[..., MediaCache], clock: Clock
) -> None:
    cache, source = make_cache(), Source("a")
    assert cache.fresh(source) is None
    found = cache.fetch(source)
    assert cache.fresh(source) == found
    clock.now += 301
    assert cache.fresh(source) is None
    assert len(source.asked) == 1


def test_restart_finds_everything(make_cache: Callable[..., MediaCache]) -> None:
    source = Source("a", etag='"1"')
    before = make_cache().fetch(source)
    assert make_cache().fetch(source) == before
    assert len(source.asked) == 1


def test_same_content_is_stored_once(make_cache: Callable[..., MediaCache], tmp_path: Path) -> None:
    cache = make_cache()
    first, second = cache.fetch(Source("a", b"x" * 500)), cache.fetch(Source("b", b"x" * 500))
    assert first.path == second.path
    assert cache.stored_bytes == 500
    assert len(files(tmp_path)) == 1


def test_together_they_download_once(make_cache: Callable[..., MediaCache]) -> None:
    cache, source = make_cache(), Source("a")
    source.hold.clear()
    with ThreadPoolExecutor(16) as pool:
        fetches = [pool.submit(cache.fetch, source) for _ in range(32)]
        until(lambda: source.asked)
        time.sleep(0.2)  # the others come to it, or later: it is all the same
        source.hold.set()
        found = [fetch.result(PATIENCE) for fetch in fetches]
    assert len(source.asked) == 1
    assert len(set(found)) == 1


def test_different_objects_do_not_wait_for_each_other(
    make_cache: Callable[..., MediaCache],
) -> None:
    cache = make_cache()
    together = threading.Barrier(8)

    class Waiting(Source):
        def download(self, known: Validators | None) -> Download | None:
            together.wait(PATIENCE)
            return super().download(known)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cache.fetch, [Waiting(str(number)) for number in range(8)]))


def test_failure_is_shared_but_not_remembered(
    make_cache: Callable[..., MediaCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, source = make_cache(), Source("a")
    source.failure = MediaError("down", reason=Reason.FAILED)
    source.hold.clear()
    joined = threading.Semaphore(0)

    class Flight(Future[MediaFile]):
        def result(self, timeout: float | None = None) -> MediaFile:
            joined.release()
            return super().result(timeout)

    monkeypatch.setattr("backend.media.cache.Future", Flight)
    with ThreadPoolExecutor(8) as pool:
        fetches = [pool.submit(cache.fetch, source) for _ in range(8)]
        for _ in range(7):
            assert joined.acquire(timeout=PATIENCE)
        source.hold.set()
        outcomes = [str(fetch.exception(PATIENCE)) for fetch in fetches]
    assert outcomes == ["down"] * 8
    assert len(source.asked) == 1
    source.failure = None
    assert cache.fetch(source).size == 4


def test_least_recently_used_goes_first(
    make_cache: Callable[..., MediaCache], tmp_path: Path, clock: Clock
) -> None:
    cache = make_cache()
    sources = {name: Source(name, name.encode() * 3000) for name in "abcd"}
    for name in "abc":
        cache.fetch(sources[name])
        clock.now += 10
    cache.fetch(sources["a"])
    clock.now += 10
    cache.fetch(sources["d"])
    assert cache.stored_bytes == 9000
    assert cache.stats.evictions == 1
    assert {path.read_bytes()[:1] for path in files(tmp_path)} == {b"a", b"c", b"d"}
    cache.fetch(sources["b"])
    assert len(sources["b"].asked) == 2


def test_disk_stays_bounded(
    make_cache: Callable[..., MediaCache], tmp_path: Path, clock: Clock
) -> None:
    cache = make_cache(max_bytes=20_000)
    for number in range(200):
        cache.fetch(Source(str(number), str(number).encode() * 400))
        clock.now += 1
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 20_000
    assert cache.stored_bytes <= 20_000
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


def test_files_in_use_are_not_evicted(make_cache: Callable[..., MediaCache], clock: Clock) -> None:
    cache = make_cache()
    held = cache.fetch(Source("held", b"h" * 5000))
    again = cache.fetch(Source("held", b"h" * 5000))
    for number in range(5):
        clock.now += 10
        cache.fetch(Source(str(number), str(number).encode() * 4000))
    assert held.path.read_bytes() == b"h" * 5000
    del held
    clock.now += 10
    cache.fetch(Source("x", b"x" * 4000))
    assert again.path.exists()
    path = again.path
    del again
    for number in range(3):
        clock.now += 10
        cache.fetch(Source(f"y{number}", f"y{number}".encode() * 2000))
    assert not path.exists()


def test_file_in_use_is_not_replaced_by_its_equal(
    make_cache: Callable[..., MediaCache], clock: Clock
) -> None:
    """A second address with the same content: the first reader's claim must go on."""
    cache = make_cache()
    held = cache.fetch(Source("a", b"x" * 6000))
    cache.fetch(Source("b", b"x" * 6000))
    clock.now += 10
    cache.fetch(Source("c", b"y" * 6000))
    assert held.path.read_bytes() == b"x" * 6000


def test_when_all_is_in_use_it_exceeds_and_recovers(
    make_cache: Callable[..., MediaCache], clock: Clock
) -> None:
    cache = make_cache()
    held = [cache.fetch(Source(str(n), str(n).encode() * 6000)) for n in range(3)]
    assert cache.stored_bytes == 18_000
    assert all(found.path.exists() for found in held)
    held.clear()
    clock.now += 10
    cache.fetch(Source("x", b"x" * 6000))
    assert cache.stored_bytes <= 10_000


def test_larger_than_the_cache_is_refused(make_cache: Callable[..., MediaCache]) -> None:
    cache = make_cache(max_bytes=1000, max_object_bytes=10_000)
    with pytest.raises(MediaError) as caught:
        cache.fetch(Source("a", b"x" * 1001))
    assert caught.value.reason is Reason.TOO_LARGE
    assert cache.stored_bytes == 0


@pytest.mark.parametrize("announced", [3999, 4001])
def test_body_that_is_not_as_long_as_announced_is_not_kept(
    make_cache: Callable[..., MediaCache], tmp_path: Path, announced: int
) -> None:
    cache, source = make_cache(), Source("a", b"x" * 4000)
    source.announced = announced
    with pytest.raises(MediaError) as caught:
        cache.fetch(source)
    assert caught.value.reason is Reason.TRUNCATED
    assert files(tmp_path) == []


def test_body_that_keeps_changing_is_given_up(make_cache: Callable[..., MediaCache]) -> None:
    class Changing(Source):
        def _chunks(self) -> Iterator[bytes]:
            yield b"x"
            raise Restart

    source = Changing("a")
    with pytest.raises(MediaError, match="changes while it is being read"):
        make_cache().fetch(source)
    assert len(source.asked) == 2


@pytest.mark.parametrize("damage", ["removed", "truncated", "emptied folder"])
def test_damaged_files_are_fetched_again(
    make_cache: Callable[..., MediaCache], tmp_path: Path, damage: str
) -> None:
    cache, source = make_cache(), Source("a", etag='"1"')
    path = cache.fetch(source).path
    if damage == "truncated":
        path.write_bytes(b"")
    else:
        path.unlink()
    if damage == "emptied folder":
        path.parent.rmdir()
        (tmp_path / "cache" / "incoming").rmdir()
    assert cache.fetch(source).path.read_bytes() == b"body"
    assert source.asked[1] is None


@pytest.mark.parametrize("damage", [b"", b"not a database, but long enough to look like one" * 100])
def test_damaged_index_starts_anew(
    make_cache: Callable[..., MediaCache], tmp_path: Path, damage: bytes
) -> None:
    source, before = Source("a"), make_cache()
    before.fetch(source)
    before.close()
    (tmp_path / "cache" / "index.sqlite").write_bytes(damage)
    cache = make_cache()
    assert files(tmp_path) == []
    assert cache.fetch(source).path.read_bytes() == b"body"


def test_index_with_damaged_inner_pages_starts_anew(
    make_cache: Callable[..., MediaCache], tmp_path: Path
) -> None:
    before = make_cache(max_bytes=10_000, max_object_bytes=100)
    for number in range(300):
        before.fetch(Source(str(number)))
    before.close()
    path = tmp_path / "cache" / "index.sqlite"
    whole = path.read_bytes()
    assert len(whole) > 3 * 4096
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    cache = make_cache()
    assert cache.fetch(Source("0")).path.read_bytes() == b"body"


def test_index_that_is_damaged_while_in_use_starts_anew(
    make_cache: Callable[..., MediaCache], tmp_path: Path
) -> None:
    source, cache = Source("a"), make_cache()
    cache.fetch(source)
    with closing(sqlite3.connect(tmp_path / "cache" / "index.sqlite")) as other, other:
        other.execute("UPDATE entries SET validators = CAST(x'ff5b' AS TEXT)")
    assert cache.fetch(source).path.read_bytes() == b"body"
    assert len(source.asked) == 2


@pytest.mark.parametrize("new", [False, True])
def test_index_that_somebody_else_writes_to_is_not_taken_for_damaged(
    make_cache: Callable[..., MediaCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new: bool,
) -> None:
    monkeypatch.setattr("backend.media.cache_index._LOCK_TIMEOUT_S", 0.1)
    source, cache = Source("a"), make_cache()
    cache.fetch(source)
    other = sqlite3.connect(tmp_path / "cache" / "index.sqlite", isolation_level=None)
    if new:  # as another program would leave it: not in write-ahead mode yet
        cache.close()
        other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(MediaError, match="database is locked"):
        make_cache()
    other.execute("ROLLBACK")
    other.close()
    assert make_cache().fetch(source).path.read_bytes() == b"body"
    assert len(source.asked) == 1


def test_file_of_other_bytes_gives_way_to_the_same_content(
    make_cache: Callable[..., MediaCache],
) -> None:
    cache = make_cache()
    first = cache.fetch(Source("a"))
    first.path.write_bytes(b"evil")
    assert cache.fetch(Source("b")).path.read_bytes() == b"body"
    again = cache.fetch(Source("c"))
    assert again.path.stat().st_ino == cache.fetch(Source("b")).path.stat().st_ino  # kept


def test_what_cannot_be_decoded_is_fetched_again_where_it_is_not_what_was_fetched(
    make_cache: Callable[..., MediaCache], tmp_path: Path
) -> None:
    source, cache = Source("a"), make_cache()
    found = cache.fetch(source)
    assert not cache.drop_damaged(found)
    found.path.write_bytes(b"evil")
    assert cache.drop_damaged(found)
    assert cache.fetch(source).path.read_bytes() == b"body"
    assert len(source.asked) == 2
    elsewhere = tmp_path / "mounted"
    elsewhere.write_bytes(b"other")
    assert not cache.drop_damaged(MediaFile(elsewhere, "key", 5))
    assert elsewhere.exists()


class TestFullDisk:
    """A disk on which so many bytes of files fit, as ``os.write`` sees it."""

    @pytest.fixture
    def disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        room, write = [4000], os.write

        def limited(file: int, data: Any) -> int:
            stored = sum(path.stat().st_size for path in tmp_path.glob("cache/incoming/*"))
            stored += sum(path.stat().st_size for path in files(tmp_path))
            if stored + len(data) > room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data)

        monkeypatch.setattr(os, "write", limited)
        return room

    @pytest.fixture
    def no_index(self, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], bool]]:
        """When there is no room for the index: what the last one of the list says."""
        full: list[Callable[[], bool]] = [lambda: False]

        def opened(path: Path) -> CacheIndex:
            if full[-1]():
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return CacheIndex(path)

        monkeypatch.setattr("backend.media.cache.CacheIndex", opened)
        return full

    def test_at_the_start_it_is_told_and_all_goes_on_once_there_is_room(
        self,
        make_cache: Callable[..., MediaCache],
        no_index: list[Callable[[], bool]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        no_index.append(lambda: True)
        cache = make_cache()
        assert "database or disk is full" in caplog.text
        assert (cache.stored_bytes, cache.fresh(Source("a"))) == (0, None)
        with pytest.raises(MediaError, match="media cache cannot be used: database or disk is"):
            cache.fetch(Source("a"))
        no_index.append(lambda: False)
        assert cache.fetch(Source("a")).size == 4
        assert cache.stored_bytes == 4
        cache.close()

    def test_at_the_start_the_oldest_files_make_room(
        self,
        make_cache: Callable[..., MediaCache],
        no_index: list[Callable[[], bool]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        cache = make_cache()
        kept = cache.fetch(Source("used", b"u" * 1000)).path
        old = cache.fetch(Source("old", b"o" * 1000)).path
        os.utime(old, (1, 1))
        cache.close()
        monkeypatch.setattr("backend.media.cache._FREED_AT_ONCE", 1)
        no_index.append(lambda: len(files(tmp_path)) > 1)
        assert make_cache().stored_bytes == 1000
        assert files(tmp_path) == [kept]

    @pytest.mark.usefixtures("disk")
    def test_files_that_nobody_uses_make_room(
        self, make_cache: Callable[..., MediaCache], tmp_path: Path, clock: Clock
    ) -> None:
        cache = make_cache()
        used = cache.fetch(Source("used", b"u" * 1500))
        cache.fetch(Source("old", b"o" * 2000))
        clock.now += 10.0
        assert cache.fetch(Source("new", b"n" * 2400)).size == 2400
        assert used.path.exists()
        assert len(files(tmp_path)) == 2
        assert cache.stats.evictions == 1

    def test_without_such_files_it_is_told(
        self, make_cache: Callable[..., MediaCache], disk: list[int]
    ) -> None:
        cache = make_cache()
        used = cache.fetch(Source("used", b"u" * 3500))
        with pytest.raises(MediaError, match="No space left"):
            cache.fetch(Source("new", b"n" * 1000))
        assert used.path.exists()
        disk[0] = 10_000
        assert cache.fetch(Source("new", b"n" * 1000)).size == 1000


def test_folder_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MediaError, match="CACHE_DIR") as caught:
        MediaCache(tmp_path / "file" / "cache", max_bytes=1, max_object_bytes=1)
    assert caught.value.reason is Reason.STORAGE


def test_emptied_folder_is_set_up_again(
    make_cache: Callable[..., MediaCache], tmp_path: Path
) -> None:
    cache, source = make_cache(), Source("a")
    cache.fetch(source)
    shutil.rmtree(tmp_path / "cache")
    for name in "abc":
        assert cache.fetch(Source(name)).path.read_bytes() == b"body"
    assert cache.fetch(source).path.read_bytes() == b"body"
    assert len(files(tmp_path)) == 1


def test_leftovers_of_a_crash_are_removed(
    make_cache: Callable[..., MediaCache], tmp_path: Path
) -> None:
    make_cache().fetch(Source("a"))
    (tmp_path / "cache" / "incoming" / "tmpabc").write_bytes(b"half")
    stray = tmp_path / "cache" / "objects" / "ff" / ("f" * 64)
    stray.parent.mkdir()
    stray.write_bytes(b"stray")
    make_cache()
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []
    assert len(files(tmp_path)) == 1


def test_a_smaller_limit_takes_effect_at_the_start(
    make_cache: Callable[..., MediaCache], tmp_path: Path, clock: Clock
) -> None:
    cache = make_cache()
    for number in range(3):
        cache.fetch(Source(str(number), str(number).encode() * 3000))
        clock.now += 10
    assert make_cache(max_bytes=4000).stored_bytes == 3000
    assert len(files(tmp_path)) == 1


def test_full_disk_is_explained(
    make_cache: Callable[..., MediaCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    cache = make_cache()
    monkeypatch.setattr("backend.media.cache.os.write", full)
    with pytest.raises(MediaError, match="No space left on device") as caught:
        cache.fetch(Source("a"))
    assert caught.value.reason is Reason.STORAGE


def test_others_cannot_read_the_cache(
    make_cache: Callable[..., MediaCache], tmp_path: Path
) -> None:
    found = make_cache().fetch(Source("a"))
    assert found.path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def _hammer(directory: Path, seed: int, failures: multiprocessing.Queue) -> None:
    """One process of several on one folder that is far too small for what they read."""
    cache = MediaCache(directory, max_bytes=200_000, max_object_bytes=MIB, fresh_seconds=1000)
    for step in range(60):
        number = (step * 7 + seed * 3) % 25
        body = bytes([number]) * 20_000
        found = cache.fetch(Source(str(number), body))
        if found.path.read_bytes() != body:
            failures.put((seed, step))


def test_processes_share_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    workers = [
        context.Process(target=_hammer, args=(tmp_path / "cache", seed, failures))
        for seed in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONGER)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert failures.empty()
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 200_000


def test_a_process_that_starts_leaves_a_download_that_just_began(
    make_cache: Callable[..., MediaCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def begin_while_another_starts(**where: Path) -> tuple[int, str]:
        begun.append(made := mkstemp(**where))
        if len(begun) == 1:
            make_cache()
            assert not Path(made[1]).exists()  # swept: nobody had locked it yet
        return made

    cache, mkstemp = make_cache(), tempfile.mkstemp
    monkeypatch.setattr("backend.media.cache.tempfile.mkstemp", begin_while_another_starts)
    assert cache.fetch(Source("a", b"body")).path.read_bytes() == b"body"
    assert len(begun) == 2


def _start(
    directories: list[Path], barrier: multiprocessing.Barrier, failures: multiprocessing.Queue
) -> None:
    for directory in directories:
        barrier.wait(LONGER)
        try:
            MediaCache(directory, max_bytes=10, max_object_bytes=10).close()
        except MediaError as error:
            failures.put(str(error))


def test_processes_that_start_together_set_up_one_index(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, failures = context.Barrier(4), context.Queue()
    directories = [tmp_path / str(number) for number in range(60)]
    workers = [
        context.Process(target=_start, args=(directories, barrier, failures)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(2 * LONGER)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failures.empty()


def test_threads_under_eviction_pressure(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache", max_bytes=60_000, max_object_bytes=MIB)

    def work(seed: int) -> None:
        for step in range(60):
            number = (step * 7 + seed * 3) % 12
            body = bytes([number]) * 10_000
            assert cache.fetch(Source(str(number), body)).path.read_bytes() == body

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 60_000
