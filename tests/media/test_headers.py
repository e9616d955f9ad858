"""What is sent to whom: servers that note every header, for every way of reading."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.errors import MediaError
from backend.media.resolver import MediaResolver
from benchmarks.support.recording_server import (
    RecordingServer,
    Reply,
    Seen,
    file_reply,
    recording_server,
)
from tests.media.servers import LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, FakeLabelStudio, proxied

BODY = random.Random(6).randbytes(3 * 2**20)
URI = "s3://media/a.mp4"
UPLOAD = "/data/upload/1/0123abcd-a.mp4"
# All that a server that is not Label Studio may get.
HARMLESS = {
    "host", "user-agent", "accept", "accept-encoding", "connection", "range", "if-match",
    "if-none-match", "if-modified-since",
}  # fmt: skip
MakeResolver = Callable[..., MediaResolver]
Read = Callable[[MediaResolver, str], bytes]


def _fetch(resolver: MediaResolver, uri: str) -> bytes:
    return resolver.fetch(uri, task_id=1).path.read_bytes()


def _open(resolver: MediaResolver, uri: str) -> bytes:
    with resolver.open(uri, task_id=1) as file:
        file.seek(2 * 2**20)
        file.read(1)
        file.seek(0)
        return file.read() or b""


@pytest.fixture(params=[_fetch, _open], ids=["fetch", "open"])
def read(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["legacy", "personal", "access"])
def own(request: pytest.FixtureRequest, server: RecordingServer) -> Any:
    """Label Studio, and a client for it with each kind of token."""
    fake = FakeLabelStudio(server, legacy=True)
    token = {"legacy": LEGACY_TOKEN, "personal": PERSONAL_ACCESS_TOKEN}.get(request.param)
    if token is None:
        header = LabelStudioClient(fake.url, PERSONAL_ACCESS_TOKEN).auth_headers()["Authorization"]
        token = header.removeprefix("Bearer ")
    return fake, LabelStudioClient(fake.url, token)


def assert_harmless(server: RecordingServer) -> None:
    assert server.seen
    for seen in server.seen:
        assert set(seen.headers) <= HARMLESS
        text = f"{seen.target} {seen.headers}"
        for secret in (LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, "Bearer", "Token"):
            assert secret not in text


def assert_all_authorised(server: RecordingServer, path: str) -> None:
    requests = [seen for seen in server.seen if seen.path.startswith(path)]
    assert requests
    assert all(seen.headers["authorization"].startswith(("Token ", "Bearer ")) for seen in requests)
    assert not any("signature" in seen.target.lower() for seen in requests)


def test_label_studio_itself_gets_the_token_with_every_request(
    own: Any, make_resolver: MakeResolver, read: Read
) -> None:
    fake, client = own
    fake.add(UPLOAD, BODY)
    fake.cloud[URI] = proxied(BODY, "e", max_range=500_000)
    for uri in (UPLOAD, URI):
        assert read(make_resolver(label_studio=client), uri) == BODY
    assert_all_authorised(fake.server, "/data/")
    assert_all_authorised(fake.server, "/tasks/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_token_across_redirects(
    own: Any, foreign: RecordingServer, make_resolver: MakeResolver, read: Read, status: int
) -> None:
    """Label Studio to a storage, and from there to a third server."""
    fake, client = own
    with recording_server() as third:
        signed = {"Location": f"{foreign.url}/media/a.mp4?X-Amz-Signature=1"}
        fake.cloud[URI] = Reply(status, headers=signed)
        foreign.route("/media/", Reply(307, headers={"Location": f"{third.url}/a.mp4"}))
        third.serve("/a.mp4", BODY, ETag='"1"')
        assert read(make_resolver(label_studio=client), URI) == BODY
        for server in (foreign, third):
            assert_harmless(server)
    assert_all_authorised(fake.server, "/tasks/")


def test_no_token_to_another_port_of_the_same_host(
    own: Any, foreign: RecordingServer, make_resolver: MakeResolver, read: Read
) -> None:
    _, client = own
    foreign.serve("/data/", BODY, ETag='"1"')
    assert read(make_resolver(label_studio=client), f"{foreign.url}/data/clip.mp4") == BODY
    assert_harmless(foreign)


def test_no_token_with_a_signature_on_label_studio_itself(
    own: Any, foreign: RecordingServer, make_resolver: MakeResolver, read: Read
) -> None:
    """A storage redirects back: whoever signs that link must not get the user's rights."""
    fake, client = own
    back = f"{fake.url}/data/upload/1/0123abcd-b.mp4?X-Amz-Signature=1"
    fake.add("/data/upload/1/0123abcd-b.mp4?X-Amz-Signature=1", BODY)
    foreign.route("/", Reply(302, headers={"Location": back}))
    fake.cloud[URI] = Reply(303, headers={"Location": f"{foreign.url}/x"})
    with pytest.raises(MediaError):
        read(make_resolver(label_studio=client), URI)
    returned = [seen for seen in fake.server.seen if "Signature" in seen.target]
    assert returned
    assert all("authorization" not in seen.headers for seen in returned)


def test_no_token_to_plain_web_servers(
    own: Any, foreign: RecordingServer, make_resolver: MakeResolver, read: Read
) -> None:
    _, client = own

    def with_cookie(seen: Seen) -> Reply:
        return file_reply(seen, BODY, {"ETag": '"1"', "Set-Cookie": "a=b"})

    foreign.route("/", with_cookie)
    for target in ("/a.mp4", "/b.mp4?X-Amz-Signature=1&X-Amz-Credential=2"):
        assert read(make_resolver(label_studio=client), foreign.url + target) == BODY
    assert_harmless(foreign)


def test_keys_of_s3_go_to_s3_only(
    own: Any,
    foreign: RecordingServer,
    make_resolver: MakeResolver,
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3ts3cr3t")
    _, client = own
    with recording_server() as third:
        third.serve("/", BODY, ETag='"1"')
        foreign.route("/", Reply(302, headers={"Location": f"{third.url}/a.mp4"}))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", foreign.url)
        with pytest.raises(MediaError, match="redirects to another server instead"):
            read(make_resolver(label_studio=client), URI)
        assert third.seen == []  # boto3 follows no redirect
    for seen in foreign.seen:
        assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
        assert "s3cr3t" not in f"{seen}"
