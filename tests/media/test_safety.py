"""Which addresses may be connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest

from backend.media.addresses import AddressPolicy, guarded_session, is_public
from backend.media.errors import MediaError, Reason, shown
from backend.media.resolver import MediaResolver
from benchmarks.support.recording_server import RecordingServer, Reply
from tests.waiting import PATIENCE

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
    "64:ff9b:1::808:808", "64:ff9b:1:ffff::1", "::808:808", "::ffff:0:808:808", "5f00::1",
    "3fff::1", "3fff:fff::1", "2001:db8::1", "100::1", "4000::1", "8000::1", "fe00::1",
    "64:ff9b:0:0:0:1:808:808", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
    "2002:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(MediaError) as caught:
        AddressPolicy().addresses(address, 80)
    assert caught.value.reason is Reason.REFUSED


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "2606:4700:4700::1111",
        "64:ff9b::808:808",
        "2400:cb00::1",
        "2a00:1450::1",
    ],
)
def test_public_addresses_are_not(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert AddressPolicy().addresses(address, 80) == [address]


@pytest.mark.parametrize(
    "spelling",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "LOCALHOST", "localhost.",
     "[::1]", "[::ffff:7f00:1]"],
)  # fmt: skip
def test_other_spellings_of_loopback(
    server: RecordingServer, make_resolver: Callable[..., MediaResolver], spelling: str
) -> None:
    server.route("/", Reply(200, b"secret"))
    resolver = make_resolver(allowed_private_hosts=[])
    with pytest.raises(MediaError) as caught:
        resolver.fetch(f"http://{spelling}:{server.port}/x.jpg")
    assert caught.value.reason in (Reason.REFUSED, Reason.UNREACHABLE)
    assert server.seen == []


@pytest.mark.parametrize(
    ("allowed", "host", "port", "ok"),
    [
        ("10.0.0.5", "10.0.0.5", 80, True),
        ("10.0.0.5", "10.0.0.6", 80, False),
        ("10.0.0.0/8", "10.9.9.9", 9000, True),
        ("10.0.0.0/8", "::ffff:10.9.9.9", 9000, True),
        ("10.0.0.5:9000", "10.0.0.5", 9000, True),
        ("10.0.0.5:9000", "10.0.0.5", 22, False),
        ("fd00::/8", "fd12::1", 80, True),
        ("[fd12::1]:9000", "fd12::1", 9000, True),
        ("localhost", "localhost", 1, True),
        ("LocalHost", "localhost", 1, True),
        ("localhost:9000", "localhost", 9001, False),
        ("localhost", "127.0.0.1", 1, False),
        ("", "127.0.0.1", 1, False),
    ],
)
def test_allow_list(allowed: str, host: str, port: int, ok: bool) -> None:
    policy = AddressPolicy(private_hosts=[allowed])
    if ok:
        assert policy.addresses(host, port)
    else:
        with pytest.raises(MediaError):
            policy.addresses(host, port)


def test_configured_servers_are_allowed_on_their_port_only() -> None:
    policy = AddressPolicy(trusted_urls=["http://localhost:8080/label-studio", "https://[::1]"])
    assert policy.addresses("localhost", 8080)
    assert policy.addresses("::1", 443)
    for host, port in (("localhost", 80), ("127.0.0.1", 8080), ("::1", 80)):
        with pytest.raises(MediaError):
            policy.addresses(host, port)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A resolver that gives these addresses, one list after the other."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def fake(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if not host.endswith(".test"):
            return real(host, port, *args, **kwargs)
        asked.append(host)
        addresses = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return asked


def test_name_is_resolved_once_per_connection(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer would be another address. It is never asked for."""
    server.route("/", Reply(200, b"x"))
    asked = answering(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    session = guarded_session(
        AddressPolicy(private_hosts=["127.0.0.1/32"]), answer_seconds=PATIENCE
    )
    response = session.get(f"http://rebind.test:{server.port}/", stream=True, timeout=PATIENCE)
    assert response.status_code == 200
    assert asked == ["rebind.test"]
    assert server.seen[0].headers["host"] == f"rebind.test:{server.port}"


def test_name_that_turns_private_is_refused(
    make_resolver: Callable[..., MediaResolver], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, ["169.254.169.254"])
    with pytest.raises(MediaError, match=r"metadata\.test is in a private"):
        make_resolver().fetch("http://metadata.test/latest/meta-data/")


def test_private_addresses_among_public_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, ["10.0.0.1", "8.8.8.8"])
    assert AddressPolicy().addresses("mixed.test", 80) == ["8.8.8.8"]


