"""Attacks by what stands in a task's data as the address of its media."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.hostile.arena import SECRET, Arena
from tests.hostile.corpus import Attack

Address = str | Callable[[Arena], str]

NOT_READ = "does not read media from"
NOT_HTTP = "is not an http or https URL"
NOT_A_URL = "is not a URL"
PRIVATE = "private or reserved network"
CONTROL = "control characters"
NO_MEDIA = "not a place where Label Studio keeps media"

SCHEMES: dict[str, tuple[Address, str]] = {
    "file": ("file:///etc/passwd", NOT_READ),
    "file, capitals": ("FILE:///etc/passwd", NOT_READ),
    "file without slashes": ("file:/etc/passwd", NOT_READ),
    "file on a host": ("file://localhost/etc/passwd", NOT_READ),
    "ftp": ("ftp://127.0.0.1/x", NOT_READ),
    "gopher to Redis": ("gopher://127.0.0.1:6379/_FLUSHALL", NOT_READ),
    "dict to memcached": ("dict://127.0.0.1:11211/stats", NOT_READ),
    "ldap": ("ldap://127.0.0.1/", NOT_READ),
    "javascript": ("javascript:alert(1)", NOT_READ),
    "jar": ("jar:http://127.0.0.1!/x", NOT_READ),
    "FFmpeg's concat": ("concat:/etc/passwd|/etc/hosts", NOT_READ),
    "FFmpeg's subfile": ("subfile,,start,0,end,9,,:/etc/passwd", NOT_READ),
    "FFmpeg's pipe": ("pipe:0", NOT_READ),
    "FFmpeg's crypto": ("crypto+file:/etc/passwd", NOT_READ),
    "rtmp": ("rtmp://127.0.0.1/x", NOT_READ),
    "Windows share": ("\\\\127.0.0.1\\share", NOT_READ),
    "relative path": ("../../../etc/passwd", NOT_READ),
    "no host": ("http:///etc/passwd", NOT_HTTP),
    "user name and password": (f"http://user:{SECRET}@8.8.8.8/x", "user name and password"),
    "user name that looks like the host": ("http://8.8.8.8@127.0.0.1/x", "user name"),
    "backslash before the host": ("http://8.8.8.8\\@127.0.0.1/x", NOT_A_URL),
    "line break and a header": (lambda a: f"{a.photos.url}/x\r\nX-Evil: 1", CONTROL),
    "NUL": ("http://127.0.0.1/\x00.jpg", CONTROL),
    "tab in the host": ("http://127.0.0.1\t.example/", NOT_A_URL),
    "longer than any URL": ("http://8.8.8.8/" + "a" * 8300, "too long"),
    "port that is none": ("http://8.8.8.8:99999/", f"{NOT_HTTP}|{NOT_A_URL}"),
    "lone surrogate": ("http://\ud800.test/", "unknown here|not a"),
    "host of dots": ("http://" + "a." * 300, "unknown here"),
}

HOSTS = {
    "loopback": "127.0.0.1",
    "localhost": "localhost",
    "localhost with a dot": "localhost.",
    "decimal number": "2130706433",
    "octal": "0177.0.0.1",
    "hexadecimal": "0x7f000001",
    "two parts": "127.1",
    "zero": "0",
    "all zeros": "0.0.0.0",
    "another loopback": "127.66.6.6",
    "IPv6 loopback": "[::1]",
    "IPv6 unspecified": "[::]",
    "IPv4 in IPv6": "[::ffff:127.0.0.1]",
    "IPv4 in IPv6, hexadecimal": "[::ffff:7f00:1]",
    "NAT64": "[64:ff9b::7f00:1]",
    "6to4": "[2002:7f00:1::]",
    "metadata": "169.254.169.254",
    "metadata, decimal": "2852039166",
    "metadata over IPv6": "[fd00:ec2::254]",
    "link-local over IPv6": "[fe80::1]",
    "private 10": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 192": "192.168.0.1",
    "carrier's network": "100.64.0.1",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
}
SPELLINGS = {
    "percent signs": "%31%32%37.0.0.1",
    "circled digits": "\u2460\u2461\u2466.0.0.1",
    "full-width digits": "\uff11\uff12\uff17.0.0.1",
    "ideographic stops": "127\u30020\u30020\u30021",
}
NAMES = {
    "loopback": "127.0.0.1",
    "private": "10.1.2.3",
    "metadata": "169.254.169.254",
    "link-local over IPv6": "fe80::1",
    "unique local over IPv6": "fd12::1",
    "IPv4 in IPv6": "::ffff:10.0.0.1",
    "carrier's network": "100.100.100.200",
}

LABEL_STUDIO: dict[str, tuple[Address, str]] = {
    "its API": ("/api/users/", NO_MEDIA),
    "its admin pages": ("/admin/", NO_MEDIA),
    "another host after two slashes": (
        lambda a: f"//{a.forbidden.url.removeprefix('http://')}/x.jpg",
        NOT_READ,
    ),
    "its API behind an upload": ("/data/upload/1/../../../api/users/", NO_MEDIA),
    "its API behind an upload, encoded": ("/data/upload/1/%2e%2e/%2e%2e/api/users/", NO_MEDIA),
    "its API behind an upload, encoded slashes": (
        "/data/upload/1/..%2f..%2f..%2fapi/users/",
        f"{NO_MEDIA}|no upload",
    ),
    "its API by its own address": (lambda a: f"{a.studio.url}/api/current-user/whoami", "not open"),
    "an address that only looks like its files": (
        lambda a: f"{a.photos.url}/data/local-files/?d=none.jpg",
        "does not (exist|serve)",
    ),
    "storage of another scheme in a presign": (
        "/tasks/1/presign/?fileuri=ZmlsZTovLy9ldGM=",
        "no storage of this project",
    ),
    "bucket that climbs": ("s3://../../etc/passwd", "form s3://|no storage|no way"),
    "bucket that is an address": ("s3://169.254.169.254/latest", "no storage|no way|form"),
}

PATHS = {
    "dots": "../outside/passwords.txt",
    "dots inside": "a/../../outside/passwords.txt",
    "dots, encoded": "%2e%2e/outside/passwords.txt",
    "dots and slash, encoded": "%2e%2e%2foutside%2fpasswords.txt",
    "dots, encoded twice": "%252e%252e%252foutside%252fpasswords.txt",
    "dots in overlong UTF-8": "%c0%ae%c0%ae/outside/passwords.txt",
    "backslashes": "..\\outside\\passwords.txt",
    "absolute": "/etc/passwd",
    "NUL at the end": "x.jpg%00.png",
    "line break": "x%0d%0aX-Evil:1",
    "link out of the folder": "link.jpg",
    "linked folder": "linked/passwords.txt",
    "link to a link": "twice.jpg",
    "link to itself": "loop.jpg",
    "pipe": "pipe.jpg",
    "folder": "folder",
    "device behind a link": "zero.jpg",
    "very long name": "a" * 5000,
}
_LOCAL = "climbs out|leaves the local|no file|does not serve|cannot be read"

DATA = {
    "base64 that is none": ("data:image/png;base64,!!!", "malformed"),
    "no comma": ("data:image/png;base64", "malformed"),
    "empty": ("data:,", "empty file"),
    "larger than allowed": ("data:;base64," + "A" * (12 << 20), "larger than|too long"),
    "web page": ("data:text/html,<!doctype html><script>alert(1)</script>", "web page"),
    "drawing with an entity of a file": (
        'data:image/svg+xml,<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM '
        '"file:///etc/passwd">]><svg>&x;</svg>',
        "SVG drawing",
    ),
    "address inside": ("data:data:image/png;base64,AAAA", "known format"),
    "script": ("data:image/jpeg,%23!/bin/sh%0Arm -rf /", "known format"),
}


def attacks() -> list[Attack]:
    """See the module."""
    found = [_attack("scheme", name, uri, says) for name, (uri, says) in SCHEMES.items()]
    for name, host in HOSTS.items():
        found.append(_attack("host", name, partial(_with_port, host), PRIVATE))
    for name, host in SPELLINGS.items():
        says = f"{PRIVATE}|unknown here|{NOT_HTTP}"
        found.append(_attack("host", name, partial(_with_port, host), says))
    for name, address in NAMES.items():
        found.append(
            Attack("name", f"resolves to {name}", partial(_resolves, [[address]]), PRIVATE)
        )
    found += [
        Attack("name", "private among public ones", partial(_resolves, [["10.0.0.1", "8.8.8.8"]]),
               "cannot be reached"),
        Attack("name", "turns private between two attempts",
               partial(_resolves, [["8.8.8.8"], ["127.0.0.1"]]), PRIVATE),
        Attack("name", "turns into the metadata service",
               partial(_resolves, [["8.8.8.8"], ["8.8.8.8"], ["169.254.169.254"]]), PRIVATE),
    ]  # fmt: skip
    found += [_attack("Label Studio", name, *entry) for name, entry in LABEL_STUDIO.items()]
    found += [Attack("local files", n, partial(_local, p), _LOCAL) for n, p in PATHS.items()]
    found += [
        Attack("data: URI", name, partial(_decode, uri), says) for name, (uri, says) in DATA.items()
    ]
    return found


def _attack(group: str, name: str, uri: Address, says: str) -> Attack:
    def run(arena: Arena) -> str:
        return arena.fetch(uri if isinstance(uri, str) else uri(arena))

    return Attack(group, name, run, says)


def _with_port(host: str, arena: Arena) -> str:
    return f"http://{host}:{arena.forbidden.port}/x.jpg?X-Amz-Signature={SECRET}"


def _resolves(answers: list[list[str]], arena: Arena) -> str:
    arena.dns["evil.test"] = [list(answer) for answer in answers]
    return arena.fetch(f"http://evil.test:{arena.forbidden.port}/latest?sig={SECRET}")


def _decode(uri: str, arena: Arena) -> str:
    return arena.image(uri)


def _local(path: str, arena: Arena) -> str:
    return arena.fetch(f"/data/local-files/?d={path}")
