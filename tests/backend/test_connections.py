"""Connections: who sends slowly, sends too much or reads slowly keeps nobody else waiting."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager

import pytest
import requests

from backend.settings import MIB, Settings
from backend.web import connections
from backend.web.connections import Server
from backend.web.door import ARRIVED, REFUSAL
from tests.waiting import PATIENCE, until

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
TOKEN = "t0ken"
THREADS = 2


def post(length, *, path="/predict", token=TOKEN, more=b""):
    """The head of a request with a body of so many bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {length}\r\n"
    ).encode() + more + b"\r\n"  # fmt: skip


class Place:
    """A server with an application that says what it got; time passes when a test says so."""

    def __init__(self, **settings):
        self.now = 0.0
        self.hold = threading.Event()
        self.hold.set()
        self.answering = threading.Event()
        self.streamed = 0
        self.stream_closed = threading.Event()
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = listening.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        given = Settings(**{"auth_token": TOKEN, "threads": THREADS, **settings})
        self.server = Server(self.application, listening, given, clock=lambda: self.now)
        self._over = threading.Event()
        self._loop = threading.Thread(target=self._serve)
        self._loop.start()
        self.opened = []

    def application(self, environ, start_response):
        """A WSGI application."""
        refusal = environ[REFUSAL]
        body = environ["wsgi.input"].read()
        if environ["PATH_INFO"] == "/jobs":
            self.answering.set()
            assert self.hold.wait(PATIENCE)
        start_response(f"{refusal.code.value if refusal else 200} said", [])
        if environ["PATH_INFO"] == "/stream":
            return self.stream()
        said = {"read": len(body), "reason": refusal.reason if refusal else ""}
        said["arrived"] = environ[ARRIVED]
        return [b" " * int(environ.get("HTTP_PADDING", 0)) + json.dumps(said).encode()]

    def stream(self):
        """More than anybody takes."""
        try:
            for _ in range(1000):
                yield bytes(MIB)
                self.streamed += 1
        finally:
            self.stream_closed.set()

    def _serve(self):
        while not self._over.is_set():
            self.server.turn(0.05)
        self.server.stop(0)
        for channel in list(self.server.active_channels.values()):
            channel.close()
        self.server.task_dispatcher.shutdown(timeout=PATIENCE)
        self.server.trigger.close()

    def send(self, *parts):
        """A connection on which this much was sent; it stays open."""
        sock = socket.create_connection(self.address, timeout=PATIENCE)
        self.opened.append(sock)
        for part in parts:
            sock.sendall(part)
        return sock

    def connections(self):
        return len(self.server.active_channels)

    def incoming(self):
        """Requests of which a part is here."""
        return sum(each.request is not None for each in self.server.active_channels.values())

    def waiting_readers(self):
        """Connections whose reply is written, and not taken."""
        channels = self.server.active_channels.values()
        return sum(bool(each.total_outbufs_len and not each.requests) for each in channels)

    def pass_by(self, seconds):
        """Let time pass."""
        self.now += seconds
        self.server.next_channel_cleanup = 0  # and not when waitress's own second is over

    def is_well(self):
        """Whether somebody else is answered."""
        return requests.get(self.url + "/health", timeout=PATIENCE).status_code == 200

    def close(self):
        self.hold.set()
        for sock in self.opened:
            sock.close()
        self._over.set()
        self._loop.join(PATIENCE)


@pytest.fixture
def open_place():
    opened = []

    def make(**settings):
        opened.append(Place(**settings))
        return opened[-1]

    yield make
    for place in opened:
        place.close()


@pytest.fixture
def place(open_place):
    return open_place()


def answer(sock):
    """Status, headers and body of what the server says before it closes the connection."""
    said = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, json.loads(body)


def is_closed(sock):
    """Whether the server closed it without a word."""
    return sock.recv(1) == b""