def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(MediaError, match=r"nowhere\.test is unknown here") as caught:
        AddressPolicy().addresses("nowhere.test", 80)
    assert caught.value.reason is Reason.UNREACHABLE


HOSTILE = [
    "", " ", "x", "image.jpg", "../../etc/passwd", "C:\\windows\\win.ini", "\\\\host\\share",
    "file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "ftp://host/x",
    "gopher://127.0.0.1:6379/_INFO", "dict://127.0.0.1:11211/", "ldap://127.0.0.1/", "jar:http://h!/x",
    "javascript:alert(1)", "concat:/etc/passwd|/etc/hosts", "crypto:/etc/passwd", "pipe:0",
    "subfile,,start,0,end,9,,:/etc/passwd", "hls+http://h/x.m3u8", "rtmp://h/x", "tcp://h:1",
    "//127.0.0.1/x.jpg", "///etc/passwd", "/etc/passwd", "/proc/self/environ", "/", "http:",
    "http://", "http:///x", "http://:80/", "http://[::1", "http://[/x", "http://h:99999/",
    "http://h:-1/", "http://a b/", "http://user:pw@8.8.8.8/x", "http://127.0.0.1\\@8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1/", "http://127.0.0.1%2f@8.8.8.8/", "http://127.0.0.1#@8.8.8.8/",
    "http://127.0.0.1\t.example/", "http://127.0.0.1\n/", "http://127.0.0.1/\r\nHost: x",
    "http://\u2460\u2461\u2466.0.0.1/", "http://127\u30020\u30020\u30021/", "http://\uff11\uff12\uff17.0.0.1/",
    "http://%31%32%37.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://metadata/",
    "http://[fd00:ec2::254]/latest", "http://0/", "http://0.0.0.0:80/", "http://127.0.0.1:22/",
    "s3:", "s3:bucket/key", "s3://../x", "s3a:///", "gs://", "azure-blob://", "data:", "data:,",
    "data:image/png;base64,!!!", "data:image/png;base64", "\x00", "http://h/\x00", "\ud800",
    "http://" + "a" * 300 + "/", "http://h/" + "a" * 9000, "x" * 9000, "http://" + "a." * 2000,
]  # fmt: skip


@pytest.mark.parametrize("uri", HOSTILE, ids=lambda uri: ascii(uri)[:40])
def test_hostile_addresses_get_an_answer_in_words(
    make_resolver: Callable[..., MediaResolver], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused or empty, without a connection to anywhere and without another exception."""

    def no_connection(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"connected to {args}")

    def no_lookup(host: str, port: int, **kwargs: Any) -> list[Any]:
        return real_lookup(host, port, flags=socket.AI_NUMERICHOST, **kwargs)

    real_lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)
    monkeypatch.setattr(socket, "create_connection", no_connection)
    resolver = make_resolver(allowed_private_hosts=[])
    if uri == "data:,":
        assert resolver.fetch(uri, task_id=1).size == 0
        return
    with pytest.raises(MediaError) as caught:
        resolver.fetch(uri, task_id=1)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://h/p?X-Amz-Signature=s#f", "http://h/p"),
        ("http://user:pw@h/p", "http://h/p"),
        ("s3://b/a?b#c.jpg", "s3://b/a?b#c.jpg"),
        ("data:image/png;base64,AAAA", "a data: URI"),
        ("a\nb", "a?b"),
    ],
)
def test_addresses_in_messages(uri: str, text: str) -> None:
    assert shown(uri) == text


def test_long_addresses_are_shortened_in_messages() -> None:
    assert len(shown("http://h/" + "a" * 1000)) < 125
