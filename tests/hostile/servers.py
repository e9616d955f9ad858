"""Attacks by how a server behaves that may be asked."""

from __future__ import annotations

import gzip
import itertools
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterable

from benchmarks.support.recording_server import Reply, Seen, file_reply
from tests.hostile.arena import MAX_BYTES, SECRET, Arena, Conversation
from tests.hostile.corpus import Attack
from tests.waiting import LONGER

TOO_LARGE = "larger than the 8 MiB"
SLOW = "did not arrive within|did not answer within"
UNUSABLE = "cannot be reached|broke off|did not answer|damaged"
OK = b"HTTP/1.1 200 OK\r\n"


def _sends(*parts: bytes | Iterable[bytes], pause: float = 0.0, wait: float = 0.0) -> Conversation:
    """Send the parts, ``pause`` seconds between pieces, and hold the connection open ``wait``."""

    def script(connection: socket.socket) -> None:
        for part in parts:
            for piece in [part] if isinstance(part, bytes) else part:
                connection.sendall(piece)
                if pause:
                    time.sleep(pause)
        time.sleep(wait)

    return script


def _forever(piece: bytes) -> Iterable[bytes]:
    return itertools.repeat(piece)


def _one_by_one(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def _gzipped(times: int) -> bytes:
    data = bytes(200 << 20) if times == 1 else bytes(20 << 20)
    for _ in range(times):
        data = gzip.compress(data, 9)
    return data


LENGTH = b"Content-Length: "
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

SLOW_SCRIPTS: dict[str, tuple[Callable[[], Conversation], str]] = {
    "body drips": (
        lambda: _sends(OK + LENGTH + b"1000\r\n\r\n", _forever(b"x"), pause=0.2),
        f"broke off|{SLOW}",
    ),
    "headers drip": (
        lambda: _sends(OK, _one_by_one(b"X-A: " + b"b" * 1000), pause=0.2),
        SLOW,
    ),
    "status line drips": (lambda: _sends(_one_by_one(b"HTTP/1.1 200 O" * 100), pause=0.2), SLOW),
    "never answers": (lambda: _sends(wait=LONGER), SLOW),
    "stalls after the headers": (
        lambda: _sends(OK + LENGTH + b"9\r\n\r\n", wait=LONGER),
        f"broke off|{SLOW}",
    ),
    "stalls in the body": (
        lambda: _sends(OK + LENGTH + b"90000\r\n\r\n", bytes(1000), wait=LONGER),
        f"broke off|{SLOW}",
    ),
    "continues without end": (
        lambda: _sends(_forever(b"HTTP/1.1 100 Continue\r\n\r\n")),
        UNUSABLE,
    ),
}

SCRIPTS: dict[str, tuple[Callable[[], Conversation], str]] = {
    "body without end": (lambda: _sends(OK + b"\r\n", _forever(bytes(65536))), TOO_LARGE),
    "chunks without end": (
        lambda: _sends(CHUNKED, _forever(b"10000\r\n" + bytes(65536) + b"\r\n")),
        TOO_LARGE,
    ),
    "chunk of absurd size": (
        lambda: _sends(CHUNKED, b"FFFFFFFFFFFFFFFF\r\n", bytes(1000)),
        f"{UNUSABLE}|{TOO_LARGE}",
    ),
    "chunk of negative size": (lambda: _sends(CHUNKED, b"-5\r\n", bytes(100)), UNUSABLE),
    "chunk size without end": (lambda: _sends(CHUNKED, _forever(b"0" * 4096)), UNUSABLE),
    "announces an exabyte": (
        lambda: _sends(OK + LENGTH + b"1152921504606846976\r\n\r\n", bytes(100)),
        TOO_LARGE,
    ),
    "two lengths": (
        lambda: _sends(OK + LENGTH + b"5\r\n" + LENGTH + b"500000000\r\n\r\n", bytes(5)),
        UNUSABLE,
    ),
    "announces more than it sends": (
        lambda: _sends(OK + LENGTH + b"1000\r\n\r\n", bytes(10)),
        "broke off after 10 bytes",
    ),
    "headers without end": (lambda: _sends(OK, _forever(b"X-A: b\r\n")), UNUSABLE),
    "a hundred thousand headers": (
        lambda: _sends(OK, b"X-A: b\r\n" * 100_000, b"\r\n"),
        UNUSABLE,
    ),
    "one header without end": (lambda: _sends(OK + b"X-A: ", _forever(b"b" * 65536)), UNUSABLE),
    "speaks no HTTP": (lambda: _sends(b"220 mail.example ESMTP\r\n"), UNUSABLE),
    "speaks HTTP/0.9": (lambda: _sends(b"<html>hello</html>"), UNUSABLE),
    "hangs up": (lambda: _sends(), UNUSABLE),
    "status that is none": (lambda: _sends(b"HTTP/1.1 -1 Oops\r\n\r\n"), UNUSABLE),
}


def attacks() -> list[Attack]:
    """See the module."""
    found = [
        Attack("server", name, _scripted(make, hasty=hasty), says)
        for scripts, hasty in ((SCRIPTS, False), (SLOW_SCRIPTS, True))
        for name, (make, says) in scripts.items()
    ]
    bomb = {"Content-Encoding": "gzip"}
    found += [
        Attack("server", "announces a number without end",
               _scripted(lambda: _sends(OK + LENGTH + b"9" * 5000 + b"\r\n\r\n", bytes(100))),
               "fetched 100 bytes", harmless=True),
        Attack("server", "announces a negative length",
               _scripted(lambda: _sends(OK + LENGTH + b"-1\r\n\r\n", bytes(100))),
               "fetched 100 bytes", harmless=True),
        Attack("server", "compressed bomb", lambda a: a.fetch(a.serve(_gzipped(1), headers=bomb)),
               TOO_LARGE),
        Attack("server", "compressed bomb, deflate",
               lambda a: a.fetch(a.serve(zlib.compress(bytes(200 << 20), 9),
                                         headers={"Content-Encoding": "deflate"})), TOO_LARGE),
        Attack("server", "bomb compressed four times",
               lambda a: a.fetch(a.serve(_gzipped(4), headers={"Content-Encoding": ", ".join(
                   ["gzip"] * 4)})), f"{TOO_LARGE}|{UNUSABLE}"),
        Attack("server", "compressed sixty times",
               lambda a: a.fetch(a.serve(b"x", headers={"Content-Encoding": ", ".join(
                   ["gzip"] * 60)})), UNUSABLE),
        Attack("server", "says compressed, and is not",
               lambda a: a.fetch(a.serve(b"plain", headers=bomb)), UNUSABLE),
        Attack("server", "compressed and cut short",
               lambda a: a.image(a.serve(gzip.compress(bytes(5000))[:-10], headers=bomb)),
               f"{UNUSABLE}|known format"),
        Attack("server", "larger than allowed", lambda a: a.fetch(a.serve(bytes(MAX_BYTES + 1))),
               TOO_LARGE),
        Attack("server", "wants a pause of years", _pause, "HTTP 429"),
        Attack("server", "wants a pause before the beginning of time", _odd_pause, "HTTP 503"),
        Attack("server", "sets cookies", _cookies, "known format"),
        Attack("server", "login page", lambda a: a.image(a.serve(b"<!doctype html><form>")),
               "web page"),
        Attack("server", "error page that shows the signature",
               lambda a: a.image(a.serve(f"<Error><Sig>{SECRET}</Sig></Error>".encode())), "XML"),
        Attack("server", "part of the file that was not asked for", _part_of_the_file,
               "does not go on"),
        Attack("server", "goes on elsewhere than asked", _other_range, "does not go on"),
        Attack("server", "goes on with another version", _other_version, "changes while"),
        Attack("server", "goes on with another size", _other_size, "changes while"),
        Attack("server", "answers ranges as multipart", _multipart, "changes while|answered"),
        Attack("server", "stream: ranges longer than asked for", _stream(_long_range),
               "read 3001000 bytes", harmless=True),
        Attack("server", "stream: says it is an exabyte", _stream(_exabyte),
               "the limit is 16384 MiB"),
        Attack("server", "stream: another version every time", _stream(_every_time),
               "was replaced"),
        Attack("server", "stream: the wrong part every time", _stream(_wrong_part),
               "does not go on"),
        Attack("server", "stream: nothing where there should be something", _stream(_nothing),
               "broke off after 0"),
    ]  # fmt: skip
    return found


def _scripted(make: Callable[[], Conversation], *, hasty: bool = False) -> Callable[[Arena], str]:
    return lambda arena: arena.fetch(arena.say(make()), hasty=hasty)


def _pause(arena: Arena) -> str:
    arena.photos.route("/busy", Reply(429, headers={"Retry-After": "999999999"}))
    return arena.fetch(f"{arena.photos.url}/busy?sig={SECRET}")


def _odd_pause(arena: Arena) -> str:
    date = {"Retry-After": "Mon, 01 Jan 0001 00:00:00 GMT"}
    arena.photos.route("/busy", Reply(503, headers=date))
    return arena.fetch(f"{arena.photos.url}/busy?sig={SECRET}")


def _cookies(arena: Arena) -> str:
    cookie = {"Set-Cookie": "a=b; Domain=127.0.0.1; Path=/"}
    first = arena.serve(b"nothing", headers=cookie)
    arena.fetch(first)
    return arena.image(arena.serve(b"nothing either", headers=cookie))


BODY = bytes(range(256)) * 400


def _broken_then(arena: Arena, rest: Callable[[Seen], Reply]) -> str:
    """A body that breaks off in its middle, and what ``rest`` answers when it is taken up."""

    def answer(seen: Seen) -> Reply:
        if "range" in seen.headers:
            return rest(seen)
        return Reply(200, BODY[:5000], {"ETag": '"1"', "Accept-Ranges": "bytes"}, len(BODY))

    arena.photos.route("/broken", answer)
    return arena.fetch(f"{arena.photos.url}/broken/{time.monotonic_ns()}?sig={SECRET}")


def _other_range(arena: Arena) -> str:
    total = len(BODY)
    headers = {"ETag": '"1"', "Content-Range": f"bytes 0-{total - 1}/{total}"}
    return _broken_then(arena, lambda seen: Reply(206, BODY, headers))


def _other_version(arena: Arena) -> str:
    return _broken_then(arena, lambda seen: file_reply(seen, BODY, {"ETag": '"2"'}))


def _other_size(arena: Arena) -> str:
    return _broken_then(arena, lambda seen: file_reply(seen, BODY * 2, {"ETag": '"1"'}))


def _multipart(arena: Arena) -> str:
    headers = {"ETag": '"1"', "Content-Type": "multipart/byteranges; boundary=x"}
    return _broken_then(arena, lambda seen: Reply(206, b"--x\r\n\r\nx\r\n--x--", headers))


def _part_of_the_file(arena: Arena) -> str:
    headers = {"Content-Range": "bytes 7-11/500", "ETag": '"1"'}
    arena.photos.route("/part", Reply(206, b"12345", headers))
    return arena.fetch(f"{arena.photos.url}/part/{time.monotonic_ns()}")


def _stream(answer: Callable[[Seen], Reply]) -> Callable[[Arena], str]:
    def run(arena: Arena) -> str:
        arena.photos.route("/stream", answer)
        return arena.read_through(
            f"{arena.photos.url}/stream/{time.monotonic_ns()}?X-Amz-Signature={SECRET}"
        )

    return run


def _asked(seen: Seen) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", "bytes=0-"))
    assert match
    start = int(match[1])
    return start, int(match[2] or start + 65535)


def _ranged(start: int, end: int, total: int, body: bytes, etag: str = '"1"') -> Reply:
    headers = {"Content-Range": f"bytes {start}-{end}/{total}", "ETag": etag}
    return Reply(206, body, headers)


def _long_range(seen: Seen) -> Reply:
    """More bytes than the range that it states."""
    start, end = _asked(seen)
    return _ranged(start, min(end, 2_999_999), 3_000_000, bytes(6 << 20))


def _exabyte(seen: Seen) -> Reply:
    start, end = _asked(seen)
    return _ranged(start, end, 1 << 60, bytes(end - start + 1))


_versions = itertools.count()


def _every_time(seen: Seen) -> Reply:
    start, end = _asked(seen)
    end = min(end, 2_999_999)
    return _ranged(start, end, 3_000_000, bytes(end - start + 1), f'"{next(_versions)}"')


def _wrong_part(seen: Seen) -> Reply:
    start, _ = _asked(seen)
    return _ranged(start + 1, start + 1000, 3_000_000, bytes(1000))


def _nothing(seen: Seen) -> Reply:
    start, end = _asked(seen)
    return _ranged(start, min(end, 2_999_999), 3_000_000, b"")
