"""The Label Studio client: kinds of token, renewal, and where the token goes."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.connection import AccessToken, Credential, credential_kind
from benchmarks.support.recording_server import RecordingServer, Reply, Seen
from tests.media.servers import LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, FakeLabelStudio, jwt


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, Credential.NONE),
        ("", Credential.NONE),
        (LEGACY_TOKEN, Credential.LEGACY),
        ("a.b.c", Credential.UNKNOWN),
        ("wrong", Credential.UNKNOWN),
        (PERSONAL_ACCESS_TOKEN, Credential.PERSONAL_ACCESS),
        (jwt(token_type="access"), Credential.ACCESS),
    ],
)
def test_kinds_of_key_are_told_apart(key: str | None, kind: Credential) -> None:
    assert credential_kind(key) is kind


def test_personal_access_token_is_exchanged_once_and_sent_as_bearer(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    assert client.get_task(7)["data"] == {"image": "s3://media/x.jpg"}
    assert client.whoami()["email"] == "a@b.co"
    assert label_studio.refreshes == 1
    sent = label_studio.server.header_values("authorization")
    assert len(set(sent)) == 1
    assert sent[0].startswith("Bearer ")
    assert PERSONAL_ACCESS_TOKEN not in sent[0]


def test_renews_before_expiry(label_studio: FakeLabelStudio) -> None:
    now = [1000.0]
    tokens = iter([jwt(iat=0, exp=300, jti=1), jwt(iat=0, exp=300, jti=2)])
    access = AccessToken(lambda: next(tokens), clock=lambda: now[0])
    first = access.get()
    now[0] += 200
    assert access.get() == first
    now[0] += 99  # one second before it expires
    assert access.get() != first


def test_renews_once_on_401_and_repeats_the_request(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    client.whoami()
    label_studio.expire_all()
    assert client.get_task(7)["id"] == 7
    assert label_studio.refreshes == 2


def test_gives_up_after_one_renewal(label_studio: FakeLabelStudio) -> None:
    label_studio.server.route("/api/tasks/", Reply(401, b"{}"))
    client = LabelStudioClient(label_studio.url, PERSONAL_ACCESS_TOKEN)
    with pytest.raises(LabelStudioError, match="401 to a freshly exchanged personal access token"):
        client.get_task(7)
    assert label_studio.refreshes == 2
    assert label_studio.server.count("/api/tasks/") == 2


def test_threads_share_one_exchange(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    label_studio.refresh_delay = 0.1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.whoami(), range(16)))
    assert label_studio.refreshes == 1
    label_studio.expire_all()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.whoami(), range(16)))
    assert label_studio.refreshes == 2


def test_failed_exchange_is_tried_again_by_the_next_caller() -> None:
    outcomes = [RuntimeError("down"), jwt(jti=1)]

    def exchange() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    access = AccessToken(exchange)
    with pytest.raises(RuntimeError):
        access.get()
    assert access.get() == jwt(jti=1)


def test_legacy_token_works_where_it_is_accepted(server: RecordingServer) -> None:
    FakeLabelStudio(server, legacy=True)
    client = LabelStudioClient(server.url, LEGACY_TOKEN)
    assert client.whoami()["id"] == 1
    assert server.header_values("authorization") == [f"Token {LEGACY_TOKEN}"]


def test_refused_legacy_token_says_what_to_do(label_studio: FakeLabelStudio) -> None:
    with pytest.raises(LabelStudioError) as caught:
        LabelStudioClient(label_studio.url, LEGACY_TOKEN).whoami()
    text = str(caught.value)
    assert caught.value.status == 401
    assert label_studio.url in text
    assert "refuses legacy tokens" in text
    assert "create a personal access token under Account & Settings" in text
    assert LEGACY_TOKEN not in text


def test_access_token_is_used_as_it_is(
    label_studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    access = client.auth_headers()["Authorization"].removeprefix("Bearer ")
    assert LabelStudioClient(label_studio.url, access).whoami()["id"] == 1
    label_studio.expire_all()
    with pytest.raises(LabelStudioError, match="has probably expired"):
        LabelStudioClient(label_studio.url, access).whoami()


def test_revoked_personal_access_token_says_so(label_studio: FakeLabelStudio) -> None:
    revoked = jwt(token_type="refresh", jti="another")
    with pytest.raises(LabelStudioError, match="refused the personal access token") as caught:
        LabelStudioClient(label_studio.url, revoked).whoami()
    assert revoked not in str(caught.value)


def test_no_key_says_so(label_studio: FakeLabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="none is configured"):
        LabelStudioClient(label_studio.url, None).whoami()


def test_sub_path(server: RecordingServer) -> None:
    label_studio = FakeLabelStudio(server, prefix="/label-studio")
    client = LabelStudioClient(label_studio.url + "/", PERSONAL_ACCESS_TOKEN)
    assert client.get_task(7)["id"] == 7
    assert client.server.absolute("/data/upload/1/x") == label_studio.url + "/data/upload/1/x"
    assert client.server.absolute("/label-studio/data/x") == label_studio.url + "/data/x"
    assert all(seen.path.startswith("/label-studio/") for seen in server.seen)


def test_creates_predictions(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    stored = client.create_prediction(7, [{"id": "r"}], "sam2", 0.5)
    assert stored["id"] == 3
    assert stored["result"] == [{"id": "r"}]


def test_a_large_prediction_is_sent_from_a_file_and_its_answer_not_read(
    server: RecordingServer, client: LabelStudioClient
) -> None:
    def take(seen: Seen) -> Reply:
        assert int(seen.headers["content-length"]) == len(seen.body)  # Django reads no chunks
        assert json.loads(seen.body)["result"][-1] == {"id": "r9999", "value": {"rle": [1] * 100}}
        return Reply(201, b'{"id": 3, "task": 7, "result": ' + seen.body[seen.body.index(b"[") :])

    server.route("/api/predictions/", take)
    results = ({"id": f"r{number}", "value": {"rle": [1] * 100}} for number in range(10_000))
    assert client.create_prediction(7, results, "sam2", 0.5) == {"id": 3}


@pytest.mark.parametrize("errors", [{"url": ["no\n<b>backend</b>"]}, ["no backend"], "no backend"])
def test_what_label_studio_finds_wrong_is_said(
    server: RecordingServer, client: LabelStudioClient, errors: object
) -> None:
    server.route("/api/ml/", Reply(400, json.dumps({"validation_errors": errors}).encode()))
    with pytest.raises(LabelStudioError, match=r"answered 400: no backend$"):
        client.request("POST", "/api/ml/", json={})


def test_a_page_is_no_prediction(server: RecordingServer, client: LabelStudioClient) -> None:
    server.route("/api/predictions/", Reply(200, b"<html>" + b" " * 2_000_000))
    with pytest.raises(LabelStudioError, match="something other than its API does"):
        client.create_prediction(7, [{"id": "r"}], "sam2", 0.5)


OWN = "https://ls.example/label-studio"


@pytest.mark.parametrize(
    ("url", "own"),
    [
        (OWN, True),
        (OWN + "/data/upload/1/x.jpg?a=b", True),
        ("https://LS.example:443/label-studio/data", True),
        ("http://ls.example/label-studio/data", False),
        ("https://ls.example:8443/label-studio/data", False),
        ("https://ls.example/label-studio-evil/data", False),
        ("https://ls.example/other", False),
        ("https://ls.example/label-studio/../other", False),
        ("https://ls.example/label-studio/%2e%2e/other", False),
        ("https://ls.example/label-studio/%252e%252e/other", False),
        ("https://ls.example/label-studio/..%2fother", False),
        ("https://ls.example/label-studio/..\\other", False),
        ("https://ls.example.evil.com/label-studio/", False),
        ("https://ls.example@evil.com/label-studio/", False),
        ("https://evil.com\\@ls.example/label-studio/", False),
        ("https://evil.com#@ls.example/label-studio/", False),
        ("https://user@ls.example/label-studio/", False),
        ("//ls.example/label-studio/", False),
        ("/label-studio/data", False),
        ("ftp://ls.example/label-studio/", False),
        ("https://[::1/label-studio/", False),
        ("", False),
    ],
)
def test_what_counts_as_own(url: str, own: bool) -> None:
    assert LabelStudioClient(OWN, None).server.owns(url) is own


def test_refuses_to_send_the_token_elsewhere(
    client: LabelStudioClient, foreign: RecordingServer
) -> None:
    with pytest.raises(LabelStudioError, match="Refused"):
        client.request("GET", foreign.url + "/api/version")
    assert foreign.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_another_origin_is_not_followed(
    server: RecordingServer, client: LabelStudioClient, foreign: RecordingServer, status: int
) -> None:
    server.route("/api/tasks/", Reply(status, headers={"Location": foreign.url + "/api/tasks/7/"}))
    with pytest.raises(LabelStudioError, match="redirects to") as caught:
        client.get_task(7)
    assert foreign.url in str(caught.value)
    assert foreign.seen == []


@pytest.mark.parametrize("location", ["http://[::1/x", "//[x", "http://"])
def test_redirect_to_nowhere_is_an_error_in_words(
    server: RecordingServer, client: LabelStudioClient, location: str
) -> None:
    server.route("/api/tasks/", Reply(302, headers={"Location": location}))
    with pytest.raises(LabelStudioError):
        client.get_task(7)


def test_token_exchange_is_not_redirected(
    server: RecordingServer, client: LabelStudioClient, foreign: RecordingServer
) -> None:
    server.route("/api/token/refresh", Reply(307, headers={"Location": foreign.url + "/t"}))
    with pytest.raises(LabelStudioError, match="set LABEL_STUDIO_URL"):
        client.whoami()
    assert foreign.seen == []


def test_redirect_within_label_studio_is_followed(
    server: RecordingServer, client: LabelStudioClient
) -> None:
    server.route("/api/tasks/8", Reply(301, headers={"Location": "/api/tasks/7/"}))
    assert client.get_task(8)["id"] == 7


def test_cookies_are_not_sent_to_the_next_port(
    server: RecordingServer, client: LabelStudioClient
) -> None:
    cookie = {"Set-Cookie": "sessionid=secret; Path=/"}
    server.route("/api/tasks/7/", Reply(200, b'{"id": 7}', headers=cookie))
    client.get_task(7)
    client.whoami()
    assert server.header_values("cookie") == []


def test_brief_trouble_is_waited_out(server: RecordingServer, client: LabelStudioClient) -> None:
    answers = [Reply(503), Reply(429, headers={"Retry-After": "0"}), Reply(200, b'{"id": 7}')]
    server.route("/api/tasks/", lambda seen: answers.pop(0))
    assert client.get_task(7) == {"id": 7}


def test_posts_are_not_repeated(server: RecordingServer, client: LabelStudioClient) -> None:
    server.route("/api/predictions/", Reply(503))
    with pytest.raises(LabelStudioError, match="503"):
        client.create_prediction(7, [], "v", None)
    assert server.count("/api/predictions/") == 1


def test_version_and_user(label_studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    assert (client.version(), client.whoami()["email"]) == ("1.23.2", "a@b.co")
    assert client.credential is Credential.PERSONAL_ACCESS


def test_the_version_is_known_without_a_key_that_is_accepted(label_studio: FakeLabelStudio) -> None:
    assert LabelStudioClient(label_studio.url, LEGACY_TOKEN).version() == "1.23.2"


def test_login_page_of_a_proxy_is_not_taken_for_an_answer(
    server: RecordingServer, client: LabelStudioClient
) -> None:
    server.route("/api/current-user/", Reply(200, b"<!doctype html><title>Log in</title>"))
    with pytest.raises(LabelStudioError, match="login page"):
        client.whoami()


def test_unreachable() -> None:
    client = LabelStudioClient("http://127.0.0.1:9", LEGACY_TOKEN)
    assert client.version() is None
    with pytest.raises(LabelStudioError) as caught:
        client.whoami()
    assert caught.value.status is None
    assert "inside a container localhost is the container itself" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "label-studio:8080", "ftp://x", "http://", "http://user:pw@host", "http://h/?t=1"]
)
def test_impossible_urls_are_refused(url: str) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL"):
        LabelStudioClient(url, None)


@pytest.mark.parametrize("key", ["Token abc", "abc\ndef", "schl\u00fcssel"])
def test_impossible_keys_are_refused_without_being_shown(key: str) -> None:
    with pytest.raises(LabelStudioError) as caught:
        LabelStudioClient("http://ls", key)
    assert key not in str(caught.value)


def test_surrounding_white_space_of_a_key_does_not_matter(label_studio: FakeLabelStudio) -> None:
    assert LabelStudioClient(label_studio.url, PERSONAL_ACCESS_TOKEN + "\n").whoami()["id"] == 1


def test_secrets_stay_out_of_repr_errors_and_logs(
    server: RecordingServer, label_studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    for key in (PERSONAL_ACCESS_TOKEN, LEGACY_TOKEN):
        client = LabelStudioClient(label_studio.url, key)
        texts += [repr(client), str(client.version())]
        with pytest.raises(LabelStudioError) as caught:
            client.request("GET", "/api/nothing")
        texts += [str(caught.value), repr(caught.value)]
    everything = "\n".join([*texts, caplog.text])
    for secret in (PERSONAL_ACCESS_TOKEN, LEGACY_TOKEN, *label_studio.valid):
        assert secret not in everything


def test_netrc_does_not_replace_the_token(
    label_studio: FakeLabelStudio,
    client: LabelStudioClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    host = urlsplit(label_studio.url).hostname
    netrc.write_text(f"machine {host} login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert client.whoami()["id"] == 1
