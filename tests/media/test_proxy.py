"""The operator's proxy: what goes through it, and that it opens no way that is closed else."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.addresses import AddressPolicy, guarded_session
from backend.media.errors import MediaError, Reason
from backend.media.proxy import Proxy
from backend.media.resolver import MediaResolver
from benchmarks.support.recording_server import RecordingServer
from tests.media.certificates import serve_https
from tests.media.servers import PERSONAL_ACCESS_TOKEN, FakeLabelStudio
from tests.media.test_safety import answering
from tests.waiting import PATIENCE

BODY = b"a picture" * 1000
MakeResolver = Callable[..., MediaResolver]


class ConnectProxy:
    """A proxy that makes connections as it is told, or answers with another status."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.heads: list[list[str]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def asked(self) -> list[str]:
        """The places that it was told to connect to."""
        return [head[0].split()[1] for head in self.heads]

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.heads.append(head.decode().split("\r\n"))
        client.sendall(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        if not self.status.startswith("200"):
            client.close()
            return
        host, _, port = self.asked[-1].rpartition(":")
        server = socket.create_connection((host, int(port)))
        for ends in ((client, server), (server, client)):
            threading.Thread(target=_pipe, args=ends, daemon=True).start()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    running = ConnectProxy()
    yield running
    running.close()


@pytest.fixture
def secure(server: RecordingServer, tmp_path: Path) -> tuple[Path, str]:
    """A server that speaks TLS, with a picture: its bundle and address."""
    server.serve("/a.jpg", BODY)
    return serve_https(server, tmp_path)


def test_https_goes_through_it_and_its_password_no_further(
    proxy: ConnectProxy,
    server: RecordingServer,
    secure: tuple[Path, str],
    make_resolver: MakeResolver,
) -> None:
    bundle, url = secure
    way = Proxy(f"http://ada:l%40ve@{proxy.place}")
    resolver = make_resolver(verify=str(bundle), proxy=way)
    assert resolver.fetch(f"{url}/a.jpg").path.read_bytes() == BODY
    assert proxy.asked == [f"127.0.0.1:{server.port}"]
    login = base64.b64encode(b"ada:l@ve").decode()
    assert f"Proxy-Authorization: Basic {login}" in proxy.heads[0]
    assert server.header_values("proxy-authorization") == []


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_it_is_told_the_address_that_was_checked(
    proxy: ConnectProxy,
    server: RecordingServer,
    secure: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the proxy would get another answer. It is never told the name."""
    asked = answering(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    session = guarded_session(
        AddressPolicy(private_hosts=["127.0.0.1/32"]),
        answer_seconds=PATIENCE,
        verify=False,
        proxy=Proxy(f"http://{proxy.place}"),
    )
    reply = session.get(f"https://rebind.test:{server.port}/a.jpg", timeout=PATIENCE)
    assert reply.content == BODY
    assert asked.count("rebind.test") == 1
    assert proxy.asked == [f"127.0.0.1:{server.port}"]


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "127.0.0.1", "[::1]"])
def test_what_may_not_be_reached_without_it_may_not_with_it(
    proxy: ConnectProxy, make_resolver: MakeResolver, host: str
) -> None:
    resolver = make_resolver(allowed_private_hosts=[], proxy=Proxy(f"http://{proxy.place}"))
    with pytest.raises(MediaError) as caught:
        resolver.fetch(f"https://{host}/a.jpg")
    assert caught.value.reason is Reason.REFUSED
    assert proxy.asked == []


def test_label_studio_is_reached_without_it(
    proxy: ConnectProxy, server: RecordingServer, tmp_path: Path, make_resolver: MakeResolver
) -> None:
    upload = "/data/upload/5/3de85bcf-plain.jpg"
    bundle, url = serve_https(server, tmp_path)
    label_studio = FakeLabelStudio(server)
    label_studio.add(upload, BODY)
    client = LabelStudioClient(url, PERSONAL_ACCESS_TOKEN, verify=str(bundle))
    way = Proxy(f"http://{proxy.place}")
    resolver = make_resolver(label_studio=client, verify=str(bundle), proxy=way)
    assert resolver.fetch(upload).size == len(BODY)
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("exceptions", "host", "served"),
    [
        ("", "a.example", True),
        ("a.example", "a.example", False),
        ("b.example, .example", "a.Example.", False),
        ("ample", "a.example", True),
        ("a.example:443", "a.example", False),
        ("a.example:80", "a.example", True),
        ("*", "a.example", False),
        ("::1", "[::1]", False),
        (" , ", "a.example", True),
    ],
)
def test_exceptions(exceptions: str, host: str, served: bool) -> None:
    assert Proxy("http://proxy:3128", exceptions).serves(host, 443) is served


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 No"])
def test_a_proxy_that_refuses_is_named(
    proxy: ConnectProxy, secure: tuple[Path, str], make_resolver: MakeResolver, status: str
) -> None:
    proxy.status = status
    bundle, url = secure
    way = Proxy(f"http://ada:l0velace@{proxy.place}")
    says = f"proxy {proxy.place} makes no connection: {status}"
    with pytest.raises(MediaError, match=says) as caught:
        make_resolver(verify=str(bundle), proxy=way).fetch(f"{url}/a.jpg")
    assert "HTTPS_PROXY" in str(caught.value)
    assert "l0velace" not in str(caught.value)
