"""Every kind of token with every kind of address, on a real Label Studio and a real S3 server.

Each cell opens the object in a cache of its own, reads its beginning and its end, and then all of
it; one line is printed for each. Proxies before both servers note every header, which shows that
Label Studio's tokens went to Label Studio only.
"""

from __future__ import annotations

import base64
import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.blocks import BLOCK_BYTES
from backend.media.errors import MediaError
from backend.media.resolver import MediaResolver
from backend.media.s3 import Bucket, S3Settings
from backend.media.sources import Timeouts
from benchmarks.support.recording_server import RecordingServer, Reply, recording_server
from benchmarks.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3_client
from demo.api import LabelStudioApi
from demo.label_studio import START_SECONDS, LabelStudio
from tests.e2e.services import ACCOUNT, LABEL_STUDIO_VENV, any_free_port, empty_label_studio
from tests.e2e.storages import RecordingProxy, recording_proxy
from tests.media.servers import LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, FakeLabelStudio, proxied

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BODY = random.Random(11).randbytes(4 * 2**20 + 77)
LARGE = random.Random(12).randbytes(20 * 2**20 + 5)
CONFIG = '<View><Video name="v" value="$v"/><TextArea name="t" toName="v"/></View>'
KEY = "in/we ird &#+%\u00fc.mp4"
CREDENTIALS = ("legacy token", "personal access token", "access token")


@dataclass(frozen=True)
class Place:
    """Where an object is, and how it must come.

    Attributes:
        uri: as the task's data have it.
        way: how it comes, for the printed line.
        ranged: whether in ranges; else whole.
        task: that holds it.
        through: the URL that the backend knows Label Studio by; None: the usual.
        own_s3: the S3 server that the backend has credentials for.
        body: what it holds.
    """

    uri: str
    way: str
    ranged: bool
    task: int | None = None
    through: str | None = None
    own_s3: str | None = None
    body: bytes = BODY