class TestSlowSenders:
    def test_the_time_of_a_request_begins_with_its_last_byte(self, place):
        body = place.send(post(2, more=b"Connection: close\r\n"), b"{")
        until(lambda: place.incoming() == 1)
        place.pass_by(5)
        body.sendall(b"}")
        assert answer(body)[2]["arrived"] == 5

    def test_two_hundred_of_them_hold_no_thread(self, place):
        heads = [place.send(HEAD + b"X: ") for _ in range(100)]
        bodies = [place.send(post(1000), b"{") for _ in range(100)]
        until(lambda: place.incoming() == 200)
        assert place.is_well()
        # None was cut off for it: those who go on are answered.
        heads[0].sendall(b"1\r\nConnection: close\r\n\r\n")
        bodies[0].sendall(b" " * 999)
        assert answer(heads[0])[0] == 200
        assert bodies[0].recv(12) == b"HTTP/1.1 200"

    def test_a_head_has_its_time_however_it_drips(self, place):
        slow = place.send(HEAD)
        until(lambda: place.incoming() == 1)
        for _ in range(3):
            place.pass_by(connections.HEAD_SECONDS / 3)
            slow.sendall(b"X: 1\r\n")
        place.pass_by(1)
        assert is_closed(slow)

    def test_a_body_has_its_time_and_its_sender_is_told(self, place):
        slow = place.send(post(1000), b"{")
        until(lambda: place.incoming() == 1)
        place.pass_by(connections.HEAD_SECONDS + 1)
        assert place.is_well()
        slow.sendall(b" ")
        place.pass_by(connections.REQUEST_SECONDS)
        status, headers, said = answer(slow)
        assert (status, headers["Connection"]) == (408, "close")
        assert "not here whole after 60 s" in said["reason"]

    def test_who_says_nothing_is_let_go_and_who_waits_for_an_answer_is_not(self, place):
        silent, asking = place.send(), place.send()
        place.hold.clear()
        asking.sendall(post(2, path="/jobs", more=b"Connection: close\r\n") + b"{}")
        assert place.answering.wait(PATIENCE)
        place.pass_by(10 * connections.REQUEST_SECONDS)
        assert is_closed(silent)
        place.hold.set()
        assert answer(asking)[0] == 200

    def test_who_does_not_read_holds_no_thread_and_is_let_go(self, place):
        padding = b"Padding: %d\r\n" % (32 * MIB)
        slow = [place.send(post(2, more=padding) + b"{}") for _ in range(THREADS + 1)]
        assert place.is_well()
        until(lambda: place.waiting_readers() == len(slow))
        place.pass_by(connections.REPLY_SECONDS + 1)
        until(lambda: place.connections() == 0)
        for each in slow:
            with pytest.raises((ConnectionError, ValueError)):
                answer(each)

    def test_a_stream_is_made_no_faster_than_it_is_read(self, place):
        head = f"GET /stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        slow = place.send(head.encode())
        until(lambda: place.streamed * MIB >= connections.AHEAD)
        assert place.is_well()
        read = 0
        while read < 32 * MIB:
            read += len(slow.recv(65536))
        ahead = connections.AHEAD + 32 * MIB  # the system's buffers, too
        assert place.streamed * MIB <= read + ahead
        place.pass_by(connections.REPLY_SECONDS - 1)
        assert not place.stream_closed.is_set()

        def given_up():
            place.pass_by(2)
            return place.stream_closed.is_set()

        until(given_up)
        assert place.is_well()

    def test_where_connections_run_out_the_one_that_waits_longest_goes(self, place, monkeypatch):
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
        oldest = place.send(HEAD)
        until(lambda: place.incoming() == 1)
        place.pass_by(1)
        others = [place.send(HEAD) for _ in range(19)]
        until(lambda: place.incoming() == 20)
        assert place.is_well()
        assert is_closed(oldest)
        others[-1].sendall(b"Connection: close\r\n\r\n")
        assert answer(others[-1])[0] == 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("head", "code", "says"),
        [
            (post(1000, token="wrong"), 401, "credentials"),
            (post(2**40), 413, "larger than 256 MiB; raise MAX_BODY_MB"),
            (post(9 * MIB, path="/webhook"), 413, "larger than 8 MiB, the most that /webhook"),
            (post(1000, more=b"Origin: http://evil.example\r\n"), 403, "Origin"),
            (post(1000).replace(b"application/json", b"text/plain"), 415, "application/json"),
        ],
    )
    def test_a_head_is_enough_for_them(self, place, head, code, says):
        stalls = place.send(head, b"{")
        status, headers, said = answer(stalls)
        assert (status, headers["Connection"], said["read"]) == (code, "close", 0)
        assert says in said["reason"]

    def test_who_still_sends_reads_why(self, place):
        sent = b" " * (16 * MIB)
        eager = place.send(post(len(sent), token="wrong"), sent)
        assert answer(eager)[0] == 401

    def test_and_is_not_read_from_for_long(self, place):
        eager = place.send(post(1000, token="wrong"))
        assert answer(eager)[0] == 401  # and this side is left open
        assert place.connections() == 1
        place.pass_by(connections.LINGER_SECONDS + 1)
        until(lambda: place.connections() == 0)

    def test_nobody_is_told_to_send_what_is_refused(self, place):
        for token, first in [("wrong", b"HTTP/1.1 401"), (TOKEN, b"HTTP/1.1 100")]:
            asking = place.send(post(1000, token=token, more=b"Expect: 100-continue\r\n"))
            assert asking.recv(12) == first

    def test_a_body_in_chunks_is_measured_as_it_comes(self, open_place):
        place = open_place(max_body_bytes=MIB)
        head = post(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
        status, _, said = answer(place.send(head, *[chunk] * 17))
        assert (status, said["read"]) == (413, 0)
        fits = place.send(head, *[chunk] * 15, b"0\r\n\r\n")
        assert fits.recv(12) == b"HTTP/1.1 200"

    def test_large_bodies_share_the_room_for_one(self, open_place):
        place = open_place(max_body_bytes=10 * MIB)
        first = place.send(post(6 * MIB), b"{")
        until(lambda: place.incoming() == 1)
        status, _, said = answer(place.send(post(6 * MIB), b"{"))
        assert (status, "other large requests" in said["reason"]) == (503, True)
        small = place.send(post(connections.SMALL), b" " * connections.SMALL)
        assert small.recv(12) == b"HTTP/1.1 200"
        first.close()
        until(lambda: place.server.has_room(6 * MIB))

    @pytest.mark.parametrize(
        "head", [b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
                 b"GET http://[ HTTP/1.1\r\n\r\n", post("9" * 5000), post("-1"), post("1, 1"),
                 b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000]
    )  # fmt: skip
    def test_what_is_no_request_is_the_callers_fault(self, place, head):
        assert place.send(head).recv(10) in (b"HTTP/1.0 4", b"HTTP/1.1 4")
        assert place.is_well()


class TestStop:
    @contextmanager
    def stopping(self, place, seconds):
        """The loop of ``place`` is over; the server stops."""
        place._over.set()
        place.server.stop, real = lambda _: real(seconds), place.server.stop
        yield

    def test_who_waits_for_an_answer_gets_it(self, place):
        place.hold.clear()
        asking = place.send(post(2, path="/jobs", more=b"Connection: close\r\n") + b"{}")
        assert place.answering.wait(PATIENCE)
        with self.stopping(place, PATIENCE):
            until(lambda: not place.server.accepting or place.server.socket.fileno() < 0)
            with pytest.raises(OSError):
                place.send()
            place.hold.set()
        assert answer(asking)[0] == 200

    def test_who_sends_slowly_is_not_waited_for(self, place):
        place.send(HEAD)
        until(lambda: place.incoming() == 1)
        with self.stopping(place, PATIENCE):  # of a clock that stands still
            place._loop.join(PATIENCE)
        assert not place._loop.is_alive()
