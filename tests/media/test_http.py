"""http(s): redirects, retries, time-outs, truncation, resuming, and what is sent where."""

from __future__ import annotations

import gzip
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from itertools import count
from pathlib import Path

import pytest

from backend.media.blocks import BLOCK_BYTES
from backend.media.errors import MediaError, Reason
from backend.media.http import split_signature
from backend.media.resolver import MediaResolver
from backend.media.s3 import Bucket, S3Settings
from backend.media.sources import Deadline, Timeouts
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply
from tests.waiting import LONGER, PATIENCE

BODY = bytes(range(256)) * 40
MakeResolver = Callable[..., MediaResolver]


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_second_fetch_makes_no_request(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.serve("/a.jpg", BODY)
    resolver = make_resolver()
    first = resolver.fetch(server.url + "/a.jpg")
    assert first.path.read_bytes() == BODY
    assert (first.content_key, first.size) == (digest(BODY), len(BODY))
    assert resolver.fetch(server.url + "/a.jpg") == first
    assert server.count() == 1
    stats = resolver.stats
    assert (stats.fetches, stats.bytes_fetched, stats.hits) == (1, len(BODY), 1)


@pytest.mark.parametrize("read", ["fetch", "open"])
def test_another_signature_is_the_same_object_once_its_server_took_it(
    server: RecordingServer, make_resolver: MakeResolver, read: str
) -> None:
    server.serve("/a.jpg", BODY * 20, etag='"1"')
    resolver = make_resolver()
    get = getattr(resolver, read)
    for signature, asked in [("1", 1), ("1", 1), ("3", 2), ("3", 2), ("1", 2)]:
        get(f"{server.url}/a.jpg?X-Amz-Signature={signature}&X-Amz-Date=2&v=1")
        assert server.count() == asked
    assert server.seen[1].headers["if-none-match"] == '"1"'
    get(f"{server.url}/a.jpg?X-Amz-Signature=3&X-Amz-Date=4&v=2")
    assert server.count() == 3


@pytest.mark.parametrize("read", ["fetch", "open"])
def test_a_forged_signature_gets_nothing_from_the_cache(
    server: RecordingServer, make_resolver: MakeResolver, read: str
) -> None:
    good = f"{server.url}/a.jpg?X-Amz-Credential=k&X-Amz-Signature=good"

    def signed(request: Seen) -> Reply:
        return Reply(200, BODY * 20) if "Signature=good" in request.target else Reply(403)

    server.route("/a.jpg", signed)
    resolver = make_resolver()
    get = getattr(resolver, read)
    get(good)
    for address in (good.replace("good", "forged"), good.replace("=k&", "=k2&").replace("d", "x")):
        with pytest.raises(MediaError) as caught:
            get(address)
        assert caught.value.reason is Reason.UNAUTHORIZED
        assert resolver.at_hand(address) is None
        assert resolver.stream_at_hand(address) is None
    before = server.count()
    get(good)
    assert server.count() == before


def test_a_forged_signature_does_not_join_a_download_under_way(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    under_way, go_on = threading.Event(), threading.Event()

    def signed(request: Seen) -> Reply:
        if "good" not in request.target:
            return Reply(403)
        under_way.set()
        assert go_on.wait(PATIENCE)
        return Reply(200, BODY)

    server.route("/a.jpg", signed)
    resolver = make_resolver()
    with ThreadPoolExecutor(1) as pool:
        good = pool.submit(resolver.fetch, f"{server.url}/a.jpg?X-Amz-Signature=good")
        assert under_way.wait(PATIENCE)
        try:
            with pytest.raises(MediaError):
                resolver.fetch(f"{server.url}/a.jpg?X-Amz-Signature=forged")
        finally:
            go_on.set()
        assert good.result().size == len(BODY)


@pytest.mark.parametrize("query", ["sig=1&st={}", "signature={}", "x-amz-meta={}", "expires={}",
                                   "signature=s&expires={}", "sv=1&st={}",
                                   "X-Amz-Signature=s&X-Amz-Date=1&X-Amz-Date={}"])  # fmt: skip
def test_what_only_resembles_a_signature_says_which_object_is_meant(
    server: RecordingServer, make_resolver: MakeResolver, query: str
) -> None:
    server.route("/a.jpg", lambda request: Reply(200, request.target.encode()))
    resolver = make_resolver()
    files = [resolver.fetch(f"{server.url}/a.jpg?{query.format(value)}") for value in (1, 2)]
    assert files[0].content_key != files[1].content_key


@pytest.mark.parametrize(
    ("url", "unsigned"),
    [
        ("http://h/p?a=1&b=2#f", "http://h/p?a=1&b=2"),
        ("http://h/p?expires=never", "http://h/p?expires=never"),
        ("http://h/p?versionId=3&X-Amz-Signature=s&X-Amz-Expires=9", "http://h/p?versionId=3"),
        ("http://h/p?AWSAccessKeyId=k&Signature=s&Expires=1", "http://h/p"),
        ("http://h/p?X-Goog-Signature=s&X-Goog-Date=1", "http://h/p"),
        ("http://h/p?sv=2023&sr=b&se=2030&sp=r&sig=s&id=4", "http://h/p?id=4"),
        ("http://h/p?Expires=1&Signature=s&Key-Pair-Id=k", "http://h/p"),
    ],
)
def test_signatures_are_not_part_of_an_identity(url: str, unsigned: str) -> None:
    address, signature = split_signature(url)
    assert address == unsigned
    assert sorted(f"{address}&{signature}".replace("?", "&").strip("&").split("&")) == sorted(
        url.partition("#")[0].replace("?", "&").split("&")
    )


def test_changed_object_gets_another_content_key(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    resolver = make_resolver(fresh_seconds=0)
    server.serve("/a.jpg", BODY, ETag='"1"')
    before = resolver.fetch(server.url + "/a.jpg")
    server.serve("/a.jpg", BODY[::-1], ETag='"2"')
    after = resolver.fetch(server.url + "/a.jpg")
    assert after.path.read_bytes() == BODY[::-1]
    assert before.path.read_bytes() == BODY
    assert after.content_key != before.content_key


def test_unchanged_object_is_not_downloaded_again(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    resolver = make_resolver(fresh_seconds=0)
    server.serve("/a.jpg", BODY, ETag='"1"')
    first = resolver.fetch(server.url + "/a.jpg")
    assert resolver.fetch(server.url + "/a.jpg") == first
    assert server.seen[1].headers["if-none-match"] == '"1"'
    assert resolver.stats.bytes_fetched == len(BODY)
    assert (resolver.stats.fetches, resolver.stats.revalidations) == (1, 1)


def test_server_that_ignores_conditions_is_believed_by_its_etag(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    resolver = make_resolver(fresh_seconds=0)
    server.route("/a.jpg", Reply(200, BODY, {"ETag": '"1"'}))
    resolver.fetch(server.url + "/a.jpg")
    resolver.fetch(server.url + "/a.jpg")
    assert resolver.stats.bytes_fetched == len(BODY)


def test_without_validators_equal_size_proves_nothing(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    resolver = make_resolver(fresh_seconds=0)
    bodies = [BODY, BODY[::-1]]
    server.route("/a.jpg", lambda seen: Reply(200, bodies.pop(0)))
    first = resolver.fetch(server.url + "/a.jpg")
    assert resolver.fetch(server.url + "/a.jpg").content_key != first.content_key


def test_redirects_are_followed_to_other_hosts(
    server: RecordingServer, foreign: RecordingServer, make_resolver: MakeResolver
) -> None:
    foreign.serve("/b/\u00fc.jpg".encode().decode("latin-1"), b"")
    foreign.serve("/b/%C3%BC%20x.jpg", BODY)
    for status in (301, 302, 303, 307, 308):
        target = (foreign.url + "/b/\u00fc x.jpg").encode().decode("latin-1")
        server.route(f"/{status}", Reply(status, headers={"Location": target}))
        assert make_resolver().fetch(f"{server.url}/{status}").size == len(BODY)


def test_endless_redirects_end(server: RecordingServer, make_resolver: MakeResolver) -> None:
    server.route("/", Reply(302, headers={"Location": "/again"}))
    with pytest.raises(MediaError, match="redirected more than 5 times"):
        make_resolver().fetch(server.url + "/a.jpg")
    assert server.count() == 6


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://h/x", "gopher://h/x", "http://user:pw@h/x",
     "http://[::1/x", "//[x"],
)  # fmt: skip
def test_redirect_out_of_http_is_refused(
    server: RecordingServer, make_resolver: MakeResolver, location: str
) -> None:
    server.route("/a.jpg", Reply(302, headers={"Location": location}))
    with pytest.raises(MediaError) as caught:
        make_resolver().fetch(server.url + "/a.jpg")
    assert caught.value.reason is Reason.REFUSED


def test_body_of_a_redirect_is_not_read(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.serve("/b.jpg", BODY)
    server.route("/a.jpg", Reply(302, b"x" * 200, {"Location": "/b.jpg"}, drip=LONGER / 200))
    start = time.monotonic()
    make_resolver().fetch(server.url + "/a.jpg")
    assert time.monotonic() - start < PATIENCE


def test_redirect_into_a_private_network_is_refused(
    server: RecordingServer, foreign: RecordingServer, make_resolver: MakeResolver
) -> None:
    """The first hop is allowed by host and port; the second is another port of loopback."""
    server.route("/a.jpg", Reply(302, headers={"Location": foreign.url + "/secret"}))
    resolver = make_resolver(allowed_private_hosts=[f"127.0.0.1:{server.port}"])
    with pytest.raises(MediaError, match="private or reserved network") as caught:
        resolver.fetch(server.url + "/a.jpg")
    assert caught.value.reason is Reason.REFUSED
    assert foreign.seen == []


def test_retries_until_it_works(server: RecordingServer, make_resolver: MakeResolver) -> None:
    answers = [Reply(503), Reply(500), Reply(200, BODY)]
    server.route("/a.jpg", lambda seen: answers.pop(0))
    assert make_resolver().fetch(server.url + "/a.jpg").size == len(BODY)


def test_gives_up_after_three_attempts(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.route("/a.jpg", Reply(503))
    with pytest.raises(MediaError, match="HTTP 503"):
        make_resolver().fetch(server.url + "/a.jpg")
    assert server.count() == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(
    server: RecordingServer, make_resolver: MakeResolver, form: str
) -> None:
    moments: list[float] = []

    def handler(seen: Seen) -> Reply:
        moments.append(time.time())
        asked = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        return Reply(429, headers={"Retry-After": asked}) if len(moments) == 1 else Reply(200, BODY)

    server.route("/a.jpg", handler)
    make_resolver().fetch(server.url + "/a.jpg")
    assert moments[1] - moments[0] >= 0.95


def test_long_retry_after_is_not_waited_for(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.route("/a.jpg", Reply(429, headers={"Retry-After": "3600"}))
    start = time.monotonic()
    with pytest.raises(MediaError, match="fewer requests"):
        make_resolver().fetch(server.url + "/a.jpg")
    assert time.monotonic() - start < PATIENCE
    assert server.count() == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Reason.UNAUTHORIZED), (403, Reason.UNAUTHORIZED), (404, Reason.NOT_FOUND),
     (410, Reason.NOT_FOUND), (418, Reason.FAILED)],
)  # fmt: skip
def test_refusals_are_final(
    server: RecordingServer, make_resolver: MakeResolver, status: int, reason: Reason
) -> None:
    server.route("/a.jpg", Reply(status))
    with pytest.raises(MediaError) as caught:
        make_resolver().fetch(server.url + "/a.jpg")
    assert caught.value.reason is reason
    assert f"HTTP {status}" in str(caught.value)
    assert server.count() == 1


def test_truncated_body_is_resumed(server: RecordingServer, make_resolver: MakeResolver) -> None:
    def handler(seen: Seen) -> Reply:
        whole = file_reply(seen, BODY, {"ETag": '"1"'})
        cut = whole.body[:4000]
        return Reply(whole.status, cut, whole.headers, length=len(whole.body))

    server.route("/a.jpg", handler)
    resolver = make_resolver()
    assert resolver.fetch(server.url + "/a.jpg").path.read_bytes() == BODY
    assert [seen.headers.get("range") for seen in server.seen] == [
        None, "bytes=4000-", "bytes=8000-",
    ]  # fmt: skip
    assert resolver.stats.bytes_fetched == len(BODY)


def test_truncated_body_that_cannot_be_resumed_is_never_stored(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.route("/a.jpg", Reply(200, BODY[:4000], length=len(BODY)))
    resolver = make_resolver()
    with pytest.raises(MediaError) as caught:
        resolver.fetch(server.url + "/a.jpg")
    assert caught.value.reason in (Reason.TRUNCATED, Reason.FAILED)
    assert resolver.stored_bytes == 0
    server.serve("/a.jpg", BODY)
    assert resolver.fetch(server.url + "/a.jpg").size == len(BODY)


def test_object_that_changes_while_it_is_read_is_read_anew(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    def handler(seen: Seen) -> Reply:
        if server.count() == 1:
            return Reply(200, BODY[:4000], {"ETag": '"1"'}, length=len(BODY))
        return file_reply(seen, BODY[::-1], {"ETag": '"2"'})

    server.route("/a.jpg", handler)
    assert make_resolver().fetch(server.url + "/a.jpg").path.read_bytes() == BODY[::-1]


def test_stalled_body_is_resumed(server: RecordingServer, make_resolver: MakeResolver) -> None:
    def handler(seen: Seen) -> Reply:
        whole = file_reply(seen, BODY, {"ETag": '"1"'})
        if "range" in seen.headers:
            return whole
        return Reply(200, whole.body[:100], whole.headers, length=len(BODY), hang=LONGER)

    server.route("/a.jpg", handler)
    resolver = make_resolver(timeouts=Timeouts(PATIENCE, 1.0, PATIENCE))
    assert resolver.fetch(server.url + "/a.jpg").size == len(BODY)


def test_silent_server_times_out(server: RecordingServer, make_resolver: MakeResolver) -> None:
    def handler(seen: Seen) -> Reply:
        time.sleep(LONGER)
        return Reply()

    server.route("/a.jpg", handler)
    resolver = make_resolver(timeouts=Timeouts(PATIENCE, 0.1, PATIENCE))
    with pytest.raises(MediaError, match=r"did not answer within 0.1 s") as caught:
        resolver.fetch(server.url + "/a.jpg")
    assert caught.value.reason is Reason.TIMEOUT


def test_server_that_drips_its_headers_is_cut_off(
    make_resolver: MakeResolver, caplog: pytest.LogCaptureFixture
) -> None:
    """Each byte restarts the socket's time-out, so that alone would wait for ever."""

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(int(LONGER / 0.05)):
                connection.sendall(b"X")
                time.sleep(0.05)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        resolver = make_resolver(timeouts=Timeouts(connect=0.5, read=0.5, total=PATIENCE))
        start = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"
        with pytest.raises(MediaError) as caught:
            resolver.fetch(f"{url}?X-Amz-Signature=s3cr3t")
        assert caught.value.reason is Reason.TIMEOUT
        assert time.monotonic() - start < PATIENCE
    assert url in caplog.text  # urllib3 complains about the headers
    assert "s3cr3t" not in caplog.text


def test_headers_that_break_off_are_no_empty_file(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    """No announced length and no body: what a connection cut within the headers looks like."""
    headers = {"Transfer-Encoding": "identity", "Connection": "close"}
    server.route("/a.jpg", Reply(200, b"", headers, length=1))
    with pytest.raises(MediaError, match="broke off after 0 bytes"):
        make_resolver().fetch(server.url + "/a.jpg")


def test_dripping_server_meets_the_deadline(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.route("/a.jpg", Reply(200, b"x" * 1000, drip=LONGER / 1000))
    resolver = make_resolver(timeouts=Timeouts(PATIENCE, PATIENCE, total=0.5))
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"did not arrive within 0.5 s"):
        resolver.fetch(server.url + "/a.jpg")
    assert time.monotonic() - start < PATIENCE


class Hurried:
    """A clock that is three seconds on whenever somebody looks at it."""

    def __init__(self) -> None:
        self._now = time.monotonic()

    def __call__(self) -> float:
        self._now += 3
        return self._now


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_dripping_server_is_given_up(
    server: RecordingServer, make_resolver: MakeResolver, scheme: str, ranged: bool
) -> None:
    """By the throughput, long before the time for the whole is over."""
    body = b"x" * (BLOCK_BYTES + 1)

    def drip(seen: Seen) -> Reply:
        reply = file_reply(seen, body, {"ETag": '"1"'})
        reply.length, reply.body = len(reply.body), reply.body[:1000]
        return replace(reply, drip=LONGER / 1000)

    server.route("/media/a.mp4", drip)
    timeouts = Timeouts(PATIENCE, PATIENCE, total=10_000, clock=Hurried())
    s3 = S3Settings(Bucket(endpoint=server.url, anonymous=True))
    resolver = make_resolver(timeouts=timeouts, s3=s3)
    uri = "s3://media/a.mp4" if scheme == "s3" else server.url + "/media/a.mp4"
    with pytest.raises(MediaError, match=r"too slowly: 0.\d KiB/s .* at least 16 KiB/s") as caught:
        (resolver.open if ranged else resolver.fetch)(uri)
    assert caught.value.reason is Reason.TIMEOUT


class Scripted:
    """A clock that stands still but for what a test makes pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float, content: bytes) -> bytes:
        self.now += seconds
        return content


class TestThroughput:
    @pytest.fixture
    def clock(self) -> Scripted:
        return Scripted()

    @pytest.fixture
    def deadline(self, clock: Scripted) -> Deadline:
        return Deadline(Timeouts(total=1000, least=1024, clock=clock), "a.mp4")

    def receive(self, clock: Scripted, deadline: Deadline, seconds: float, size: int) -> None:
        deadline.receive(lambda: clock.passes(seconds, bytes(size)))
        deadline.check()

    def test_just_enough_is_waited_for(self, clock: Scripted, deadline: Deadline) -> None:
        for _ in range(50):
            self.receive(clock, deadline, 2.5, 2560)

    def test_each_ten_seconds_count_for_themselves(
        self, clock: Scripted, deadline: Deadline
    ) -> None:
        self.receive(clock, deadline, 10, 2**20)
        self.receive(clock, deadline, 9, 0)
        with pytest.raises(MediaError, match=r"a\.mp4 arrives too slowly: 0\.5 KiB/s over 10"):
            self.receive(clock, deadline, 1, 5120)

    def test_only_waiting_counts(self, clock: Scripted, deadline: Deadline) -> None:
        for _ in range(20):
            self.receive(clock, deadline, 0.1, 1024)
            clock.now += 30  # our own disk

    def test_one_stall_is_forgiven_but_not_one_after_the_other(
        self, clock: Scripted, deadline: Deadline
    ) -> None:
        for _ in range(2):
            deadline.receive(lambda: clock.passes(15, b""))
            deadline.note_break()
            deadline.check()
            self.receive(clock, deadline, 5, 20_000)
        deadline.receive(lambda: clock.passes(15, b""))
        deadline.note_break()
        deadline.receive(lambda: clock.passes(15, b""))
        deadline.note_break()
        with pytest.raises(MediaError, match="over 20 s"):
            deadline.check()

    def test_none_need_be_asked_for(self, clock: Scripted) -> None:
        deadline = Deadline(Timeouts(total=1000, least=0, clock=clock), "a.mp4")
        self.receive(clock, deadline, 900, 1)


def test_unreachable_server_is_named(make_resolver: MakeResolver) -> None:
    with pytest.raises(MediaError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        make_resolver().fetch("http://127.0.0.1:9/a.jpg")
    assert caught.value.reason is Reason.UNREACHABLE


def test_announced_size_beyond_the_limit_is_refused_unread(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.serve("/a.jpg", BODY)
    resolver = make_resolver(max_bytes=len(BODY) - 1)
    with pytest.raises(MediaError, match="larger than") as caught:
        resolver.fetch(server.url + "/a.jpg")
    assert caught.value.reason is Reason.TOO_LARGE
    assert resolver.stats.bytes_fetched == 0


def test_unannounced_size_beyond_the_limit_is_cut_off(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    body = chunk * 300 + b"0\r\n\r\n"
    server.route("/a.jpg", Reply(200, body, {"Transfer-Encoding": "chunked"}))
    resolver = make_resolver(max_bytes=100_000)
    with pytest.raises(MediaError, match="larger than"):
        resolver.fetch(server.url + "/a.jpg")
    assert resolver.stats.bytes_fetched < 600_000


def test_chunked_body(server: RecordingServer, make_resolver: MakeResolver) -> None:
    body = b"3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n"
    server.route("/a.jpg", Reply(200, body, {"Transfer-Encoding": "chunked"}))
    assert make_resolver().fetch(server.url + "/a.jpg").path.read_bytes() == b"abcdefgh"


def test_truncated_chunked_body_is_refused(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    headers = {"Transfer-Encoding": "chunked", "Connection": "close"}
    server.route("/a.jpg", Reply(200, b"ff\r\nabc", headers, length=99))
    with pytest.raises(MediaError) as caught:
        make_resolver().fetch(server.url + "/a.jpg")
    assert caught.value.reason is Reason.TRUNCATED


def test_packed_body_is_unpacked(server: RecordingServer, make_resolver: MakeResolver) -> None:
    """Asked not to, some servers compress nevertheless; a browser unpacks it."""
    server.route("/a.jpg", Reply(200, gzip.compress(BODY), {"Content-Encoding": "gzip"}))
    assert make_resolver().fetch(server.url + "/a.jpg").path.read_bytes() == BODY
    assert server.seen[0].headers["accept-encoding"] == "identity"


def test_packed_bomb_is_cut_off(server: RecordingServer, make_resolver: MakeResolver) -> None:
    packed = gzip.compress(bytes(50_000_000))
    server.route("/a.jpg", Reply(200, packed, {"Content-Encoding": "gzip"}))
    resolver = make_resolver(max_bytes=1_000_000)
    with pytest.raises(MediaError, match="larger than"):
        resolver.fetch(server.url + "/a.jpg")
    assert resolver.stats.bytes_fetched < 2_000_000


def test_spaces_and_percent_signs_in_paths(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.serve("/we%20ird%20%26+%25%C3%BC.jpg?x=1%202", BODY)
    resolver = make_resolver()
    assert resolver.fetch(server.url + "/we ird %26+%25\u00fc.jpg?x=1 2#frag").size == len(BODY)


def test_cookies_are_not_kept(server: RecordingServer, make_resolver: MakeResolver) -> None:
    numbers = count()
    server.route("/", lambda seen: Reply(200, BODY, {"Set-Cookie": f"a={next(numbers)}; Path=/"}))
    resolver = make_resolver()
    resolver.fetch(server.url + "/a.jpg")
    resolver.fetch(server.url + "/b.jpg")
    assert server.header_values("cookie") == []


def test_signatures_stay_out_of_errors_logs_and_file_names(
    server: RecordingServer,
    make_resolver: MakeResolver,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server.serve("/ok.jpg", BODY)
    server.route("/403.jpg", Reply(403))
    server.route("/503.jpg", Reply(503))
    server.route("/cut.jpg", Reply(200, b"x", length=9))
    server.route("/loop.jpg", Reply(302, headers={"Location": "/loop.jpg?X-Amz-Signature=s3cr3t"}))
    resolver = make_resolver()
    signature = "X-Amz-Credential=s3cr3t&X-Amz-Signature=s3cr3t"
    resolver.fetch(f"{server.url}/ok.jpg?{signature}")
    texts = [caplog.text]
    urls = [f"{server.url}/{name}.jpg" for name in ("403", "503", "cut", "loop")]
    urls += ["http://127.0.0.1:9/x.jpg", "http://10.0.0.1/x.jpg", "http://nowhere.invalid/x.jpg"]
    for url in urls:
        with pytest.raises(MediaError) as caught:
            resolver.fetch(f"{url}?{signature}")
        error: BaseException | None = caught.value
        while error is not None:
            texts.append(f"{error} {error!r}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "s3cr3t" not in "\n".join(texts)
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stored
    assert not any("s3cr3t" in path.name or b"s3cr3t" in path.read_bytes() for path in stored)
