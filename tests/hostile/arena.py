"""Where the attacks take place: a service's resolver and decoders, with everything around them
watched that an attack could be after."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.media_refs import MissingMedia
from backend.media.errors import MediaError
from backend.media.resolver import MediaResolver
from backend.media.sources import Timeouts
from backend.pixels.sandbox.image_decoding import ImageDecoder
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.video_limits import VideoError, VideoLimits
from benchmarks.support.recording_server import RecordingServer, Reply
from tests.media.servers import PERSONAL_ACCESS_TOKEN, FakeLabelStudio
from tests.waiting import PATIENCE

SECRET = "c0ffee5ec2e7" * 4
TASK = 7
MAX_BYTES = 8 << 20
MAX_PIXELS = 4_000_000
LIMITS = VideoLimits(max_pixels=4_000_000, max_frames=5_000, max_duration=3600.0)

# boto3 would look for credentials in this machine's files, and ask the metadata service for them.
NO_CLOUD = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "AWS_PROFILE": "",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}

Conversation = Callable[[socket.socket], None]


class RawServer:
    """Says whatever a script says, HTTP or not, to each connection."""

    def __init__(self) -> None:
        self.script: Conversation = lambda connection: None
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._stop = False
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._stop = True
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(20)
            try:
                connection.recv(65536)
                self.script(connection)
            except OSError:
                pass  # hung up, which is what it should do


@dataclass
class Watch:
    """What happened during one attack that should not have, and what may be looked at."""

    connected: list[tuple[str, int]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How an attack ended.

    Attributes:
        text: the message for the annotator, or what was decoded.
        refused: whether it was a message.
        violations: the rules that were broken; empty when all is well.
    """

    text: str
    refused: bool
    seconds: float
    violations: list[str]


