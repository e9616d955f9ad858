"""What all web pages share: who may see and use them, what stands in them, how they look."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.expected import counted
from backend.web.site import NO_PAGES, STATIC, SharedParts
from tests.waiting import until
from tests.web.browsing import AXE, WebPages, is_too_wide, serious_findings

TEMPLATES = STATIC.with_name("templates")
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
VENDORED = [STATIC / "vendor" / "vendored.json", AXE.with_name("vendored.json")]
PAGES = ["/", "/projects/1", "/training"]


def basic(name: str, word: str) -> dict[str, str]:
    pair = base64.b64encode(f"{name}:{word}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


@pytest.fixture
def client(make_bench: Callable[..., Any]) -> Any:
    return make_bench().client


class TestWhoSeesThem:
    def test_a_browser_gets_a_page_and_label_studio_the_health(self, client: Any) -> None:
        assert client.get("/", headers=HTML).mimetype == "text/html"
        for accept in ("*/*", "application/json", None):
            reply = client.get("/", headers={"Accept": accept} if accept else {})
            assert reply.json["status"] == "UP"

    def test_a_browser_is_asked_for_credentials_where_a_probe_is_not(
        self, make_bench: Callable[..., Any]
    ) -> None:
        client = make_bench(basic_auth_user="lead", basic_auth_pass="w0rd").client
        reply = client.get("/", headers=HTML)
        assert (reply.status_code, reply.headers["WWW-Authenticate"][:5]) == (401, "Basic")
        assert client.get("/").status_code == 200
        assert client.get("/", headers={**HTML, **basic("lead", "w0rd")}).status_code == 200
        assert client.get("/", headers={**HTML, **basic("lead", "word")}).status_code == 401

    def test_a_browser_gives_the_token_as_the_password(
        self, make_bench: Callable[..., Any]
    ) -> None:
        client = make_bench(auth_token="t0ken").client
        assert client.get("/", headers={**HTML, **basic("anybody", "t0ken")}).status_code == 200
        for wrong in (basic("t0ken", ""), basic("", ""), basic("anybody", "t0ke")):
            assert client.get("/", headers={**HTML, **wrong}).status_code == 401

    def test_no_empty_password_opens_a_service_with_a_name_and_password_only(
        self, make_bench: Callable[..., Any]
    ) -> None:
        client = make_bench(basic_auth_user="lead", basic_auth_pass="w0rd").client
        for wrong in (basic("lead", ""), basic("", ""), basic("", "w0rd")):
            assert client.get("/jobs", headers=wrong).status_code == 401

    def test_nobody_sees_them_where_everybody_may_use_the_service(
        self, make_bench: Callable[..., Any]
    ) -> None:
        client = make_bench(host="0.0.0.0", allow_anonymous=True).client
        assert client.get("/", headers=HTML).json["status"] == "UP"
        reply = client.get("/overview/moving")
        assert (reply.status_code, reply.json["error"]) == (403, NO_PAGES)


class TestWhoUsesThem:
    """A request with an ``Origin`` is answered only if it is of a page of this very backend."""

    def cancel(self, bench: Any, **headers: str) -> int:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return int(bench.client.post("/jobs/x/cancel", headers=given).status_code)

    @pytest.fixture
    def word(self, bench: Any) -> str:
        text = bench.client.get("/", headers=HTML).text
        [found] = re.findall(r'<meta name="csrf-token" content="([^"]+)">', text)
        return str(found)

    def test_its_own_page_is_heard(self, bench: Any, word: str) -> None:
        own = {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090", "X_CSRF_Token": word}
        assert self.cancel(bench, **own) == 404  # heard: there is no such job
        assert self.cancel(bench, **own, Sec_Fetch_Site="same-origin") == 404

    @pytest.mark.parametrize(
        "changed",
        [
            {"X_CSRF_Token": ""},
            {"X_CSRF_Token": "wrong"},
            {"X_CSRF_Token": "\xff"},
            {"Origin": "http://127.0.0.1:9091"},
            {"Origin": "http://127.0.0.1"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "null", "Sec_Fetch_Site": "same-origin"},
            {"Origin": ""},
            {"Origin": "://"},
            {"Sec_Fetch_Site": "same-site"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "none"},
            {"Host": "evil.example", "Origin": "http://evil.example"},
            {"Host": "", "Origin": "http://"},
        ],
    )
    def test_no_other_page_is(self, bench: Any, word: str, changed: dict[str, str]) -> None:
        own = {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090", "X_CSRF_Token": word}
        assert self.cancel(bench, **{**own, **changed}) == 403

    def test_behind_a_proxy_that_gives_the_host_another_name(self, bench: Any, word: str) -> None:
        page = {"Host": "backend:9090", "Origin": "https://sam.example", "X_CSRF_Token": word}
        assert self.cancel(bench, **page) == 403
        assert self.cancel(bench, **page, Sec_Fetch_Site="same-origin") == 404
        assert self.cancel(bench, **page, X_Forwarded_Host="sam.example") == 404
        assert self.cancel(bench, **page, X_Forwarded_Host="other.example") == 403

    def test_who_is_no_page_needs_no_word(self, bench: Any) -> None:
        assert self.cancel(bench) == 404

    def test_where_everybody_is_let_in_no_page_is_heard(
        self, make_bench: Callable[..., Any]
    ) -> None:
        bench = make_bench(host="0.0.0.0", allow_anonymous=True)
        word = bench.client.application.jinja_env.globals["csrf_token"]
        assert self.cancel(bench, Origin="http://localhost", X_CSRF_Token=word) == 403


class TestWhatTheyAreMadeOf:
    @pytest.mark.parametrize("notes", VENDORED, ids=lambda path: path.parent.name)
    def test_files_of_others_are_what_their_authors_published(self, notes: Path) -> None:
        """Each with its version and licence, and no other file beside them."""
        listed = json.loads(notes.read_text())
        files = {name: digest for each in listed for name, digest in each["files"].items()}
        for name, digest in files.items():
            assert hashlib.sha256(notes.with_name(name).read_bytes()).hexdigest() == digest
        assert {path.name for path in notes.parent.iterdir()} == {*files, notes.name}
        for each in listed:
            assert each["version"] in each["source"]
            assert each["licence"]
            assert any("licence" in name for name in each["files"])

    @pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
    def test_templates_escape_everything_and_hold_nothing_inline(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|Markup|autoescape", text)
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|\shx-on", text)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
        assert not re.search(r"https?://", text)  # of no other address

    def test_no_policy_lets_in_what_stands_inline(self, client: Any) -> None:
        for path in PAGES:
            headers = client.get(path, headers=HTML).headers
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cache-Control"] == "private, no-cache"

    def test_files_are_kept_by_their_content(self, client: Any) -> None:
        text = client.get("/", headers=HTML).text
        addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
        assert len(addresses) >= 5
        for address in addresses:
            assert "immutable" in client.get(address).headers["Cache-Control"]
        assert client.get("/static/site.js").headers["Cache-Control"] == "no-cache"
        for missing in ("/static/none.js", "/static/../app.py", "/static/%2e%2e/app.py"):
            assert client.get(missing).status_code == 404

    def test_what_has_not_changed_is_not_sent_again(self, client: Any) -> None:
        first = client.get("/overview/moving")
        tag = {"If-None-Match": first.headers["ETag"]}
        again = client.get("/overview/moving", headers=tag)
        assert (again.status_code, again.data) == (304, b"")

    def test_a_part_is_made_once_for_all_who_look_at_the_same_moment(
        self, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        parts = SharedParts()
        monkeypatch.setattr("backend.web.site.render_template", lambda *_, **values: values["text"])

        def values() -> dict[str, str]:
            made.append(1)
            return {"text": f"{len(made)}"}

        def shown(key: str) -> str:
            return parts.web_page(key, "x.html", values).get_data(as_text=True)

        with client.application.test_request_context("/"):
            assert [shown("a"), shown("a"), shown("b"), shown("a")][:2] == ["1", "1"]
            until(lambda: shown("a") != "1")

    def test_an_error_is_a_page_to_a_browser(self, client: Any) -> None:
        reply = client.get("/<b>nothing</b>", headers=HTML)
        assert (reply.status_code, reply.mimetype) == (404, "text/html")
        assert client.get("/nothing").json["error"] == "Not Found"


@pytest.mark.slow
@pytest.mark.xdist_group("e2e")  # a process can drive one browser only
class TestInChromium:
    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [375, 1400])
    def test_nothing_serious_keeps_people_out(
        self, web_pages: WebPages, path: str, scheme: str, width: int
    ) -> None:
        page = web_pages.open(path, width=width, color_scheme=scheme)
        assert serious_findings(page) == []
        assert not is_too_wide(page)
        assert web_pages.complaints == []

    def test_axe_finds_what_is_wrong(self, web_pages: WebPages) -> None:
        page = web_pages.open("/")
        page.evaluate("document.querySelector('main').innerHTML = '<button></button>'")
        assert any("button-name" in line for line in serious_findings(page))


def test_what_is_counted_is_named_by_its_number() -> None:
    numbers = [counted(number, "picture") for number in (0, 1, 2, 21)]
    assert numbers == ["0 pictures", "1 picture", "2 pictures", "21 pictures"]
    assert [counted(number, "box") for number in (1, 2)] == ["1 box", "2 boxes"]
    assert [counted(number, "is", "are") for number in (0, 1, 2)] == ["0 are", "1 is", "2 are"]


# A number and a plural beside it, in a template or a script: what is 1 would read "1 tasks".
UNCOUNTED = re.compile(r"\}\}? (?!is\b|was\b|deserves\b)[a-z]+s\b")


def test_pages_count_with_words_that_fit() -> None:
    for path in (*TEMPLATES.glob("*.html"), *STATIC.glob("*.js")):
        assert UNCOUNTED.findall(path.read_text(encoding="utf-8")) == [], path.name