class World:
    """All servers, with the objects in them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        local = folder / "local"
        (local / "clips").mkdir(parents=True)
        (local / "clips" / "a b.mp4").write_bytes(BODY)
        s3 = S3Server(folder / "s3", any_free_port())
        stack.callback(s3.stop)
        data = folder / "label-studio"
        shutil.copytree(empty_label_studio(), data)
        label_studio = LabelStudio(
            LABEL_STUDIO_VENV,
            data_directory=data,
            port=any_free_port(),
            account=ACCOUNT,
            log=folder / "label-studio.log",
            settings={
                "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
                "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(local),
                "RESOLVER_PROXY_TIMEOUT": "1",  # of 20 s
            },
        )
        stack.callback(label_studio.stop)
        s3.wait_until_ready()
        label_studio.wait_for(label_studio.url + "/health", seconds=START_SECONDS)

        def proxy(upstream: str, **options: Any) -> RecordingProxy:
            return stack.enter_context(recording_proxy(upstream, **options))

        self.ls = proxy(label_studio.url)
        self.ls_sub_path = proxy(label_studio.url, prefix="/label-studio")
        self.ls_no_ranges = proxy(label_studio.url, ranges=False)
        self.ls_slow = proxy(label_studio.url, bytes_per_second=2_000_000)
        self.s3, self.s3_no_ranges = proxy(s3.url), proxy(s3.url, ranges=False)
        self.web = stack.enter_context(recording_server())
        self.api = LabelStudioApi(label_studio.url, ACCOUNT)
        self.tokens = self._tokens()
        client = s3.client()
        client.create_bucket(Bucket="media")
        client.put_object(Bucket="media", Key=KEY, Body=BODY)
        client.put_object(Bucket="media", Key="large.mp4", Body=LARGE)
        self.scripted = self._scripted(stack)
        self.places = dict(self._places())

    def _tokens(self) -> dict[str, str]:
        switches = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        self.api.request("POST", "/api/jwt/settings", json=switches)
        legacy = str(self.api.request("GET", "/api/current-user/token")["token"])
        personal = self.api.new_personal_access_token()
        answer = self.api.request("POST", "/api/token/refresh", json={"refresh": personal})
        return dict(zip(CREDENTIALS, (legacy, personal, str(answer["access"])), strict=True))

    def _scripted(self, stack: ExitStack) -> dict[str, FakeLabelStudio]:
        """Google's and Azure's storages are not to be had here: Label Studio's answers for them
        come from a script, which takes the same kinds of tokens."""
        storage = stack.enter_context(recording_server())
        self.cloud_storage = storage
        fakes = {}
        for credential in CREDENTIALS:
            server = stack.enter_context(recording_server())
            fake = FakeLabelStudio(server, legacy=True)
            fakes[credential] = fake
            for scheme, signature in (("gs", "X-Goog-Signature"), ("azure-blob", "sig")):
                storage.serve(f"/{scheme}/", BODY, ETag='"c"')
                location = f"{storage.url}/{scheme}/v.mp4?{signature}=s3cr3t"
                fake.cloud[f"{scheme}://media/signed.mp4"] = Reply(
                    303, headers={"Location": location}
                )
                fake.cloud[f"{scheme}://media/proxied.mp4"] = proxied(BODY, "e")
        return fakes

    def _storage(self, endpoint: str, *, presign: bool, uri: str) -> int:
        """A project with a source storage on S3; returns a task that holds ``uri``."""
        project = self.api.create_project(f"S3 {endpoint} {presign}", CONFIG)
        storage = {
            "project": project,
            "title": "S3",
            "bucket": "media",
            "s3_endpoint": endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET_KEY,
            "presign": presign,
            "presign_ttl": 5,
            "use_blob_urls": True,
        }
        self.api.request("POST", "/api/storages/s3", json=storage)
        return self.api.create_tasks(project, [{"v": uri}])[0]

    def _upload(self) -> str:
        project = self.api.create_project("Uploads", CONFIG)
        file = self.folder / "clip.mp4"
        file.write_bytes(BODY)
        return self.api.upload(project, file)

    def _local(self) -> str:
        project = self.api.create_project("Local", CONFIG)
        storage = {
            "project": project,
            "title": "local",
            "path": str(self.folder / "local" / "clips"),
            "use_blob_urls": True,
        }
        self.api.request("POST", "/api/storages/localfiles", json=storage)
        return "/data/local-files/?d=clips/a%20b.mp4"

    def _places(self) -> Iterator[tuple[str, Place]]:
        upload, uri = self._upload(), f"s3://media/{KEY}"
        yield "upload", Place(upload, "direct", True)
        yield (
            "upload, no ranges",
            Place(upload, "direct, no ranges", False, through=self.ls_no_ranges.url),
        )
        yield (
            "upload under a sub-path",
            Place(f"/label-studio{upload}", "direct", True, through=self.ls_sub_path.url),
        )
        yield "local file", Place(self._local(), "direct", True)
        signed = self._storage(self.s3.url, presign=True, uri=uri)
        passed = self._storage(self.s3.url, presign=False, uri=uri)
        no_ranges = self.s3_no_ranges.url
        yield "s3, presign on", Place(uri, "redirect", True, signed)
        yield "s3, presign off", Place(uri, "proxied", True, passed)
        large = "s3://media/large.mp4"
        yield "s3, presign off, 20 MiB", Place(large, "proxied", True, passed, body=LARGE)
        yield "s3a, presign on", Place(uri.replace("s3:", "s3a:"), "redirect", True, signed)
        yield (
            "s3, presign on, no ranges",
            Place(
                uri, "redirect, no ranges", False, self._storage(no_ranges, presign=True, uri=uri)
            ),
        )
        yield (
            "s3, presign off, no ranges",
            Place(uri, "proxied, no ranges", False, passed, through=self.ls_no_ranges.url),
        )
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        yield (
            "s3 as the API resolves it",
            Place(f"/tasks/{signed}/presign/?fileuri={encoded}", "redirect", True, signed),
        )
        yield "s3, own credentials", Place(uri, "direct", True, signed, own_s3=self.s3.url)
        yield (
            "s3a, own credentials",
            Place(uri.replace("s3:", "s3a:"), "direct", True, own_s3=self.s3.url),
        )
        # A proxy cannot take a Range away that boto3 has signed.
        self.web.route("/media/plain.mp4", Reply(200, BODY, {"ETag": '"s"'}))
        yield (
            "s3, own credentials (scripted)",
            Place("s3://media/plain.mp4", "direct, no ranges", False, own_s3=self.web.url),
        )
        yield from self._web_places()

    def _web_places(self) -> Iterator[tuple[str, Place]]:
        web = self.web
        web.serve("/v.mp4", BODY, ETag='"w"')
        web.route("/whole.mp4", Reply(200, BODY, {"ETag": '"w"'}))
        web.route("/moved.mp4", Reply(302, headers={"Location": f"{web.url}/v.mp4"}))
        yield "http", Place(f"{web.url}/v.mp4", "direct", True)
        yield "http, no ranges", Place(f"{web.url}/whole.mp4", "direct, no ranges", False)
        yield "http, redirected", Place(f"{web.url}/moved.mp4", "redirect", True)
        target = {"Bucket": "media", "Key": KEY}
        for name, proxy in (("", self.s3), (", no ranges", self.s3_no_ranges)):
            url = s3_client(proxy.url).generate_presigned_url("get_object", Params=target)
            yield f"presigned URL{name}", Place(url, f"direct{name}", not name)
        small = base64.b64encode(BODY[:3000]).decode()
        yield "data:", Place(f"data:video/mp4;base64,{small}", "inline", False, body=BODY[:3000])
        for scheme in ("gs", "azure-blob"):
            for kind, way in (("signed", "redirect"), ("proxied", "proxied")):
                uri = f"{scheme}://media/{kind}.mp4"
                yield f"{scheme}, {kind} (scripted)", Place(uri, way, True, 1, through="scripted")

    @contextmanager
    def resolver(
        self, credential: str, place: Place, timeouts: Timeouts | None = None
    ) -> Iterator[MediaResolver]:
        """With an empty cache."""
        token, url = self.tokens[credential], place.through or self.ls.url
        if place.through == "scripted":
            fake = self.scripted[credential]
            url = fake.url
            token = LEGACY_TOKEN if credential == "legacy token" else PERSONAL_ACCESS_TOKEN
            if credential == "access token":
                token = (
                    LabelStudioClient(url, PERSONAL_ACCESS_TOKEN)
                    .auth_headers()["Authorization"]
                    .removeprefix("Bearer ")
                )
        folder = self.folder / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        resolver = MediaResolver(
            cache_directory=folder,
            cache_bytes=100 * 2**20,
            label_studio=LabelStudioClient(url, token),
            s3=S3Settings(Bucket(endpoint=place.own_s3)),
            allowed_private_hosts=["127.0.0.1"],
            timeouts=timeouts,
        )
        try:
            yield resolver
        finally:
            resolver.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("matrix"), stack)


@pytest.fixture
def own_credentials(monkeypatch: pytest.MonkeyPatch) -> Callable[[Place], None]:
    """boto3 finds credentials for places that want that, and none for others."""

    def choose(place: Place) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, "/nonexistent")
        for name, value in (("ACCESS_KEY_ID", ACCESS_KEY), ("SECRET_ACCESS_KEY", SECRET_KEY)):
            if place.own_s3:
                monkeypatch.setenv(f"AWS_{name}", value)
            else:
                monkeypatch.delenv(f"AWS_{name}", raising=False)

    return choose


def test_matrix(
    world: World, own_credentials: Callable[[Place], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lines, failures = [], []
    for credential in CREDENTIALS:
        for name, place in world.places.items():
            own_credentials(place)
            with world.resolver(credential, place) as resolver:
                try:
                    outcome = _cell(resolver, place)
                except MediaError as error:
                    outcome = f"REFUSED: {error}"
            lines.append(f"{credential:<22} {name:<32} {place.way:<20} {outcome}")
            if not outcome.startswith("ok"):
                failures.append(lines[-1])
    with capsys.disabled():
        print("", *lines, f"{len(lines) - len(failures)} of {len(lines)} cells ok", sep="\n")
    assert not failures
    _no_token_went_astray(world)


def _cell(resolver: MediaResolver, place: Place) -> str:
    """``ok`` with what was fetched and how long it took, or what went wrong."""
    start = time.monotonic()
    with resolver.open(place.uri, task_id=place.task) as stream:
        head = stream.read(1000)
        stream.seek(-1000, 2)
        tail = stream.read(1000)
        first = resolver.stats.bytes_fetched
        if (head, tail) != (place.body[:1000], place.body[-1000:]):
            return "WRONG BYTES"
        as_expected = first <= 3 * BLOCK_BYTES if place.ranged else first == len(place.body)
        if not as_expected:
            return f"NOT AS EXPECTED: {first} bytes fetched for two ends"
        stream.seek(0)
        if hashlib.sha256(stream.read()).digest() != hashlib.sha256(place.body).digest():
            return "WRONG CONTENT"
    if resolver.stats.bytes_fetched != len(place.body):
        return f"FETCHED TWICE: {resolver.stats.bytes_fetched} of {len(place.body)} bytes"
    how = "ranged" if place.ranged else "whole"
    return f"ok {how:<6} {first:>8} bytes for both ends, {time.monotonic() - start:.2f} s in all"


def _no_token_went_astray(world: World) -> None:
    """Label Studio's tokens at Label Studio only, and never beside a signature."""
    for proxy in (world.s3, world.s3_no_ranges):
        assert proxy.passed
        assert not any(request.token for request in proxy.passed)
        assert not any(
            "authorization" in request.headers for request in proxy.passed if request.is_signed
        )
    servers: list[RecordingServer] = [world.web, world.cloud_storage]
    for server in servers:
        assert server.seen
        values = server.header_values("authorization")
        assert not any(value.startswith(("Token", "Bearer")) for value in values)
    for proxy in (world.ls, world.ls_sub_path, world.ls_no_ranges):
        assert {request.token for request in proxy.passed} >= {"Token", "Bearer"}
        assert not any(request.is_signed and request.token for request in proxy.passed)


