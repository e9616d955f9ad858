"""One sample of each kind of media address that a project's tasks hold."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from backend.doctor.findings import Finding, broken, ok
from backend.labelstudio.media_refs import MissingMedia, media_uri
from backend.labelstudio.tags import LabelConfig, MediaTag, VideoTag
from backend.media.errors import MediaError, shown
from backend.media.resolver import MediaResolver
from backend.pixels.sandbox.image_decoding import ImageDecoder
from backend.pixels.sandbox.video_decoding import open_video
from backend.pixels.video_limits import VideoError

MAX_KINDS = 12
SAMPLE_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """A media address of a task.

    Attributes:
        kind: of address, such as ``s3://bucket`` or ``uploads``.
        is_video: whether a Video tag shows it.
    """

    kind: str
    uri: str
    task: int | None
    is_video: bool


def address_kind(uri: str) -> str:
    """What an address has in common with others that are read in the same way, from one place."""
    if uri[:5].lower() == "data:":
        return "data: addresses"
    if uri.startswith("/data/local-files"):
        return "local files"
    if uri.startswith("/"):
        return "uploads"
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return "addresses that cannot be read"
    return f"{parts.scheme.lower()}://{host}" if parts.scheme else "addresses without a scheme"


def media_findings(
    resolver: MediaResolver,
    decoder: ImageDecoder,
    config: LabelConfig,
    tasks: Sequence[Mapping[str, Any]],
) -> Iterator[Finding]:
    """Whether the media of ``tasks`` can be read: each kind of address once, and each way in which
    a task lacks one."""
    samples: dict[tuple[str, bool], Sample] = {}
    missing: dict[str, object] = {}
    tags: list[MediaTag] = [*config.images, *config.videos]
    for task, tag in itertools.product(tasks, tags):
        data, number = task.get("data"), task.get("id")
        try:
            uri = media_uri(data if isinstance(data, Mapping) else {}, tag)
        except MissingMedia as error:
            missing.setdefault(str(error), number)
            continue
        kind, is_video = address_kind(uri), isinstance(tag, VideoTag)
        if len(samples) < MAX_KINDS:
            known = number if type(number) is int else None
            samples.setdefault((kind, is_video), Sample(kind, uri, known, is_video))
    if not tasks:
        yield broken("media", "the project has no tasks to read media of", "import one")
    for reason, number in missing.items():
        yield broken(
            f"media of task {number}", reason, "correct the label config, or import it again"
        )
    for sample in samples.values():
        yield _read(resolver, decoder, sample)


def _read(resolver: MediaResolver, decoder: ImageDecoder, sample: Sample) -> Finding:
    """What comes of reading a sample, or that it took too long: a server that hangs must not stop
    us."""
    subject, task = f"media in {sample.kind}", f"task {sample.task}"
    found: list[Finding] = []

    def read() -> None:
        try:
            if sample.is_video:
                size, what = _video(resolver, sample)
            else:
                size, what = _picture(resolver, decoder, sample)
            found.append(ok(subject, f"{task}: {shown(sample.uri)} is {what}, {size / 1e6:.1f} MB"))
        except (MediaError, VideoError) as error:
            found.append(broken(subject, f"{task}: {error}"))
        except Exception as error:  # noqa: BLE001 - thread boundary: it becomes the finding
            found.append(broken(subject, f"{task}: {type(error).__name__}"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(SAMPLE_SECONDS)
    if found:
        return found[0]
    return broken(
        subject,
        f"{task}: {shown(sample.uri)} was not read within {SAMPLE_SECONDS:.0f} s",
        "check the network between this machine and that server",
    )


def _picture(resolver: MediaResolver, decoder: ImageDecoder, sample: Sample) -> tuple[int, str]:
    file = resolver.fetch(sample.uri, task_id=sample.task)
    height, width = decoder.load(file.path).shape[:2]
    return file.size, f"a picture of {width}x{height}"


def _video(resolver: MediaResolver, sample: Sample) -> tuple[int, str]:
    """Only the parts of the file that the first frame needs are fetched, where that is possible."""
    with (
        resolver.open(sample.uri, task_id=sample.task) as stream,
        open_video(stream, read_ahead=0) as frames,
    ):
        height, width = frames[0].shape[:2]
        return stream.size, f"a video of {len(frames)} frames of {width}x{height}"
