"""A project whose downloads never end holds up nobody else, while it goes on and after that."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from backend.media.resolver import MediaResolver
from backend.media.task_media import TaskMedia
from backend.metrics import Metrics
from backend.threads.caller import keep_caller, serving
from backend.threads.fair_queue import Busy
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply
from tests.waiting import LONGER, PATIENCE, until

MIB = 2**20
BODY = random.Random(7).randbytes(6 * MIB)
GREEDY = 40  # downloads of the attacker
MakeResolver = Callable[..., MediaResolver]


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """Set when the attacker's server may answer at last."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def resolver(make_resolver: MakeResolver) -> MediaResolver:
    return make_resolver()


@pytest.fixture
def media(resolver: MediaResolver) -> Iterator[TaskMedia]:
    made = TaskMedia(resolver, Metrics())
    yield made
    made.close()


@pytest.fixture
def attacked(
    media: TaskMedia, resolver: MediaResolver, foreign: RecordingServer, silence: threading.Event
) -> None:
    """One project waits for pictures that do not come, and reads videos that stop in the middle;
    nobody waits for the pictures any more."""

    def stall(seen: Seen) -> Reply:
        if "range" not in seen.headers or not seen.headers["range"].startswith("bytes=0-"):
            silence.wait(LONGER)
        return file_reply(seen, BODY, {"ETag": '"1"'})

    foreign.route("/", stall)
    with serving(project="attacker"):
        for number in range(GREEDY):
            stream = media.stream(f"{foreign.url}/{number}.mp4", 1, time.monotonic() + PATIENCE)
            stream._content._partial.fetch(4, 8, stream._content._source)  # type: ignore[union-attr]
        for number in range(GREEDY):
            with suppress(Busy):
                media.file(f"{foreign.url}/{number}.png", 1, time.monotonic())
    pools = media._pool, resolver._streams._pool
    until(lambda: all(pool._runs["attacker"] and pool._waits["attacker"] for pool in pools))


def test_others_get_what_they_ask_for(
    media: TaskMedia, server: RecordingServer, attacked: None
) -> None:
    server.serve("/fresh.png", b"a picture")
    server.serve("/healthy.mp4", BODY, ETag='"1"')
    end = time.monotonic() + PATIENCE
    with serving(project="another"):
        assert media.file(server.url + "/fresh.png", 2, end).size == 9
        with media.stream(server.url + "/healthy.mp4", 2, end) as stream:
            assert stream.read() == BODY


def test_what_is_at_hand_waits_for_no_thread(
    media: TaskMedia, server: RecordingServer, silence: threading.Event
) -> None:
    """Not even the attacker's own project does."""
    server.serve("/cached.png", b"a picture")
    server.serve("/cached.mp4", BODY, ETag='"1"')
    end = time.monotonic() + PATIENCE
    media.file(server.url + "/cached.png", 2, end)
    with media.stream(server.url + "/cached.mp4", 2, end) as stream:
        assert stream.read(MIB) == BODY[:MIB]
    held = [media._pool.submit(silence.wait, LONGER) for _ in range(GREEDY)]
    assert media.file(server.url + "/cached.png", 2, 0.0).size == 9
    inline = "data:image/png;base64," + base64.b64encode(b"in the task").decode()
    assert media.file(inline, 2, 0.0).size == 11
    with media.stream(server.url + "/cached.mp4", 2, 0.0) as stream:
        assert stream.read(MIB) == BODY[:MIB]
    assert not any(each.done() for each in held)


def test_a_block_that_another_project_wants_too_does_not_wait_for_its_turn(
    media: TaskMedia, resolver: MediaResolver, server: RecordingServer, silence: threading.Event
) -> None:
    """A project whose reads are stuck has asked for blocks of a healthy video as well."""
    server.serve("/healthy.mp4", BODY, ETag='"1"')
    end = time.monotonic() + PATIENCE
    with serving(project="attacker"):
        for _ in range(GREEDY):
            resolver._streams._pool.submit(silence.wait, LONGER)
        stuck = media.stream(server.url + "/healthy.mp4", 1, end)
        with ThreadPoolExecutor(1) as threads:
            waiting: Future[bytes] = threads.submit(keep_caller(stuck.read))
            until(lambda: stuck._content._partial._under_way)  # type: ignore[union-attr]
            with (
                serving(project="another"),
                media.stream(server.url + "/healthy.mp4", 2, end) as stream,
            ):
                assert stream.read() == BODY
            silence.set()
            assert waiting.result(PATIENCE) == BODY