def _ranges(proxy: RecordingProxy) -> list[str]:
    """The Range headers of the requests for storages' objects."""
    return [each.headers["range"] for each in proxy.passed if each.target.startswith("/tasks/")]


def test_large_object_through_the_proxy_stays_within_its_limits(
    world: World, own_credentials: Callable[[Place], None]
) -> None:
    place = world.places["s3, presign off, 20 MiB"]
    own_credentials(place)
    world.ls.passed.clear()
    with world.resolver(CREDENTIALS[1], place) as resolver:
        with resolver.open(place.uri, task_id=place.task) as stream:
            assert hashlib.sha256(stream.read()).digest() == hashlib.sha256(LARGE).digest()
        assert resolver.stats.bytes_fetched == len(LARGE)
    spans = [
        [int(end) for end in text.removeprefix("bytes=").split("-")] for text in _ranges(world.ls)
    ]
    assert all(last - first < 8 * 2**20 for first, last in spans)


def test_large_object_is_read_whole_though_the_proxy_stops_in_the_middle(
    world: World, own_credentials: Callable[[Place], None]
) -> None:
    """Label Studio's proxy gives up after some seconds, whatever has been sent by then. The
    shorter ranges of reading ahead mostly fit into the buffers on the way, so read it whole."""
    place = replace(world.places["s3, presign off, 20 MiB"], through=world.ls_slow.url)
    own_credentials(place)
    with world.resolver(CREDENTIALS[1], place, Timeouts(read=2)) as resolver:
        found = resolver.fetch(place.uri, task_id=place.task)
        assert found.content_key == hashlib.sha256(LARGE).hexdigest()
        assert resolver.stats.bytes_fetched == len(LARGE)
    starts = [int(text.removeprefix("bytes=").split("-")[0]) for text in _ranges(world.ls_slow)]
    assert any(start % (8 * 2**20) for start in starts)  # gone on from where it stopped


def test_object_replaced_on_s3_is_never_mixed(
    world: World, own_credentials: Callable[[Place], None]
) -> None:
    """This S3 server ignores If-Match: what it answers tells."""
    for way in ("s3, presign on", "s3, presign off", "s3, own credentials"):
        place = world.places[way]
        own_credentials(place)
        client = s3_client(world.s3.url)
        with world.resolver(CREDENTIALS[1], place) as resolver:
            stream = resolver.open(place.uri, task_id=place.task)
            assert stream.read(10) == BODY[:10]
            client.put_object(Bucket="media", Key=KEY, Body=BODY[::-1])
            stream.seek(3 * 2**20)
            with pytest.raises(Exception, match="replaced while it was being read"):
                stream.read(10)
            with resolver.open(place.uri, task_id=place.task) as again:
                assert again.read() == BODY[::-1]
            client.put_object(Bucket="media", Key=KEY, Body=BODY)
            stream.close()
