"""Label Studio's tokens and media endpoints, and its storage proxy, as 1.23.2 answers."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.support.recording_server import Handler, RecordingServer, Reply, Seen, file_reply
from tests.waiting import LONGER


def jwt(**claims: Any) -> str:
    """A token of the right shape; nobody checks the signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


PERSONAL_ACCESS_TOKEN = jwt(token_type="refresh", jti="pat", user_id="1")
LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


class FakeLabelStudio:
    """Label Studio's tokens and media endpoints as 1.23.2 answers them, on a RecordingServer.

    ``max_range`` and ``cut_after`` imitate the storage proxy: the longest range it answers, and
    the bytes after which it stops sending without closing the connection.
    """

    def __init__(self, server: RecordingServer, *, prefix: str = "", legacy: bool = False) -> None:
        self.server = server
        self.url = server.url + prefix
        self.accepts_legacy = legacy
        self.lifetime = 300.0
        self.refresh_delay = 0.0
        self.refreshes = 0
        self.valid: set[str] = set()
        self.cloud: dict[str, Handler | Reply] = {}
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, dict[str, str]]] = {}
        server.route(prefix + "/api/token/refresh", self._refresh)
        server.route(prefix + "/api/version", Reply(200, b'{"release": "1.23.2"}'))
        server.route(prefix + "/api/", self._guarded(self._api))
        server.route(prefix + "/data/", self._guarded(self._file))
        server.route(prefix + "/tasks/", self._guarded(self._presign))

    def add(self, target: str, body: bytes, **headers: str) -> None:
        self._files[target] = (body, {k.replace("_", "-"): v for k, v in headers.items()})

    def expire_all(self) -> None:
        self.valid.clear()

    def _refresh(self, seen: Seen) -> Reply:
        time.sleep(self.refresh_delay)
        with self._lock:
            self.refreshes += 1
            number = self.refreshes
        if json.loads(seen.body) != {"refresh": PERSONAL_ACCESS_TOKEN}:
            return Reply(401, b'{"detail": "Token is invalid or expired"}')
        now = time.time()
        token = jwt(token_type="access", jti=number, iat=now, exp=now + self.lifetime)
        self.valid.add(token)
        return Reply(200, json.dumps({"access": token}).encode())

    def _guarded(self, handler: Handler) -> Handler:
        def guarded(seen: Seen) -> Reply:
            kind, _, token = seen.headers.get("authorization", "").partition(" ")
            bearer = kind == "Bearer" and token in self.valid
            legacy = kind == "Token" and token == LEGACY_TOKEN and self.accepts_legacy
            if bearer or legacy:
                return handler(seen)
            return Reply(401, b'{"status_code": 401}')

        return guarded

    def _api(self, seen: Seen) -> Reply:
        path = seen.path[len(urlsplit(self.url).path) :]
        if path == "/api/current-user/whoami":
            return Reply(200, b'{"id": 1, "email": "a@b.co"}')
        if path == "/api/tasks/7/":
            return Reply(200, b'{"id": 7, "data": {"image": "s3://media/x.jpg"}}')
        if path == "/api/predictions/" and seen.method == "POST":
            return Reply(201, json.dumps({"id": 3, **json.loads(seen.body)}).encode())
        return Reply(404, b"{}")

    def _file(self, seen: Seen) -> Reply:
        target = seen.target[len(urlsplit(self.url).path) :]
        if target not in self._files:
            return Reply(500 if target.startswith("/data/upload") else 404)
        body, headers = self._files[target]
        return file_reply(seen, body, headers)

    def _presign(self, seen: Seen) -> Reply:
        encoded = parse_qs(urlsplit(seen.target).query)["fileuri"][0]
        uri = base64.urlsafe_b64decode(encoded).decode()
        if uri not in self.cloud:
            return Reply(404)
        found = self.cloud[uri]
        return found(seen) if callable(found) else found


def proxied(
    body: bytes, etag: str, *, max_range: int = 8 * 2**20, cut: int | None = None
) -> Handler:
    """Label Studio's storage proxy: ranges of at most ``max_range`` + 1 bytes, and an answer
    without Range that stops after ``cut`` bytes and hangs (io_storages/proxy_api.py)."""

    def handler(seen: Seen) -> Reply:
        headers = {"ETag": f'"11{etag}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", ""))
        if asked:
            start = int(asked[1])
            end = int(asked[2]) if asked[2] else len(body) - 1
            if start > 0 or asked[2]:
                end = min(end, start + max_range, len(body) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            return Reply(206, body[start : end + 1], headers)
        if seen.headers.get("if-none-match") == headers["ETag"]:
            return Reply(304)
        if cut is not None and cut < len(body):
            return Reply(200, body[:cut], headers, length=len(body), hang=LONGER)
        return Reply(200, body, headers)

    return handler
