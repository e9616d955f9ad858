"""S3 as operators set it up: per bucket, versions, requester pays, profiles, certificates."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from backend.labelstudio.client import LabelStudioClient
from backend.media.errors import MediaError
from backend.media.resolver import MediaResolver
from backend.media.s3 import S3, Bucket, S3Settings, read_buckets
from backend.media.sources import Timeouts
from backend.settings import Settings, SettingsError
from backend.wiring import Wiring
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply
from tests.media.certificates import serve_https
from tests.media.servers import FakeLabelStudio

pytestmark = pytest.mark.usefixtures("credentials")

BODY = random.Random(4).randbytes(2 * 2**20)
MakeResolver = Callable[..., MediaResolver]


@pytest.fixture
def bucket(moto_url: str, request: pytest.FixtureRequest) -> Any:
    service = boto3.resource("s3", endpoint_url=moto_url, region_name="us-east-1")
    made = service.Bucket("b" + request.node.name.split("[")[0].lower().replace("_", "-")[-40:])
    made.create()
    return made


def at(endpoint: str, **options: Any) -> S3Settings:
    return S3Settings(Bucket(endpoint=endpoint, **options))


# --- the file of buckets -------------------------------------------------------------------


def test_buckets_differ(
    server: RecordingServer, foreign: RecordingServer, make_resolver: MakeResolver, tmp_path: Path
) -> None:
    file = tmp_path / "buckets.json"
    options = {"endpoint": foreign.url, "region": "eu-west-3", "requester_pays": True}
    file.write_text(json.dumps({"there": options, "open": {"anonymous": True}}), encoding="utf-8")
    environment = {"S3_ENDPOINT_URL": server.url, "S3_REGION": "us-west-2", "S3_BUCKETS": str(file)}
    settings = Wiring(Settings.from_env(environment)).s3_settings()
    for each in (server, foreign):
        each.serve("/", BODY, ETag='"1"')
    resolver = make_resolver(s3=settings, allowed_private_hosts=[])
    for name in ("there", "here", "open"):
        assert resolver.fetch(f"s3://{name}/a.jpg").size == len(BODY)
    [there], [here, unsigned] = foreign.seen, server.seen
    assert there.path == "/there/a.jpg"
    assert "/eu-west-3/s3/" in there.headers["authorization"]
    assert there.headers["x-amz-request-payer"] == "requester"
    assert "/us-west-2/s3/" in here.headers["authorization"]
    assert "x-amz-request-payer" not in here.headers
    assert (unsigned.path, unsigned.headers.get("authorization")) == ("/open/a.jpg", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object"),
        ('{"b": "http://minio"}', "b must be an object"),
        ('{"b": {"url": "http://minio"}}', "b has 'url'; known are anonymous, endpoint"),
        ('{"b": {"anonymous": "yes"}}', "anonymous of b must be true or false"),
        ('{"b": {"region": 3}}', "region of b must be a text"),
        ('{"b": {"endpoint": "minio:9000"}}', "endpoint of b must be a URL such as"),
        (None, "cannot be read"),
    ],
)
def test_mistakes_in_the_file_are_told(content: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "buckets.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=f"^S3_BUCKETS: .*{words}"):
        Wiring(Settings.from_env({"S3_BUCKETS": str(file)})).s3_settings()


def test_what_a_bucket_does_not_say_is_as_for_all(tmp_path: Path) -> None:
    file = tmp_path / "buckets.json"
    file.write_text('{"b": {"region": "r"}}', encoding="utf-8")
    default = Bucket(endpoint="http://minio:9000", anonymous=True)
    assert read_buckets(file, default) == {
        "b": Bucket(endpoint="http://minio:9000", anonymous=True, region="r")
    }


def test_profile_has_credentials_of_its_own(
    server: RecordingServer,
    make_resolver: MakeResolver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[minio]\naws_access_key_id=MINIOKEY\naws_secret_access_key=x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    server.serve("/", BODY, ETag='"1"')
    buckets = {"mine": Bucket(endpoint=server.url, profile="minio"),
               "lost": Bucket(endpoint=server.url, profile="unknown")}  # fmt: skip
    resolver = make_resolver(s3=S3Settings(Bucket(endpoint=server.url), buckets))
    resolver.fetch("s3://mine/a.jpg")
    resolver.fetch("s3://other/a.jpg")
    keys = [value.split("Credential=")[1].split("/")[0] for value in _signed(server)]
    assert keys == ["MINIOKEY", "AKIATESTTESTTEST"]
    with pytest.raises(MediaError, match="no way to read s3://lost"):
        resolver.fetch("s3://lost/a.jpg")


def _signed(server: RecordingServer) -> list[str]:
    return server.header_values("authorization")


class _Empty:
    """A body as botocore reads it."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


@pytest.mark.parametrize(
    ("bucket", "place"),
    [
        (Bucket(endpoint="http://minio:9000"), "http://minio:9000/photos/k"),
        (Bucket(endpoint="http://cos.example", path_style=False), "http://photos.cos.example/k"),
        (Bucket(region="eu-west-3"), "https://photos.s3.eu-west-3.amazonaws.com/k"),
        (
            Bucket(region="eu-west-3", path_style=True),
            "https://s3.eu-west-3.amazonaws.com/photos/k",
        ),
    ],
)
def test_path_style(bucket: Bucket, place: str) -> None:
    client = S3(S3Settings(bucket), timeouts=Timeouts()).client("photos")
    asked = []

    def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        asked.append(request.url)
        return AWSResponse(request.url, 200, {}, _Empty())

    client.meta.events.register("before-send.s3", answer)
    client.head_object(Bucket="photos", Key="k")
    assert asked == [place]


