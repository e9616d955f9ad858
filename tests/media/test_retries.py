"""What is asked again, after which pause, and what is not."""

from __future__ import annotations

import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
import requests

from backend.media.s3 import S3, Bucket, S3Settings
from backend.media.sources import Timeouts
from backend.retries import pause_before_retry, send_with_retries
from benchmarks.support.recording_server import RecordingServer, Reply
from tests.waiting import PATIENCE


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    made: list[float] = []
    clock = SimpleNamespace(sleep=made.append, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr("backend.retries.time", clock)
    return made


def test_pauses_double_and_end() -> None:
    first, second = pause_before_retry(1), pause_before_retry(2)
    assert first
    assert second
    assert 0.2 <= first <= 0.3
    assert 0.4 <= second <= 0.6
    assert pause_before_retry(3) is None


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "1.5", "\u0661"])
def test_what_asks_for_nothing_is_not_heeded(text: str) -> None:
    pause = pause_before_retry(1, text)
    assert pause
    assert 0.2 <= pause <= 0.3


def test_pause_that_the_server_asks_for() -> None:
    assert pause_before_retry(1, " 7 ") == 7
    asked = pause_before_retry(1, formatdate(time.time() + 5, usegmt=True))
    assert asked
    assert 3 < asked <= 5
    assert pause_before_retry(1, "11") is None
    assert pause_before_retry(1, "9" * 5000) is None
    assert pause_before_retry(1, "7", until=time.monotonic() + 6) is None


@pytest.mark.parametrize(("idempotent", "sent"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("error", [requests.ReadTimeout, requests.ConnectionError])
def test_what_may_have_arrived_is_repeated_only_where_that_does_no_harm(
    pauses: list[float], error: type[Exception], idempotent: bool, sent: int
) -> None:
    asked = []

    def send() -> requests.Response:
        asked.append(1)
        raise error

    with pytest.raises(error):
        send_with_retries(send, idempotent=idempotent)
    assert (len(asked), len(pauses)) == (sent, sent - 1)


def test_what_never_left_is_always_sent_again(pauses: list[float]) -> None:
    with pytest.raises(requests.ConnectionError):
        send_with_retries(lambda: requests.post("http://127.0.0.1:9", timeout=1), idempotent=False)
    assert len(pauses) == 2


def test_refused_certificate_stays_refused(pauses: list[float]) -> None:
    def send() -> requests.Response:
        raise requests.exceptions.SSLError

    with pytest.raises(requests.exceptions.SSLError):
        send_with_retries(send)
    assert pauses == []


@pytest.mark.usefixtures("credentials")
def test_all_requests_to_s3_wait_as_they_are_asked(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=slept.append))
    answers = [Reply(503, b"", {"Retry-After": "4"}), Reply(200, b"<ListBucketResult/>")]
    server.route("/", lambda seen: answers.pop(0))
    timeouts = Timeouts(PATIENCE, PATIENCE, PATIENCE)
    client = S3(S3Settings(Bucket(endpoint=server.url)), timeouts=timeouts).client("photos")
    client.list_objects_v2(Bucket="photos")
    assert (slept, server.count()) == ([4], 2)