class Arena:
    """See the module.

    Attributes:
        photos: a server that task data may point to.
        raw: another one, which need not speak HTTP.
        forbidden: a server on this machine that it may not, where a request is a break-in.
        root: the local files folder; ``outside`` lies beside it.
        dns: host names under ``.test`` and the addresses they resolve to, one list per question,
            the last one for all further questions.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.photos, self.forbidden, studio = (
            RecordingServer(),
            RecordingServer(),
            RecordingServer(),
        )
        self.raw = RawServer()
        for server in (self.photos, self.forbidden, studio, self.raw):
            self._stack.callback(server.close)
        self.forbidden.route("/", Reply(200, b"internal " + SECRET.encode()))
        self.studio = FakeLabelStudio(studio)
        self.root, self.outside = folder / "files", folder / "outside"
        self.cache = folder / "cache"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "passwords.txt").write_text(SECRET)
        (self.root / "folder").mkdir()
        for name, target in (
            ("link.jpg", self.outside / "passwords.txt"),
            ("linked", self.outside),
            ("twice.jpg", self.root / "link.jpg"),
            ("loop.jpg", self.root / "loop.jpg"),
            ("zero.jpg", Path("/dev/zero")),
        ):
            (self.root / name).symlink_to(target)
        os.mkfifo(self.root / "pipe.jpg")
        self.dns: dict[str, list[list[str]]] = {}
        allowed = [url.removeprefix("http://") for url in (self.photos.url, self.raw.url)]
        self._trusted = {*allowed, studio.url.removeprefix("http://")}
        self.resolver = self._resolver(allowed, Timeouts(PATIENCE, PATIENCE, PATIENCE))
        self.hasty_resolver = self._resolver(allowed, Timeouts(0.7, 0.7, 1.5))
        self.decoder = self._decoder(PATIENCE)
        self.hasty_decoder = self._decoder(4.0)
        self._watch = Watch()
        self._stack.enter_context(mock.patch.dict(os.environ, NO_CLOUD))
        self._install()

    def close(self) -> None:
        self._stack.close()

    def _resolver(self, allowed: list[str], timeouts: Timeouts) -> MediaResolver:
        made = MediaResolver(
            cache_directory=self.cache,
            cache_bytes=4 * MAX_BYTES,
            label_studio=LabelStudioClient(self.studio.url, PERSONAL_ACCESS_TOKEN),
            local_root=self.root,
            max_bytes=MAX_BYTES,
            allowed_private_hosts=allowed,
            timeouts=timeouts,
        )
        self._stack.callback(made.close)
        return made

    def _decoder(self, seconds: float) -> ImageDecoder:
        made = ImageDecoder(max_pixels=MAX_PIXELS, warm=1, seconds=seconds)
        self._stack.callback(made.close)
        return made

    # --- what an attacker makes the service do -------------------------------------------------

    def fetch(self, uri: str, *, hasty: bool = False) -> str:
        """Fetch what a task points to; ``hasty`` where its time is to run out."""
        resolver = self.hasty_resolver if hasty else self.resolver
        return f"fetched {resolver.fetch(uri, task_id=TASK).size} bytes"

    def image(self, uri: str, *, hasty: bool = False) -> str:
        """Fetch it and decode it as an image; ``hasty`` as above."""
        decoder = self.hasty_decoder if hasty else self.decoder
        pixels = decoder.load(self.resolver.fetch(uri, task_id=TASK).path)
        return f"shows {pixels.shape[1]} x {pixels.shape[0]}"

    def image_or_message(self, uri: str) -> str:
        """As ``image``, where a refusal is an answer like any other."""
        try:
            return self.image(uri)
        except MediaError as error:
            return str(error)

    def video(self, uri: str) -> str:
        """Fetch it and decode it as a video: the first frame, the last, and one between."""
        file = self.resolver.fetch(uri, task_id=TASK)
        with (
            file.path.open("rb") as opened,
            open_video(opened, limits=LIMITS, read_ahead=0) as frames,
        ):
            for index in (0, len(frames) - 1, len(frames) // 2):
                assert frames[index].shape == (frames.height, frames.width, 3)
            return f"plays {len(frames)} frames of {frames.width} x {frames.height}"

    def read_through(self, uri: str) -> str:
        """Open it as a stream and read its end, then its beginning."""
        with self.resolver.open(uri, task_id=TASK) as stream:
            stream.seek(-min(1000, stream.size), os.SEEK_END)
            count = len(stream.read())
            stream.seek(0)
            while piece := stream.read(1 << 20):
                count += len(piece)
            return f"read {count} bytes"

    def serve(self, body: bytes, **reply: Any) -> str:
        """An address, signed, under which the attacker's server has ``body``."""
        self.photos.route("/media", Reply(200, body, **reply))
        return f"{self.photos.url}/media/{time.monotonic_ns()}.bin?X-Amz-Signature={SECRET}"

    def say(self, script: Conversation) -> str:
        """An address where ``script`` answers."""
        self.raw.script = script
        return f"{self.raw.url}/{time.monotonic_ns()}.jpg?X-Amz-Signature={SECRET}"

    # --- watching ------------------------------------------------------------------------------

    def run(self, attack: Callable[[Arena], str]) -> Outcome:
        """Let an attack happen, and look at what it did."""
        self._watch = watch = Watch()
        before = self._listing()
        requests = len(self.forbidden.seen), len(self.photos.seen)
        began = time.monotonic()
        violations = []
        try:
            text, refused = attack(self), False
        except (MediaError, MissingMedia, VideoError) as error:
            text, refused = str(error), True
        except AssertionError as error:
            text, refused = "", False
            violations = [str(error)]
        seconds = time.monotonic() - began
        violations += [f"connected to {host}:{port}" for host, port in watch.connected]
        violations += [f"wrote {path}" for path in watch.written]
        violations += [f"changed {path}" for path in sorted(before ^ self._listing())]
        if len(self.forbidden.seen) > requests[0]:
            violations.append("reached the forbidden server")
        sent = [seen.headers for seen in self.photos.seen[requests[1] :]]
        if any("authorization" in headers or "cookie" in headers for headers in sent):
            violations.append("sent credentials or cookies to the attacker")
        for place, lines in (("message", [text]), ("log", watch.log)):
            if any(secret in line for line in lines for secret in (SECRET, PERSONAL_ACCESS_TOKEN)):
                violations.append(f"a secret is in the {place}")
        if not text.isprintable() or len(text) > 700:
            violations.append("the message is too long, or holds control characters")
        return Outcome(text, refused, seconds, violations)

    def _listing(self) -> set[str]:
        folders = (self.root, self.outside)
        return {f"{path} {path.lstat().st_size}" for top in folders for path in top.rglob("*")}

    def _install(self) -> None:
        real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

        def connect(sock: socket.socket, address: Any) -> None:
            if isinstance(address, tuple) and f"{address[0]}:{address[1]}" not in self._trusted:
                if not _public(address[0]):
                    self._watch.connected.append((str(address[0]), int(address[1])))
                raise ConnectionRefusedError(111, "the arena has no way out")
            real_connect(sock, address)

        def lookup(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
            if isinstance(host, str) and host.endswith(".test"):
                answers = self.dns[host]
                found = answers.pop(0) if len(answers) > 1 else answers[0]
                family = {True: socket.AF_INET6, False: socket.AF_INET}
                return [
                    (family[":" in text], socket.SOCK_STREAM, 6, "", (text, port)) for text in found
                ]
            if host in ("localhost", "localhost."):
                return real_lookup("127.0.0.1", port, *args, **options)
            options["flags"] = socket.AI_NUMERICHOST
            return real_lookup(host, port, *args, **options)

        self._stack.enter_context(mock.patch.object(socket.socket, "connect", connect))
        self._stack.enter_context(mock.patch.object(socket, "getaddrinfo", lookup))
        handler = _Recorder(self)
        logging.getLogger().addHandler(handler)
        self._stack.callback(logging.getLogger().removeHandler, handler)
        _audited.append(self)
        self._stack.callback(_audited.remove, self)
        _install_audit_hook()

    def note_log(self, line: str) -> None:
        self._watch.log.append(line)

    def note_write(self, path: str) -> None:
        if not Path(path).is_relative_to(self.cache) and path != os.devnull:
            self._watch.written.append(path)


def _public(address: str) -> bool:
    """Addresses that an attack may make the service try: nobody is there in the arena."""
    return address in ("8.8.8.8", "2606:4700:4700::1111")


class _Recorder(logging.Handler):
    def __init__(self, arena: Arena) -> None:
        super().__init__(logging.DEBUG)
        self._arena = arena

    def emit(self, record: logging.LogRecord) -> None:
        self._arena.note_log(record.getMessage())


_audited: list[Arena] = []
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _install_audit_hook() -> None:
    """Tell the arenas of files opened for writing. Such hooks stay until the process ends."""
    if any(getattr(hook, "installed", False) for hook in (_install_audit_hook,)):
        return

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _audited:
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & _WRITING:
                for arena in _audited:
                    arena.note_write(path)

    sys.addaudithook(hook)
    _install_audit_hook.installed = True  # type: ignore[attr-defined]


@contextmanager
def arena_in(folder: Path) -> Iterator[Arena]:
    made = Arena(folder)
    try:
        yield made
    finally:
        made.close()
