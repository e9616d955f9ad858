"""Attacks by where a server that may be asked sends the service next."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.support.recording_server import Reply, Seen
from tests.hostile.addresses import NOT_A_URL, NOT_HTTP, PRIVATE
from tests.hostile.arena import SECRET, Arena
from tests.hostile.corpus import Attack

Target = str | Callable[[Arena], str]


def _inside(arena: Arena) -> str:
    return f"{arena.forbidden.url}/secret?X-Amz-Signature={SECRET}"


TARGETS: dict[str, tuple[Target, str]] = {
    "to a private address": (_inside, PRIVATE),
    "to the metadata service": ("http://169.254.169.254/latest/meta-data/", PRIVATE),
    "to a number that is loopback": (lambda a: f"http://2130706433:{a.forbidden.port}/", PRIVATE),
    "to IPv4 in IPv6": (lambda a: f"http://[::ffff:127.0.0.1]:{a.forbidden.port}/", PRIVATE),
    "to a name that is private": ("http://evil.test/", PRIVATE),
    "without a scheme": (lambda a: _inside(a).removeprefix("http:"), PRIVATE),
    "to a file": ("file:///etc/passwd", NOT_HTTP),
    "to ftp": ("ftp://127.0.0.1/x", NOT_HTTP),
    "to gopher": ("gopher://127.0.0.1:6379/_INFO", NOT_HTTP),
    "to data": ("data:image/png;base64,AAAA", NOT_HTTP),
    "to javascript": ("javascript:alert(1)", NOT_HTTP),
    "with user name and password": (f"http://u:{SECRET}@8.8.8.8/", "user name and password"),
    "with a backslash": (lambda a: f"http://8.8.8.8\\@127.0.0.1:{a.forbidden.port}/", NOT_A_URL),
    "to something that is no URL": ("http://[::1", f"{NOT_A_URL}|{NOT_HTTP}"),
    "to itself": (lambda a: f"{a.photos.url}/go", "redirected more than"),
    "to an address without end": (lambda a: f"{a.photos.url}/" + "a" * 9000, NOT_A_URL),
}


def attacks() -> list[Attack]:
    """See the module."""
    found = [
        Attack("redirect", name, partial(_redirected, target, 302), says)
        for name, (target, says) in TARGETS.items()
    ]
    for status in (301, 303, 307, 308):
        found.append(
            Attack("redirect", f"to a private address, {status}",
                   partial(_redirected, _inside, status), PRIVATE)
        )  # fmt: skip
    found += [
        Attack("redirect", "to a private address at the fourth hop", _fourth_hop, PRIVATE),
        Attack("redirect", "six hops", partial(_hops, 6), "redirected more than 5 times"),
        Attack("redirect", "with a body without end", _endless_body, PRIVATE),
        Attack("redirect", "with a line break in it", _line_break, "does not exist|not a"),
        Attack("redirect", "to Label Studio's API", _to_label_studio, "not open"),
        Attack(
            "redirect", "of a storage back to Label Studio's API", _storage_to_api, "answered 401"
        ),
    ]
    return found


def _redirected(target: Target, status: int, arena: Arena) -> str:
    arena.dns["evil.test"] = [["10.0.0.1"]]
    location = target if isinstance(target, str) else target(arena)
    arena.photos.route("/go", Reply(status, headers={"Location": location}))
    return arena.fetch(f"{arena.photos.url}/go?X-Amz-Signature={SECRET}")


def _hops(count: int, arena: Arena) -> str:
    for hop in range(count):
        next_hop = {"Location": f"{arena.photos.url}/hop{hop + 1}"}
        arena.photos.route(f"/hop{hop}", Reply(302, headers=next_hop))
    arena.photos.route(f"/hop{count}", Reply(302, headers={"Location": _inside(arena)}))
    return arena.fetch(f"{arena.photos.url}/hop0")


def _fourth_hop(arena: Arena) -> str:
    return _hops(3, arena)


def _endless_body(arena: Arena) -> str:
    def script(connection: object) -> None:
        head = f"HTTP/1.1 302 Found\r\nLocation: {_inside(arena)}\r\nContent-Length: 999999999\r\n"
        connection.sendall(head.encode() + b"\r\n")  # type: ignore[attr-defined]
        while True:
            connection.sendall(bytes(65536))  # type: ignore[attr-defined]

    return arena.fetch(arena.say(script))


def _line_break(arena: Arena) -> str:
    def script(connection: object) -> None:
        location = f"{arena.photos.url}/none%0d%0aX-Evil:%20{SECRET}"
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())  # type: ignore[attr-defined]

    return arena.fetch(arena.say(script))


def _to_label_studio(arena: Arena) -> str:
    """It may be reached, being configured; but as nobody."""
    return _redirected(f"{arena.studio.url}/api/current-user/whoami", 302, arena)


def _storage_to_api(arena: Arena) -> str:
    """Label Studio redirects to a storage of the attacker, which redirects back."""
    back = f"{arena.studio.url}/api/current-user/whoami"
    arena.photos.route("/object", Reply(302, headers={"Location": back}))
    there = f"{arena.photos.url}/object?X-Amz-Signature={SECRET}"
    arena.studio.cloud["s3://evil/x.jpg"] = Reply(303, headers={"Location": there})
    seen: list[Seen] = arena.studio.server.seen
    before = len(seen)
    try:
        return arena.fetch("s3://evil/x.jpg")
    finally:
        for request in seen[before:]:
            if request.path == "/api/current-user/whoami":
                assert "authorization" not in request.headers, "the API was called as the user"
