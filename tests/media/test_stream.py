"""Reading in ranges: only what is read is fetched, once, and never of two versions."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.blocks import BLOCK_BYTES
from backend.media.errors import MediaError, Reason
from backend.media.resolver import MediaResolver
from backend.media.sources import Timeouts
from backend.media.stream import MediaStream
from backend.pixels.sandbox.video_decoding import open_video
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply
from tests.media.servers import FakeLabelStudio, proxied
from tests.pixels.clips import steady, write_clip
from tests.waiting import LONGER, PATIENCE, until

MIB = 2**20
BODY = random.Random(5).randbytes(10 * MIB + 12345)
OTHER = BODY[::-1]
ETAG = {"ETag": '"1"'}
MakeResolver = Callable[..., MediaResolver]


@pytest.fixture
def resolver(make_resolver: MakeResolver) -> MediaResolver:
    return make_resolver()


def read_at(stream: MediaStream, position: int, length: int) -> bytes:
    stream.seek(position)
    return stream.read(length) or b""


def settled(resolver: MediaResolver) -> None:
    """Wait until reading ahead has ended."""
    pool = resolver._streams._pool
    until(lambda: not pool._waiting and not pool._runs)


def whole_files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "objects").glob("*/*") if not path.suffix]


# --- a seekable file -----------------------------------------------------------------------


def test_reads_like_a_file(server: RecordingServer, resolver: MediaResolver) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    reference, chance = io.BytesIO(BODY), random.Random(3)
    with resolver.open(server.url + "/a.mp4") as stream:
        assert (stream.size, stream.seekable(), stream.readable()) == (len(BODY), True, True)
        for _ in range(300):
            offset, whence = chance.randrange(len(BODY) + 1000), chance.choice((0, 0, 2))
            offset -= len(BODY) if whence == 2 else 0
            assert stream.seek(offset, whence) == reference.seek(offset, whence)
            length = chance.choice((0, 1, 500, 300_000, 2_000_000))
            assert stream.read(length) == reference.read(length)
            assert stream.tell() == reference.tell()
        buffer = bytearray(100)
        stream.seek(-40, io.SEEK_END)
        assert (stream.readinto(buffer), bytes(buffer[:40])) == (40, BODY[-40:])
        assert stream.read(10) == b""
        with pytest.raises(ValueError, match="before the start"):
            stream.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_only_what_is_read_is_fetched(server: RecordingServer, resolver: MediaResolver) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    with resolver.open(server.url + "/a.mp4") as stream:
        assert read_at(stream, 0, 1000) == BODY[:1000]
        assert server.count() == 1
        assert read_at(stream, len(BODY) - 1000, 1000) == BODY[-1000:]
    assert server.count() == 2
    last = len(BODY) % BLOCK_BYTES
    assert resolver.stats.bytes_fetched == BLOCK_BYTES + last
    assert resolver.stored_bytes == BLOCK_BYTES + last


def test_reading_on_takes_few_requests(server: RecordingServer, resolver: MediaResolver) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    with resolver.open(server.url + "/a.mp4") as stream:
        while stream.read(100_000):
            pass
    assert server.count() <= 7
    assert resolver.stats.bytes_fetched == len(BODY)


def test_nothing_is_fetched_twice(
    server: RecordingServer, make_resolver: MakeResolver, tmp_path: Path
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    uri = server.url + "/a.mp4"
    first = make_resolver()
    with first.open(uri) as stream:
        assert read_at(stream, 5 * MIB, MIB) == BODY[5 * MIB : 6 * MIB]
    settled(first)
    requests = server.count()
    first.close()
    again = make_resolver()  # after a restart
    with again.open(uri) as stream:
        assert read_at(stream, 5 * MIB, MIB) == BODY[5 * MIB : 6 * MIB]
        assert server.count() == requests
        stream.seek(0)
        assert stream.read() == BODY
    assert first.stats.bytes_fetched + again.stats.bytes_fetched == len(BODY)
    # Now it is a file like any other.
    until(lambda: again.stats.fetches == 1)
    assert whole_files(tmp_path) == [hashlib.sha256(BODY).hexdigest()]
    requests = server.count()
    assert again.fetch(uri).path.read_bytes() == BODY
    assert again.open(uri).content_key == hashlib.sha256(BODY).hexdigest()
    assert server.count() == requests
    assert again.stored_bytes == len(BODY)


def test_what_was_completed_but_not_noted_is_noted_later(
    server: RecordingServer,
    make_resolver: MakeResolver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    with monkeypatch.context() as patched:
        patched.setattr("backend.media.blocks.PartialObject._complete", lambda self: None)
        first = make_resolver()
        with first.open(server.url + "/a.mp4") as stream:
            stream.read()
        first.close()
    assert whole_files(tmp_path) == []
    with make_resolver().open(server.url + "/a.mp4") as stream:
        assert stream.read() == BODY
    until(lambda: whole_files(tmp_path) == [hashlib.sha256(BODY).hexdigest()])


def test_readers_at_once_share_what_is_on_its_way(
    server: RecordingServer, resolver: MediaResolver
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)

    def read(_: int) -> str:
        with resolver.open(server.url + "/a.mp4") as stream:
            return hashlib.sha256(stream.read()).hexdigest()

    with ThreadPoolExecutor(4) as threads:
        digests = set(threads.map(read, range(8)))
    assert digests == {hashlib.sha256(BODY).hexdigest()}
    assert resolver.stats.bytes_fetched == len(BODY)


def test_stale_parts_are_kept_if_nothing_changed(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    resolver = make_resolver(fresh_seconds=0)
    for _ in range(3):
        with resolver.open(server.url + "/a.mp4") as stream:
            assert stream.read(10) == BODY[:10]
    assert resolver.stats.bytes_fetched == BLOCK_BYTES
    assert (resolver.stats.streams, resolver.stats.revalidations) == (1, 2)


def test_small_objects_take_one_request(
    server: RecordingServer, resolver: MediaResolver, tmp_path: Path
) -> None:
    server.serve("/a.mp4", BODY[:5000], **ETAG)
    assert resolver.open(server.url + "/a.mp4").read() == BODY[:5000]
    assert server.count() == 1
    assert whole_files(tmp_path) == [hashlib.sha256(BODY[:5000]).hexdigest()]


def test_empty_object(server: RecordingServer, resolver: MediaResolver) -> None:
    def handler(seen: Seen) -> Reply:
        return Reply(416 if "range" in seen.headers else 200, b"", ETAG)

    server.route("/a.mp4", handler)
    assert resolver.open(server.url + "/a.mp4").read() == b""


# --- where ranges cannot be had ------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, ETAG])
def test_whole_where_ranges_are_refused(
    server: RecordingServer, resolver: MediaResolver, headers: dict[str, str]
) -> None:
    server.route("/a.mp4", Reply(200, BODY, headers))
    with resolver.open(server.url + "/a.mp4") as stream:
        assert read_at(stream, 5 * MIB, 100) == BODY[5 * MIB : 5 * MIB + 100]
    assert resolver.stats.fetches == 1
    resolver.open(server.url + "/a.mp4")
    assert resolver.stats.bytes_fetched == len(BODY)


def test_whole_where_a_change_could_not_be_noticed(
    server: RecordingServer, resolver: MediaResolver
) -> None:
    server.serve("/a.mp4", BODY)  # neither ETag nor Last-Modified
    with resolver.open(server.url + "/a.mp4") as stream:
        assert read_at(stream, 5 * MIB, 100) == BODY[5 * MIB : 5 * MIB + 100]
    assert (resolver.stats.fetches, resolver.stats.streams) == (1, 0)


def test_limits(server: RecordingServer, make_resolver: MakeResolver) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    server.route("/refused.mp4", Reply(200, BODY, ETAG))
    small = make_resolver(max_bytes=MIB)
    with small.open(server.url + "/a.mp4") as stream:  # no limit for what is read in ranges
        assert stream.read(10) == BODY[:10]
    with pytest.raises(MediaError, match=r"MAX_MEDIA_MB.*answers ranges"):
        small.open(server.url + "/refused.mp4")
    with pytest.raises(MediaError, match=r"10 MiB; the limit is 1 MiB\. Raise MAX_VIDEO_MB") as c:
        make_resolver(max_stream_bytes=MIB, fresh_seconds=0).open(server.url + "/a.mp4?2")
    assert c.value.reason is Reason.TOO_LARGE


def test_mounted_files_are_read_in_place(
    make_resolver: MakeResolver, tmp_path: Path, client: LabelStudioClient
) -> None:
    (tmp_path / "a.mp4").write_bytes(BODY)
    resolver = make_resolver(local_root=tmp_path, max_bytes=MIB, label_studio=client)
    uri = "/data/local-files/?d=a.mp4"
    with resolver.open(uri) as stream:
        assert read_at(stream, MIB, 10) == BODY[MIB : MIB + 10]
        key = stream.content_key
    (tmp_path / "a.mp4").write_bytes(OTHER)
    assert resolver.open(uri).content_key != key


# --- changes -------------------------------------------------------------------------------


@pytest.mark.parametrize("honours_if_match", [True, False])
def test_object_that_changes_is_noticed_and_never_mixed(
    server: RecordingServer, resolver: MediaResolver, honours_if_match: bool
) -> None:
    now = {"body": BODY, "etag": '"1"'}

    def handler(seen: Seen) -> Reply:
        if honours_if_match and seen.headers.get("if-match", now["etag"]) != now["etag"]:
            return Reply(412)
        return file_reply(seen, now["body"], {"ETag": now["etag"]})

    server.route("/a.mp4", handler)
    with resolver.open(server.url + "/a.mp4") as stream:
        assert stream.read(10) == BODY[:10]
        now.update(body=OTHER, etag='"2"')
        for _ in range(2):
            with pytest.raises(MediaError, match="replaced while it was being read"):
                read_at(stream, 5 * MIB, 10)
    with resolver.open(server.url + "/a.mp4") as stream:
        assert stream.read() == OTHER


def test_changed_object_between_two_openings(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    resolver = make_resolver(fresh_seconds=0)
    server.serve("/a.mp4", BODY, ETag='"1"')
    with resolver.open(server.url + "/a.mp4") as stream:
        stream.read(10)
        before = stream.content_key
    server.serve("/a.mp4", OTHER, ETag='"2"')
    with resolver.open(server.url + "/a.mp4") as stream:
        assert stream.content_key != before
        assert stream.read() == OTHER


def test_object_without_etag_is_told_by_its_date(
    server: RecordingServer, resolver: MediaResolver
) -> None:
    server.serve("/a.mp4", BODY, Last_Modified="Mon, 02 Nov 2026 10:00:00 GMT")
    with resolver.open(server.url + "/a.mp4") as stream:
        stream.read(10)
        server.serve("/a.mp4", OTHER, Last_Modified="Mon, 02 Nov 2026 10:00:01 GMT")
        with pytest.raises(MediaError, match="replaced"):
            read_at(stream, 5 * MIB, 10)


# --- trouble on the way --------------------------------------------------------------------


class Trouble:
    """A file whose server does something else first for some requests after the first."""

    def __init__(self, *replies: Callable[[Seen], Reply]) -> None:
        self._replies = list(replies)
        self._asked = 0

    def __call__(self, seen: Seen) -> Reply:
        self._asked += 1
        if self._asked > 1 and self._replies:
            return self._replies.pop(0)(seen)
        return file_reply(seen, BODY, ETAG)


def test_busy_server_is_asked_again_when_it_wishes(
    server: RecordingServer, resolver: MediaResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)
    monkeypatch.setattr("backend.retries.time", clock)
    server.route("/a.mp4", Trouble(lambda seen: Reply(429, b"", {"Retry-After": "7"})))
    with resolver.open(server.url + "/a.mp4") as stream:
        assert read_at(stream, 5 * MIB, 10) == BODY[5 * MIB : 5 * MIB + 10]
    assert pauses == [7.0]


def _stalled(seen: Seen) -> Reply:
    reply = file_reply(seen, BODY, ETAG)
    return Reply(206, reply.body[:1000], reply.headers, length=len(reply.body), hang=LONGER)


def _broken(seen: Seen) -> Reply:
    reply = file_reply(seen, BODY, ETAG)
    return Reply(206, reply.body[:1000], reply.headers, length=len(reply.body))


@pytest.mark.parametrize("trouble", [_stalled, _broken])
def test_body_that_stops_is_taken_up_again(
    server: RecordingServer, make_resolver: MakeResolver, trouble: Callable[[Seen], Reply]
) -> None:
    server.route("/a.mp4", Trouble(trouble))
    make_resolver().open(server.url + "/a.mp4").close()  # so that opening needs no request below
    resolver = make_resolver(timeouts=Timeouts(PATIENCE, 0.5, PATIENCE))
    with resolver.open(server.url + "/a.mp4") as stream:
        assert read_at(stream, 5 * MIB, 10_000) == BODY[5 * MIB : 5 * MIB + 10_000]
    begins, ends = (int(text) for text in server.seen[-1].headers["range"][6:].split("-"))
    assert (begins + BLOCK_BYTES - 1000, ends) == (5 * MIB + BLOCK_BYTES, 5 * MIB + BLOCK_BYTES - 1)
    assert server.seen[-1].headers["if-match"] == '"1"'


def test_failure_is_told_and_not_remembered(
    server: RecordingServer, resolver: MediaResolver
) -> None:
    server.route("/a.mp4", Trouble(*[lambda seen: Reply(503)] * 3))
    with resolver.open(server.url + "/a.mp4") as stream:
        with pytest.raises(MediaError, match="HTTP 503"):
            read_at(stream, 5 * MIB, 10)
        assert read_at(stream, 5 * MIB, 10) == BODY[5 * MIB : 5 * MIB + 10]


def test_silent_server_times_out(server: RecordingServer, make_resolver: MakeResolver) -> None:
    silence = threading.Event()

    def silent(seen: Seen) -> Reply:
        silence.wait(LONGER)
        return Reply(503)

    server.route("/a.mp4", Trouble(*[silent] * 3))
    make_resolver().open(server.url + "/a.mp4").close()  # as above
    resolver = make_resolver(timeouts=Timeouts(PATIENCE, 0.2, PATIENCE))
    with (
        resolver.open(server.url + "/a.mp4") as stream,
        pytest.raises(MediaError, match="did not answer") as caught,
    ):
        read_at(stream, 5 * MIB, 10)
    silence.set()
    assert caught.value.reason is Reason.TIMEOUT


HANGING = """
import sys, threading
from pathlib import Path
from backend.media.sources import Timeouts
from backend.media.resolver import MediaResolver
resolver = MediaResolver(
    cache_directory=Path(sys.argv[1]),
    cache_bytes=10**8,
    allowed_private_hosts=["127.0.0.1"],
    timeouts=Timeouts({longer}, {longer}, {longer}),
)
stream = resolver.open(sys.argv[2])
stream.seek(5 << 20)
threading.Thread(target=stream.read, args=(10,), daemon=True).start()
sys.stdin.read()
"""


def test_download_that_hangs_does_not_keep_a_stopping_process(
    server: RecordingServer, tmp_path: Path
) -> None:
    silence = threading.Event()

    def silent(seen: Seen) -> Reply:
        silence.wait(LONGER)
        return Reply(503)

    server.route("/a.mp4", Trouble(silent))
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING.format(longer=LONGER), tmp_path, server.url + "/a.mp4"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
    )
    try:
        until(lambda: server.count() == 2)
        assert process.stdin
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        silence.set()


def test_reading_after_the_end_is_told(server: RecordingServer, resolver: MediaResolver) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    with resolver.open(server.url + "/a.mp4") as stream:
        stream.read(10)
        resolver.close()
        for _ in range(2):
            with pytest.raises(MediaError, match="stopping"):
                read_at(stream, 5 * MIB, 10)


# --- Label Studio --------------------------------------------------------------------------

URI = "s3://media/clip.mp4"


def test_signature_that_expires_is_renewed(
    label_studio: FakeLabelStudio,
    foreign: RecordingServer,
    make_resolver: MakeResolver,
    client: LabelStudioClient,
) -> None:
    valid = {"number": 0}

    def sign(seen: Seen) -> Reply:
        valid["number"] += 1
        location = f"{foreign.url}/media/clip.mp4?X-Amz-Signature={valid['number']}"
        return Reply(303, headers={"Location": location})

    def storage(seen: Seen) -> Reply:
        if not seen.target.endswith(f"Signature={valid['number']}"):
            return Reply(403)
        return file_reply(seen, BODY, ETAG)

    label_studio.cloud[URI] = sign
    foreign.route("/media/", storage)
    resolver = make_resolver(label_studio=client)
    with resolver.open(URI, task_id=1) as stream:
        assert stream.read(10) == BODY[:10]
        assert read_at(stream, 3 * MIB, 10) == BODY[3 * MIB : 3 * MIB + 10]
        assert valid["number"] == 1  # one signature serves as long as it is good
        valid["number"] += 1  # it expires
        assert read_at(stream, 5 * MIB, 10) == BODY[5 * MIB : 5 * MIB + 10]
        assert valid["number"] == 3
    assert foreign.header_values("authorization") == []
    label_studio_requests = [s for s in label_studio.server.seen if s.path.startswith("/tasks/")]
    assert len(label_studio_requests) == 2
    assert all("authorization" in seen.headers for seen in label_studio_requests)


def test_proxied_storage_is_read_within_its_limits(
    label_studio: FakeLabelStudio,
    make_resolver: MakeResolver,
    client: LabelStudioClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers less than asked for, and stops after a while."""
    monkeypatch.setattr("backend.media.label_studio_media._PROXY_RANGE_BYTES", 2 * MIB)
    full, asked = proxied(BODY, "e", max_range=300_000), []

    def handler(seen: Seen) -> Reply:
        asked.append(seen.headers.get("range", ""))
        reply = full(seen)
        cut = len(reply.body) // 2 if len(asked) % 4 == 0 else len(reply.body)
        return Reply(206, reply.body[:cut], reply.headers, length=len(reply.body))

    label_studio.cloud[URI] = handler
    resolver = make_resolver(label_studio=client)
    with resolver.open(URI, task_id=1) as stream:
        assert stream.read() == BODY
    assert resolver.stats.bytes_fetched == len(BODY)
    bounds = [text.removeprefix("bytes=").split("-") for text in asked]
    assert all(int(last) - int(first) < 2 * MIB for first, last in bounds)


