"""s3:// against a real S3-compatible server process (moto), and against a scripted one."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.errors import MediaError, Reason
from backend.media.resolver import MediaResolver
from backend.media.s3 import Bucket, S3Settings
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply
from tests.media.servers import PERSONAL_ACCESS_TOKEN, FakeLabelStudio

BODY = bytes(range(256)) * 40
AWKWARD_KEYS = [
    "img/we ird &#+%\u00fc.jpg",
    "a?b=c&d.jpg",
    "100%25.jpg",
    "#first.jpg",
    "  spaces  .jpg",
    "plus+plus.jpg",
    "\u65e5\u672c\u8a9e/\U0001f600.jpg",
    "/leading//double.jpg",
    "dots/../up.jpg",
    "quote'\"<>.jpg",
]
MakeResolver = Callable[..., MediaResolver]


def at(endpoint: str, **options: Any) -> S3Settings:
    """One server for all buckets."""
    return S3Settings(Bucket(endpoint=endpoint, **options))


@pytest.fixture(scope="module")
def s3_service(moto_url: str) -> Any:
    return boto3.resource(
        "s3",
        endpoint_url=moto_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def bucket(s3_service: Any, credentials: None, request: pytest.FixtureRequest) -> Any:
    name = "media." + request.node.name.split("[")[0].lower().replace("_", "-")[:40].strip("-")
    made = s3_service.Bucket(name)
    made.create()
    return made


@pytest.fixture
def s3_resolver(moto_url: str, make_resolver: MakeResolver) -> MediaResolver:
    """No private hosts are allowed: the configured endpoint always is."""
    return make_resolver(s3=at(moto_url), allowed_private_hosts=[], fresh_seconds=0)


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_awkward_keys(bucket: Any, s3_resolver: MediaResolver, scheme: str) -> None:
    for key in AWKWARD_KEYS:
        bucket.put_object(Key=key, Body=key.encode())
        found = s3_resolver.fetch(f"{scheme}://{bucket.name}/{key}")
        assert found.path.read_bytes() == key.encode()


def test_unchanged_object_is_not_downloaded_again(bucket: Any, s3_resolver: MediaResolver) -> None:
    bucket.put_object(Key="a.jpg", Body=BODY)
    uri = f"s3://{bucket.name}/a.jpg"
    first = s3_resolver.fetch(uri)
    assert s3_resolver.fetch(uri) == first
    stats = s3_resolver.stats
    assert (stats.fetches, stats.revalidations, stats.bytes_fetched) == (1, 1, len(BODY))


def test_changed_object_gets_another_content_key(bucket: Any, s3_resolver: MediaResolver) -> None:
    bucket.put_object(Key="a.jpg", Body=BODY)
    first = s3_resolver.fetch(f"s3://{bucket.name}/a.jpg")
    bucket.put_object(Key="a.jpg", Body=BODY[::-1])
    second = s3_resolver.fetch(f"s3://{bucket.name}/a.jpg")
    assert second.path.read_bytes() == BODY[::-1]
    assert second.content_key != first.content_key


def test_object_stored_packed_is_unpacked(bucket: Any, s3_resolver: MediaResolver) -> None:
    bucket.put_object(Key="a", Body=gzip.compress(BODY), ContentEncoding="gzip")
    bucket.put_object(Key="bomb", Body=gzip.compress(bytes(60_000_000)), ContentEncoding="gzip")
    bucket.put_object(Key="lie", Body=BODY, ContentEncoding="gzip")
    bucket.put_object(Key="half", Body=gzip.compress(BODY)[:-20], ContentEncoding="gzip")
    prefix = f"s3://{bucket.name}/"
    assert s3_resolver.fetch(prefix + "a").path.read_bytes() == BODY
    with pytest.raises(MediaError, match="larger than"):
        s3_resolver.fetch(prefix + "bomb")
    for key in ("lie", "half"):
        with pytest.raises(MediaError, match="says that it is compressed"):
            s3_resolver.fetch(prefix + key)


def test_object_of_several_parts(bucket: Any, s3_resolver: MediaResolver) -> None:
    part = bytes(5 * 2**20)
    upload = bucket.Object("big").initiate_multipart_upload()
    parts = [
        {"PartNumber": number, "ETag": upload.Part(number).upload(Body=body)["ETag"]}
        for number, body in ((1, part), (2, b"end"))
    ]
    upload.complete(MultipartUpload={"Parts": parts})
    assert s3_resolver.fetch(f"s3://{bucket.name}/big").size == len(part) + 3


@pytest.mark.parametrize("name", ["nobody-has-this-bucket/x.jpg", "{bucket}/missing.jpg"])
def test_missing(bucket: Any, s3_resolver: MediaResolver, name: str) -> None:
    with pytest.raises(MediaError, match="NoSuch") as caught:
        s3_resolver.fetch("s3://" + name.format(bucket=bucket.name))
    assert caught.value.reason is Reason.NOT_FOUND


def test_endpoint_from_the_environment(
    bucket: Any, moto_url: str, make_resolver: MakeResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_url)
    bucket.put_object(Key="a.jpg", Body=BODY)
    assert make_resolver().fetch(f"s3://{bucket.name}/a.jpg").size == len(BODY)


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://b@c/k",
                                 "s3://b#c/k", "s3://a b/k", "s3://x/k"])  # fmt: skip
def test_malformed_uris_are_refused(
    moto_url: str, credentials: None, make_resolver: MakeResolver, uri: str
) -> None:
    with pytest.raises(MediaError, match="form s3://bucket/key") as caught:
        make_resolver(s3=at(moto_url)).fetch(uri)
    assert caught.value.reason is Reason.REFUSED


# --- a scripted S3 -------------------------------------------------------------------------


def s3_error(status: int, code: str) -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    return Reply(status, body.encode(), {"Content-Type": "application/xml"})


def test_custom_endpoints_get_the_bucket_in_the_path(
    server: RecordingServer, credentials: None, make_resolver: MakeResolver
) -> None:
    """bucket.minio:9000 would not resolve. ``localhost`` is a name, unlike an address."""
    server.serve("/media/a%20b.jpg", BODY, ETag='"1"')
    resolver = make_resolver(s3=at(f"http://localhost:{server.port}"))
    assert resolver.fetch("s3://media/a b.jpg").size == len(BODY)
    assert server.seen[0].headers["host"] == f"localhost:{server.port}"


def test_anonymous_requests_are_unsigned(
    server: RecordingServer, make_resolver: MakeResolver
) -> None:
    server.serve("/media/a.jpg", BODY, ETag='"1"')
    resolver = make_resolver(s3=at(server.url, anonymous=True))
    assert resolver.fetch("s3://media/a.jpg").size == len(BODY)
    assert server.header_values("authorization") == []


def test_region_is_used_for_signing(
    server: RecordingServer, credentials: None, make_resolver: MakeResolver
) -> None:
    server.serve("/media/a.jpg", BODY, ETag='"1"')
    make_resolver(s3=at(server.url, region="eu-central-1")).fetch("s3://media/a.jpg")
    assert "/eu-central-1/s3/" in server.header_values("authorization")[0]


def test_truncated_body_is_resumed_for_the_same_version(
    server: RecordingServer, credentials: None, make_resolver: MakeResolver
) -> None:
    def handler(seen: Seen) -> Reply:
        whole = file_reply(seen, BODY, {"ETag": '"1"'})
        return Reply(whole.status, whole.body[:6000], whole.headers, length=len(whole.body))

    server.route("/media/a.jpg", handler)
    resolver = make_resolver(s3=at(server.url))
    assert resolver.fetch("s3://media/a.jpg").path.read_bytes() == BODY
    assert server.seen[-1].headers["range"] == "bytes=6000-"
    assert server.seen[-1].headers["if-match"] == '"1"'


def test_object_replaced_while_it_is_read_is_read_anew(
    server: RecordingServer, credentials: None, make_resolver: MakeResolver
) -> None:
    def handler(seen: Seen) -> Reply:
        if server.count() == 1:
            return Reply(200, BODY[:6000], {"ETag": '"1"'}, length=len(BODY))
        if seen.headers.get("if-match") == '"1"':
            return s3_error(412, "PreconditionFailed")
        return file_reply(seen, BODY[::-1], {"ETag": '"2"'})

    server.route("/media/a.jpg", handler)
    resolver = make_resolver(s3=at(server.url))
    assert resolver.fetch("s3://media/a.jpg").path.read_bytes() == BODY[::-1]


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_denied(
    server: RecordingServer,
    credentials: None,
    make_resolver: MakeResolver,
    caplog: pytest.LogCaptureFixture,
    code: str,
) -> None:
    caplog.set_level(logging.INFO)
    server.route("/media/", s3_error(403, code))
    with pytest.raises(MediaError, match=code) as caught:
        make_resolver(s3=at(server.url)).fetch("s3://media/a.jpg")
    assert caught.value.reason is Reason.UNAUTHORIZED
    for secret in ("s3cr3t", "AKIATEST"):
        assert secret not in f"{caught.value!r}{caplog.text}"


def test_denied_object_is_read_through_label_studio(
    server: RecordingServer,
    foreign: RecordingServer,
    credentials: None,
    make_resolver: MakeResolver,
) -> None:
    """A machine's own credentials need not be those that open the bucket; Label Studio's are."""
    label_studio = FakeLabelStudio(foreign)
    server.route("/media/", s3_error(403, "AccessDenied"))
    label_studio.cloud["s3://media/a.jpg"] = lambda seen: file_reply(seen, BODY, {"ETag": '"11e"'})
    resolver = make_resolver(
        s3=at(server.url),
        label_studio=LabelStudioClient(label_studio.url, PERSONAL_ACCESS_TOKEN),
    )
    assert resolver.fetch("s3://media/a.jpg", task_id=4).size == len(BODY)
    requests = server.count() + foreign.count()
    assert resolver.fetch("s3://media/a.jpg", task_id=4).size == len(BODY)
    assert server.count() + foreign.count() == requests


def test_both_failures_are_told(
    server: RecordingServer,
    foreign: RecordingServer,
    credentials: None,
    make_resolver: MakeResolver,
) -> None:
    client = LabelStudioClient(FakeLabelStudio(foreign).url, PERSONAL_ACCESS_TOKEN)
    server.route("/media/", s3_error(403, "AccessDenied"))
    with pytest.raises(MediaError, match=r"AccessDenied.*knows no storage"):
        make_resolver(s3=at(server.url), label_studio=client).fetch("s3://media/a.jpg", task_id=4)


def test_own_credentials_spare_label_studio_the_work(
    bucket: Any, moto_url: str, foreign: RecordingServer, make_resolver: MakeResolver
) -> None:
    bucket.put_object(Key="a.jpg", Body=BODY)
    client = LabelStudioClient(FakeLabelStudio(foreign).url, PERSONAL_ACCESS_TOKEN)
    resolver = make_resolver(s3=at(moto_url), label_studio=client)
    assert resolver.fetch(f"s3://{bucket.name}/a.jpg", task_id=4).size == len(BODY)
    assert foreign.seen == []


def test_credentials_are_not_looked_for_again_and_again(
    make_resolver: MakeResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are none, each look may wait for a metadata service that is not there."""
    looks = []
    monkeypatch.setattr(
        "boto3.session.Session.get_credentials", lambda session: looks.append(session)
    )
    resolver = make_resolver()
    for _ in range(3):
        with pytest.raises(MediaError, match="AWS credentials"):
            resolver.fetch("s3://media/a.jpg", task_id=4)
    assert len(looks) == 1


def test_unreachable_endpoint_is_named(credentials: None, make_resolver: MakeResolver) -> None:
    with pytest.raises(MediaError, match=r"S3 at 127\.0\.0\.1 cannot be reached") as caught:
        make_resolver(s3=at("http://127.0.0.1:9")).fetch("s3://media/a.jpg")
    assert caught.value.reason is Reason.UNREACHABLE


def test_size_limit(bucket: Any, moto_url: str, make_resolver: MakeResolver) -> None:
    bucket.put_object(Key="a.jpg", Body=BODY)
    resolver = make_resolver(s3=at(moto_url), max_bytes=100)
    with pytest.raises(MediaError, match="larger than"):
        resolver.fetch(f"s3://{bucket.name}/a.jpg")
    assert resolver.stats.bytes_fetched == 0
