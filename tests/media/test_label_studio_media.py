"""Media behind Label Studio: uploads, local files, presigned and proxied storage."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.errors import MediaError, Reason
from backend.media.resolver import MediaResolver
from backend.media.s3 import Bucket, S3Settings
from backend.media.sources import Timeouts
from benchmarks.support.recording_server import RecordingServer, Reply, Seen, file_reply
from tests.media.servers import LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, FakeLabelStudio, proxied
from tests.waiting import PATIENCE

BODY = bytes(range(256)) * 40
UPLOAD = "/data/upload/5/3de85bcf-plain.jpg"
MakeResolver = Callable[..., MediaResolver]


@pytest.fixture
def resolver(make_resolver: MakeResolver, client: LabelStudioClient) -> MediaResolver:
    """Allows nothing but Label Studio itself, which is always allowed."""
    return make_resolver(label_studio=client, allowed_private_hosts=[])


@pytest.fixture
def with_foreign(
    make_resolver: MakeResolver, client: LabelStudioClient, foreign: RecordingServer
) -> MediaResolver:
    return make_resolver(
        label_studio=client, allowed_private_hosts=[f"127.0.0.1:{foreign.port}"], fresh_seconds=0
    )


# --- uploads and local files ---------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_upload(label_studio: FakeLabelStudio, resolver: MediaResolver, absolute: bool) -> None:
    label_studio.add(UPLOAD, BODY)
    uri = (label_studio.url if absolute else "") + UPLOAD
    assert resolver.fetch(uri).path.read_bytes() == BODY
    requests = label_studio.server.count("/data/")
    resolver.fetch(UPLOAD)
    assert label_studio.server.count("/data/") == requests == 1


def test_spellings_of_a_path_are_one_object(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    label_studio.add("/data/upload/5/3de85bcf-%C3%BC.jpg", BODY)
    resolver.fetch("/data/upload/5/3de85bcf-\u00fc.jpg")
    resolver.fetch("/data/upload/5/3de85bcf-%C3%BC.jpg")
    resolver.fetch(label_studio.url + "/data/upload/5/3de85bcf-%c3%bc.jpg")
    assert label_studio.server.count("/data/") == 1


def test_upload_with_legacy_token(server: RecordingServer, make_resolver: MakeResolver) -> None:
    FakeLabelStudio(server, legacy=True).add(UPLOAD, BODY)
    client = LabelStudioClient(server.url, LEGACY_TOKEN)
    assert make_resolver(label_studio=client).fetch(UPLOAD).size == len(BODY)
    assert server.header_values("authorization") == [f"Token {LEGACY_TOKEN}"]


@pytest.mark.parametrize(
    "uri", ["/data/upload/5/3de85bcf-plain.jpg", "/ls/data/upload/5/3de85bcf-plain.jpg"]
)
def test_upload_under_a_sub_path(
    server: RecordingServer, make_resolver: MakeResolver, uri: str
) -> None:
    label_studio = FakeLabelStudio(server, prefix="/ls")
    label_studio.add(UPLOAD, BODY)
    client = LabelStudioClient(label_studio.url, PERSONAL_ACCESS_TOKEN)
    assert make_resolver(label_studio=client).fetch(uri).size == len(BODY)
    assert server.seen[-1].path == "/ls" + UPLOAD


def test_uploads_never_change_and_are_not_asked_about_again(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver, client: LabelStudioClient
) -> None:
    label_studio.add(UPLOAD, BODY)
    resolver = make_resolver(label_studio=client, fresh_seconds=0)
    resolver.fetch(UPLOAD)
    resolver.fetch(UPLOAD)
    assert label_studio.server.count("/data/") == 1


def test_local_file_served_by_label_studio(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver, client: LabelStudioClient
) -> None:
    target = "/data/local-files/?d=" + quote("photos/we ird &#+%\u00fc.jpg")
    label_studio.add(target, BODY, ETag='W/"17-3"')
    resolver = make_resolver(label_studio=client, fresh_seconds=0)
    assert resolver.fetch(target).size == len(BODY)
    resolver.fetch(target)
    assert label_studio.server.seen[-1].headers["if-none-match"] == 'W/"17-3"'
    assert resolver.stats.fetches == 1


def test_expired_access_token_is_renewed_once(
    label_studio: FakeLabelStudio, client: LabelStudioClient, resolver: MediaResolver
) -> None:
    label_studio.add(UPLOAD, BODY)
    client.auth_headers()
    label_studio.expire_all()
    assert resolver.fetch(UPLOAD).size == len(BODY)
    assert label_studio.refreshes == 2


def test_refused_token_is_explained(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver
) -> None:
    label_studio.add(UPLOAD, BODY)
    client = LabelStudioClient(label_studio.url, LEGACY_TOKEN)
    with pytest.raises(MediaError, match="refuses legacy tokens") as caught:
        make_resolver(label_studio=client).fetch(UPLOAD)
    assert caught.value.reason is Reason.UNAUTHORIZED
    assert LEGACY_TOKEN not in str(caught.value)


def test_revoked_token_is_explained(
    server: RecordingServer, label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    server.route("/api/token/refresh", Reply(401, b"{}"))
    with pytest.raises(MediaError, match="expired, revoked"):
        resolver.fetch(UPLOAD)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (UPLOAD, "may have been deleted"),
        ("/data/local-files/?d=a/b.jpg", "does not serve the local file a/b.jpg"),
    ],
)
def test_missing_media_is_explained(resolver: MediaResolver, uri: str, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        resolver.fetch(uri)
    assert caught.value.reason is Reason.NOT_FOUND


def test_label_studio_must_be_known(make_resolver: MakeResolver) -> None:
    with pytest.raises(MediaError, match="Set LABEL_STUDIO_URL"):
        make_resolver().fetch(UPLOAD)


def test_url_with_the_public_name_of_label_studio_is_read_from_it(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    """Label Studio started with HOST writes that name into the addresses of local files."""
    label_studio.add("/data/local-files/?d=a.jpg", BODY)
    label_studio.add(UPLOAD, BODY)
    for path in ("/data/local-files/?d=a.jpg", UPLOAD):
        assert resolver.fetch("https://annotate.example/ls" + path).size == len(BODY)


def test_foreign_url_that_only_looks_like_an_upload(
    label_studio: FakeLabelStudio, with_foreign: MediaResolver, foreign: RecordingServer
) -> None:
    foreign.serve(UPLOAD, BODY)
    assert with_foreign.fetch(foreign.url + UPLOAD).size == len(BODY)
    assert foreign.header_values("authorization") == []


# --- what task data may not do -------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/users/",
        "/data/upload/../../api/users/",
        "/data/upload/%2e%2e/%2e%2e/api/users/",
        "/data/upload/%252e%252e/%252e%252e/api/users/",
        "/data/upload/..\\..\\api\\users",
        "/data/export?x=/data/upload/",
        "/user/logout",
        "/tasks/1/presign/../../../api/users/",
        "/",
    ],
)
def test_the_api_cannot_be_called_through_task_data(
    label_studio: FakeLabelStudio, resolver: MediaResolver, path: str
) -> None:
    with pytest.raises(MediaError):
        resolver.fetch(path)
    assert label_studio.server.seen == []


@pytest.mark.parametrize(
    "place", ["/api/users/", "/user/login/?next=/", "/data/upload/%2e%2e/%2e%2e/api/users/", "/"]
)
@pytest.mark.parametrize("first", [UPLOAD, "/data/local-files/?d=a.jpg"])
def test_label_studio_cannot_lead_the_token_to_its_api(
    label_studio: FakeLabelStudio, resolver: MediaResolver, first: str, place: str
) -> None:
    server = label_studio.server
    server.route(first, Reply(302, headers={"Location": server.url + place}))
    server.route("/api/users/", Reply(200, b"secret"))
    with pytest.raises(MediaError):
        resolver.fetch(first)
    assert [seen.path for seen in server.seen if seen.headers.get("authorization")] == [
        first.partition("?")[0]
    ]


@pytest.mark.parametrize("path", ["/api/users/", "/data/upload/../../api/users/"])
def test_own_urls_outside_media_get_no_token(
    label_studio: FakeLabelStudio, resolver: MediaResolver, path: str
) -> None:
    with pytest.raises(MediaError):
        resolver.fetch(label_studio.url + path)
    assert label_studio.server.header_values("authorization") == []


# --- cloud storage, presigning on ----------------------------------------------------------

URI = "s3://media/img/we ird &#+%\u00fc.jpg"


def presigned(foreign: RecordingServer, path: str = "/media/x.jpg") -> Reply:
    location = f"{foreign.url}{path}?X-Amz-Signature={time.monotonic_ns()}"
    return Reply(303, headers={"Location": location})


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob"])
def test_presigned_storage(
    label_studio: FakeLabelStudio,
    with_foreign: MediaResolver,
    foreign: RecordingServer,
    scheme: str,
) -> None:
    uri = URI.replace("s3", scheme)
    label_studio.cloud[uri] = lambda seen: presigned(foreign)
    foreign.serve("/media/x.jpg", BODY, ETag='"1"')
    assert with_foreign.fetch(uri, task_id=43).path.read_bytes() == BODY
    assert label_studio.server.seen[-1].path == "/tasks/43/presign/"
    again = with_foreign.fetch(uri, task_id=43)
    assert again.size == len(BODY)
    assert foreign.seen[-1].headers["if-none-match"] == '"1"'
    assert with_foreign.stats.fetches == 1
    for name in ("authorization", "cookie", "x-api-key"):
        assert foreign.header_values(name) == []


def test_address_that_the_api_resolved_is_the_same_object(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    label_studio.cloud[URI] = proxied(BODY, "e")
    resolver.fetch(URI, task_id=43)
    encoded = base64.urlsafe_b64encode(URI.encode()).decode()
    for kind in ("resolve", "presign"):
        path = f"/tasks/43/{kind}/?fileuri={encoded}"
        assert resolver.fetch(path).size == resolver.fetch(label_studio.url + path).size
    assert label_studio.server.count("/tasks/") == 1


def test_s3a_is_called_s3_towards_label_studio(
    label_studio: FakeLabelStudio, with_foreign: MediaResolver, foreign: RecordingServer
) -> None:
    label_studio.cloud[URI] = lambda seen: presigned(foreign)
    foreign.serve("/media/x.jpg", BODY)
    assert with_foreign.fetch(URI.replace("s3:", "s3a:"), task_id=1).size == len(BODY)


def test_token_goes_to_label_studio_only_over_every_hop(
    label_studio: FakeLabelStudio, with_foreign: MediaResolver, foreign: RecordingServer
) -> None:
    """Label Studio -> foreign -> Label Studio -> foreign, for each kind of source."""
    back = label_studio.url + "/data/upload/9/00000000-back"
    label_studio.server.route(
        "/data/upload/9/00000000-back",
        Reply(302, headers={"Location": foreign.url + "/end.jpg"}),
    )
    foreign.route("/hop", Reply(302, headers={"Location": back}))
    foreign.serve("/end.jpg", BODY)
    label_studio.cloud[URI] = Reply(302, headers={"Location": foreign.url + "/hop"})
    start = Reply(302, headers={"Location": foreign.url + "/hop"})
    label_studio.server.route(UPLOAD, start)
    label_studio.server.route("/data/local-files/", start)
    for uri in (URI, UPLOAD, "/data/local-files/?d=x", foreign.url + "/hop"):
        assert with_foreign.fetch(uri, task_id=1).size == len(BODY)
    assert label_studio.server.header_values("authorization")
    assert foreign.header_values("authorization") == []


def test_presigned_url_that_expires_mid_read_is_signed_anew(
    label_studio: FakeLabelStudio, with_foreign: MediaResolver, foreign: RecordingServer
) -> None:
    used: list[str] = []

    def storage(seen: Seen) -> Reply:
        if seen.target in used:
            return Reply(403)
        used.append(seen.target)
        whole = file_reply(seen, BODY, {"ETag": '"1"'})
        if len(used) == 1:
            return Reply(200, whole.body[:5000], whole.headers, length=len(BODY))
        return whole

    label_studio.cloud[URI] = lambda seen: presigned(foreign)
    foreign.route("/media/", storage)
    assert with_foreign.fetch(URI, task_id=1).path.read_bytes() == BODY
    assert len(used) == 2
    assert foreign.seen[-1].headers["range"] == "bytes=5000-"


def test_private_storage_behind_a_redirect_needs_to_be_allowed(
    label_studio: FakeLabelStudio, resolver: MediaResolver, foreign: RecordingServer
) -> None:
    label_studio.cloud[URI] = lambda seen: presigned(foreign)
    with pytest.raises(MediaError, match="ALLOWED_PRIVATE_HOSTS"):
        resolver.fetch(URI, task_id=1)
    assert foreign.seen == []


def test_configured_s3_endpoint_is_allowed_behind_a_redirect(
    label_studio: FakeLabelStudio,
    make_resolver: MakeResolver,
    client: LabelStudioClient,
    foreign: RecordingServer,
) -> None:
    label_studio.cloud[URI] = lambda seen: presigned(foreign)
    foreign.serve("/media/x.jpg", BODY)
    resolver = make_resolver(
        label_studio=client, allowed_private_hosts=[], s3=S3Settings(Bucket(endpoint=foreign.url))
    )
    assert resolver.fetch(URI, task_id=1).size == len(BODY)


def test_uri_outside_every_storage_is_explained(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    with pytest.raises(MediaError, match="knows no storage of this project that holds s3://") as e:
        resolver.fetch("s3://other/x.jpg", task_id=1)
    assert e.value.reason is Reason.NOT_FOUND


def test_cloud_uri_needs_a_task_or_credentials(resolver: MediaResolver) -> None:
    with pytest.raises(MediaError, match=r"no way to read s3://media/x\.jpg"):
        resolver.fetch("s3://media/x.jpg")


def test_two_tasks_do_not_share_what_label_studio_decides_by_task(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    allowed = proxied(BODY, "e")
    label_studio.cloud[URI] = lambda seen: (
        allowed(seen) if "/tasks/1/" in seen.target else Reply(404)
    )
    resolver.fetch(URI, task_id=1)
    with pytest.raises(MediaError):
        resolver.fetch(URI, task_id=2)


# --- cloud storage, presigning off ---------------------------------------------------------


def test_proxied_storage_is_read_in_ranges(
    label_studio: FakeLabelStudio, resolver: MediaResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.media.label_studio_media._PROXY_RANGE_BYTES", 4096)
    label_studio.cloud[URI] = proxied(BODY, "e", max_range=3000)
    assert resolver.fetch(URI, task_id=1).path.read_bytes() == BODY
    ranges = [seen.headers["range"] for seen in label_studio.server.seen if "range" in seen.headers]
    assert ranges[:2] == ["bytes=0-4095", "bytes=3001-7096"]
    assert len(ranges) == 4


def test_small_proxied_object_takes_one_request(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    label_studio.cloud[URI] = proxied(BODY, "e")
    resolver.fetch(URI, task_id=1)
    assert label_studio.server.count("/tasks/") == 1


def test_proxy_that_stops_without_closing_is_resumed(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver, client: LabelStudioClient
) -> None:
    """What a proxy in front of Label Studio that drops the Range header makes of it."""
    cut = proxied(BODY, "e", cut=6000)
    full = proxied(BODY, "e")
    seen_before: list[Seen] = []

    def handler(seen: Seen) -> Reply:
        seen_before.append(seen)
        if len(seen_before) == 1:
            return cut(Seen(seen.method, seen.target, {}, b""))
        return full(seen)

    label_studio.cloud[URI] = handler
    resolver = make_resolver(label_studio=client, timeouts=Timeouts(PATIENCE, 1.0, PATIENCE))
    assert resolver.fetch(URI, task_id=1).path.read_bytes() == BODY
    assert resolver.stats.bytes_fetched == len(BODY)


def test_unchanged_proxied_object_is_not_read_again(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver, client: LabelStudioClient
) -> None:
    label_studio.cloud[URI] = proxied(BODY, "e")
    resolver = make_resolver(label_studio=client, fresh_seconds=0)
    resolver.fetch(URI, task_id=1)
    resolver.fetch(URI, task_id=1)
    assert (resolver.stats.fetches, resolver.stats.revalidations) == (1, 1)


def test_proxy_tag_without_the_storages_own_proves_nothing(
    label_studio: FakeLabelStudio, make_resolver: MakeResolver, client: LabelStudioClient
) -> None:
    label_studio.cloud[URI] = proxied(BODY, "")
    resolver = make_resolver(label_studio=client, fresh_seconds=0)
    resolver.fetch(URI, task_id=1)
    label_studio.cloud[URI] = proxied(BODY[::-1], "")
    assert resolver.fetch(URI, task_id=1).path.read_bytes() == BODY[::-1]


def test_storage_failure_inside_label_studio_is_explained(
    label_studio: FakeLabelStudio, resolver: MediaResolver
) -> None:
    label_studio.cloud[URI] = Reply(424, b'{"error": "Storage stream failed"}')
    with pytest.raises(MediaError, match="could not read s3://media/img/we ird"):
        resolver.fetch(URI, task_id=1)


# --- a folder that is mounted here too -----------------------------------------------------


def test_mounted_folder_is_read_in_place(
    label_studio: FakeLabelStudio,
    make_resolver: MakeResolver,
    client: LabelStudioClient,
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    (root / "a b").mkdir(parents=True)
    (root / "a b" / "\u00fc%.jpg").write_bytes(BODY)
    resolver = make_resolver(label_studio=client, local_root=root)
    uri = "/data/local-files/?d=" + quote("a b/\u00fc%.jpg")
    for address in (uri, label_studio.url + uri):
        found = resolver.fetch(address)
        assert found.path == root / "a b" / "\u00fc%.jpg"
        assert found.size == len(BODY)
    assert label_studio.server.seen == []


@pytest.mark.parametrize("host", ["http://evil.example", "https://annotate.example/ls"])
def test_mounted_folder_is_not_read_for_the_address_of_another_host(
    label_studio: FakeLabelStudio,
    make_resolver: MakeResolver,
    client: LabelStudioClient,
    tmp_path: Path,
    host: str,
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"of the folder")
    label_studio.add("/data/local-files/?d=a.jpg", BODY)
    address = host + "/data/local-files/?d=a.jpg"
    assert make_resolver(label_studio=client, local_root=tmp_path).fetch(address).size == len(BODY)
    with pytest.raises(MediaError):
        make_resolver(local_root=tmp_path, allowed_private_hosts=[]).fetch(address)


def test_file_missing_from_the_mounted_folder_is_asked_of_label_studio(
    label_studio: FakeLabelStudio,
    make_resolver: MakeResolver,
    client: LabelStudioClient,
    tmp_path: Path,
) -> None:
    label_studio.add("/data/local-files/?d=a.jpg", BODY)
    resolver = make_resolver(label_studio=client, local_root=tmp_path)
    assert resolver.fetch("/data/local-files/?d=a.jpg").size == len(BODY)