def test_upload_is_read_in_ranges_though_it_has_no_validators(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver, client: LabelStudioClient
) -> None:
    label_studio.add("/data/upload/1/0123abcd-a.mp4", BODY)
    resolver = make_resolver(label_studio=client)
    with resolver.open("/data/upload/1/0123abcd-a.mp4") as stream:
        assert read_at(stream, 5 * MIB, 10) == BODY[5 * MIB : 5 * MIB + 10]
        label_studio.expire_all()  # the access token
        assert read_at(stream, 8 * MIB, 10) == BODY[8 * MIB : 8 * MIB + 10]
    assert resolver.stats.bytes_fetched == 3 * BLOCK_BYTES


def test_data_uri(resolver: MediaResolver) -> None:
    assert resolver.open("data:text/plain,abc").read() == b"abc"


# --- the cache -----------------------------------------------------------------------------


def test_disk_stays_bounded_by_what_does_not_fit(
    server: RecordingServer, make_resolver: MakeResolver, tmp_path: Path
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    resolver = make_resolver(cache_bytes=3 * MIB)
    with resolver.open(server.url + "/a.mp4") as stream:
        assert stream.read() == BODY
        settled(resolver)
        used = sum(path.stat().st_blocks for path in (tmp_path / "cache" / "objects").glob("*/*"))
        assert resolver.stored_bytes <= 3 * MIB
        assert used * 512 <= 3 * MIB + BLOCK_BYTES


def test_parts_are_evicted_when_nobody_reads_them(
    server: RecordingServer, make_resolver: MakeResolver, tmp_path: Path
) -> None:
    resolver = make_resolver(cache_bytes=3 * MIB)
    for number in range(8):
        server.serve(f"/{number}.mp4", BODY, **ETAG)
        with resolver.open(f"{server.url}/{number}.mp4") as stream:
            assert read_at(stream, 5 * MIB, 10) == BODY[5 * MIB : 5 * MIB + 10]
        settled(resolver)  # the thread that fetched it reads no more either
    assert resolver.stored_bytes <= 3 * MIB
    assert len(list((tmp_path / "cache" / "objects").glob("*/*.part"))) == 3
    assert resolver.stats.evictions == 5


def test_damaged_block_is_fetched_again(
    server: RecordingServer, make_resolver: MakeResolver, tmp_path: Path
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    with make_resolver().open(server.url + "/a.mp4") as stream:
        stream.read(10)
    [part] = (tmp_path / "cache" / "objects").glob("*/*.part")
    with part.open("r+b") as file:
        file.write(b"damaged")
    resolver = make_resolver()
    with resolver.open(server.url + "/a.mp4") as stream:
        assert stream.read(10) == BODY[:10]
    assert resolver.stats.bytes_fetched == BLOCK_BYTES
    assert resolver.stored_bytes == BLOCK_BYTES


def test_emptied_folder_is_set_up_again(
    server: RecordingServer, resolver: MediaResolver, tmp_path: Path
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    with resolver.open(server.url + "/a.mp4") as stream:
        stream.read(10)
        for path in sorted((tmp_path / "cache").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        assert read_at(stream, 5 * MIB, 10) == BODY[5 * MIB : 5 * MIB + 10]
    with resolver.open(server.url + "/a.mp4?2") as stream:
        assert stream.read() == BODY


def test_what_is_not_used_for_long_is_removed(
    server: RecordingServer, make_resolver: MakeResolver, tmp_path: Path
) -> None:
    server.serve("/a.mp4", BODY, **ETAG)
    server.serve("/b.jpg", BODY[:1000], **ETAG)
    first = make_resolver()
    first.open(server.url + "/a.mp4").close()
    first.fetch(server.url + "/b.jpg")
    first.close()
    time.sleep(0.05)
    later = make_resolver(cache_age=0.01)
    assert later.stored_bytes == 0
    assert list((tmp_path / "cache" / "objects").glob("*/*")) == []


# --- videos --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """9 MB in 150 frames, with the index at the end."""
    noise = np.random.default_rng(1)

    def noisy(picture: np.ndarray) -> np.ndarray:
        return noise.integers(0, 255, picture.shape, np.uint8)

    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_clip(path, times=steady(150, 25), size=(384, 216), transform=noisy).read_bytes()


def test_first_frame_takes_little_of_a_video(
    server: RecordingServer, resolver: MediaResolver, large_video: bytes
) -> None:
    server.serve("/a.mp4", large_video, **ETAG)
    with (
        resolver.open(server.url + "/a.mp4") as stream,
        open_video(stream, read_ahead=0) as frames,
    ):
        assert len(frames) == 150
        assert frames[0].shape == (216, 384, 3)
    assert resolver.stats.bytes_fetched < 0.4 * len(large_video)


def test_video_that_is_replaced_while_it_is_decoded(
    server: RecordingServer, resolver: MediaResolver, large_video: bytes
) -> None:
    server.serve("/a.mp4", large_video, **ETAG)
    with (
        resolver.open(server.url + "/a.mp4") as stream,
        open_video(stream, read_ahead=0) as frames,
    ):
        frames[0]
        server.serve("/a.mp4", large_video[::-1], ETag='"2"')
        with pytest.raises(MediaError, match="replaced while it was being read"):
            frames[110]