# --- objects -------------------------------------------------------------------------------


def test_versions(bucket: Any, moto_url: str, make_resolver: MakeResolver) -> None:
    bucket.Versioning().enable()
    old = bucket.put_object(Key="a?b.mp4", Body=BODY).version_id
    new = bucket.put_object(Key="a?b.mp4", Body=BODY[::-1]).version_id
    resolver = make_resolver(s3=at(moto_url))
    uri = f"s3://{bucket.name}/a?b.mp4"
    expected = {"": BODY[::-1], f"?versionId={old}": BODY, f"?versionId={new}": BODY[::-1]}
    for suffix, body in expected.items():
        assert resolver.fetch(uri + suffix).path.read_bytes() == body
        with resolver.open(uri + suffix) as file:
            assert file.read() == body


def test_encrypted_objects(bucket: Any, moto_url: str, make_resolver: MakeResolver) -> None:
    bucket.put_object(Key="a", Body=BODY, ServerSideEncryption="aws:kms")
    assert make_resolver(s3=at(moto_url)).fetch(f"s3://{bucket.name}/a").size == len(BODY)


def test_ranges_of_one_version(bucket: Any, moto_url: str, make_resolver: MakeResolver) -> None:
    bucket.put_object(Key="a.mp4", Body=BODY)
    resolver = make_resolver(s3=at(moto_url), fresh_seconds=0)
    uri = f"s3://{bucket.name}/a.mp4"
    with resolver.open(uri) as file:
        file.seek(-10, 2)
        assert file.read() == BODY[-10:]
        assert resolver.stats.bytes_fetched <= len(BODY) // 2
        bucket.put_object(Key="a.mp4", Body=BODY[::-1])
        file.seek(len(BODY) // 2)
        with pytest.raises(MediaError, match="replaced while it was being read"):
            file.read(10)
    with resolver.open(uri) as file:
        assert file.read() == BODY[::-1]


def test_unchanged_parts_are_not_asked_for_again(
    bucket: Any, moto_url: str, make_resolver: MakeResolver
) -> None:
    bucket.put_object(Key="a.mp4", Body=BODY)
    resolver = make_resolver(s3=at(moto_url), fresh_seconds=0)
    for _ in range(3):
        resolver.open(f"s3://{bucket.name}/a.mp4").close()
    assert (resolver.stats.streams, resolver.stats.revalidations) == (1, 2)
    assert resolver.stats.bytes_fetched < len(BODY) // 2


@pytest.mark.parametrize(("status", "code"), [(416, "InvalidRange"), (400, "InvalidArgument")])
def test_server_that_refuses_more_than_there_is(
    server: RecordingServer, make_resolver: MakeResolver, status: int, code: str
) -> None:
    """The object is shorter than the first range asked for, or empty."""

    def handler(seen: Seen) -> Reply:
        if "range" in seen.headers:
            return Reply(status, f"<Error><Code>{code}</Code></Error>".encode())
        return Reply(200, BODY[:100], {"ETag": '"1"'})

    server.route("/media/", handler)
    with make_resolver(s3=at(server.url)).open("s3://media/a.mp4") as file:
        assert file.read() == BODY[:100]


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_is_asked_again_when_it_wishes(
    server: RecordingServer, make_resolver: MakeResolver, status: int
) -> None:
    def handler(seen: Seen) -> Reply:
        if server.count() == 1:
            body = b"<Error><Code>SlowDown</Code></Error>"
            return Reply(status, body, {"Retry-After": "1"})
        return file_reply(seen, BODY, {"ETag": '"1"'})

    server.route("/media/", handler)
    start = datetime.datetime.now(tz=datetime.UTC)
    assert make_resolver(s3=at(server.url)).fetch("s3://media/a.jpg").size == len(BODY)
    assert (datetime.datetime.now(tz=datetime.UTC) - start).total_seconds() >= 1
    assert server.count() == 2


# --- where else they may be ----------------------------------------------------------------


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_endpoint_of_the_environment_is_trusted_behind_a_redirect(
    variable: str,
    label_studio: FakeLabelStudio,
    foreign: RecordingServer,
    client: LabelStudioClient,
    make_resolver: MakeResolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    location = {"Location": f"{foreign.url}/media/a.jpg?X-Amz-Signature=1"}
    label_studio.cloud["s3://media/a.jpg"] = Reply(303, headers=location)
    foreign.serve("/media/", BODY)
    with pytest.raises(MediaError, match="private or reserved"):
        make_resolver(label_studio=client, allowed_private_hosts=[]).fetch(
            "s3://media/a.jpg", task_id=1
        )
    monkeypatch.setenv(variable, foreign.url)
    resolver = make_resolver(label_studio=client, allowed_private_hosts=[])
    assert resolver.fetch("s3://media/a.jpg", task_id=1).size == len(BODY)


def test_ca_bundle(server: RecordingServer, make_resolver: MakeResolver, tmp_path: Path) -> None:
    bundle, url = serve_https(server, tmp_path)
    server.serve("/", BODY, ETag='"1"')
    usual = make_resolver(s3=at(url))
    for uri, words in (("s3://media/a.jpg", "CA_BUNDLE"), (f"{url}/a.jpg", "CA bundle")):
        with pytest.raises(MediaError, match=words):
            usual.fetch(uri)
    settings = Settings.from_env({"CA_BUNDLE": str(bundle)})
    trusting = make_resolver(s3=at(url), verify=Wiring(settings).verify)
    for uri in ("s3://media/a.jpg", f"{url}/a.jpg"):
        assert trusting.fetch(uri).size == len(BODY)
