"""From a task's media address to a file: if Label Studio can show it, it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from backend.labelstudio.client import LabelStudioClient
from backend.media.addresses import AddressPolicy, parse_http_url
from backend.media.cache import CacheStats, MediaCache, MediaFile
from backend.media.errors import MediaError, Reason, shown
from backend.media.http import HttpObject, HttpTransport, split_signature
from backend.media.label_studio_media import CLOUD_SCHEMES, LabelStudioMedia, local_files_path
from backend.media.local_files import LocalFiles
from backend.media.proxy import Proxy
from backend.media.s3 import S3, S3Settings
from backend.media.sources import DataUri, RemoteObject, Timeouts, host_of
from backend.media.stream import MediaStream, StreamCache

Found = TypeVar("Found")

_MAX_ADDRESS = 8192  # characters; data: URIs may be longer
# Failures after which another way to the same object may still work.
_TRY_ELSEWHERE = (Reason.NOT_FOUND, Reason.UNAUTHORIZED, Reason.UNREACHABLE, Reason.REFUSED)


class MediaResolver:
    """Fetches media through the disk cache; safe to share between threads.

    Args:
        cache_directory: where downloads are kept.
        cache_bytes: how much is kept.
        label_studio: the Label Studio whose uploads, local files and storages are read.
        local_root: Label Studio's local files folder, where it is mounted here too.
        s3: where buckets are.
        max_bytes: objects larger than this are not fetched whole.
        max_stream_bytes: objects larger than this are not read in ranges either.
        allowed_private_hosts: see ``AddressPolicy``.
        cache_age, fresh_seconds: ``max_age`` and ``fresh_seconds`` of ``MediaCache``.
        verify: True, False, or the path of a CA bundle, for http(s).
        proxy: reaches web servers by https.
    """

    def __init__(
        self,
        *,
        cache_directory: Path,
        cache_bytes: int,
        label_studio: LabelStudioClient | None = None,
        local_root: Path | None = None,
        cache_age: float | None = None,
        s3: S3Settings | None = None,
        max_bytes: int = 512 * 1024 * 1024,
        max_stream_bytes: int = 16 * 1024**3,
        allowed_private_hosts: Iterable[str] = (),
        fresh_seconds: float = 300.0,
        timeouts: Timeouts | None = None,
        verify: bool | str = True,
        proxy: Proxy | None = None,
    ) -> None:
        timeouts, s3 = timeouts or Timeouts(), s3 or S3Settings()
        trusted = [label_studio.url] if label_studio else []
        trusted += s3.endpoints
        policy = AddressPolicy(trusted_urls=trusted, private_hosts=allowed_private_hosts)
        self._transport = HttpTransport(policy, timeouts=timeouts, verify=verify, proxy=proxy)
        self._label_studio = (
            LabelStudioMedia(label_studio, self._transport) if label_studio else None
        )
        sizes = {"max_bytes": max_bytes, "max_stream_bytes": max_stream_bytes}
        self._local = LocalFiles(local_root, **sizes) if local_root else None
        self._s3 = S3(s3, timeouts=timeouts, verify=verify)
        self._max_bytes = max_bytes
        self._cache = MediaCache(
            cache_directory,
            max_bytes=cache_bytes,
            max_object_bytes=max_bytes,
            fresh_seconds=fresh_seconds,
            max_age=cache_age,
        )
        self._streams = StreamCache(self._cache, max_bytes=max_stream_bytes)

    @property
    def stats(self) -> CacheStats:
        """What was fetched and what came from disk."""
        return self._cache.stats

    @property
    def stored_bytes(self) -> int:
        """How much the cache holds."""
        return self._cache.stored_bytes

    def close(self) -> None:
        """Let go of the cache; nothing can be fetched afterwards."""
        self._streams.close()
        self._cache.close()

    def fetch(self, uri: str, *, task_id: int | None = None) -> MediaFile:
        """The file behind a media address of a task.

        Args:
            uri: as it stands in the task's data: a path on Label Studio, ``s3://``, ``gs://``,
                ``azure-blob://``, ``http(s)://`` or ``data:``.
            task_id: the task; needed where Label Studio must resolve a cloud storage address.

        Raises:
            MediaError: it cannot be had; the text says why and what to do.
        """
        found = self._file_or_sources(uri, task_id, whole=True)
        if isinstance(found, MediaFile):
            return found
        return _first_that_works(found, self._cache.fetch)

    def open(self, uri: str, *, task_id: int | None = None) -> MediaStream:
        """The media as a seekable binary file of which only what is read is fetched, where the
        source answers ranges; elsewhere it is fetched whole.

        Args:
            uri, task_id: as for ``fetch``.

        Raises:
            MediaError: it cannot be had; the text says why and what to do.
        """
        found = self._file_or_sources(uri, task_id, whole=False)
        if isinstance(found, MediaFile):
            return MediaStream.of_file(found)
        return _first_that_works(found, self._streams.open)

    def at_hand(self, uri: str, *, task_id: int | None = None) -> MediaFile | None:
        """The file, where no server and no mounted folder need be waited for: it is in the cache
        and its source need not be asked, or it is in the address itself.

        Args:
            uri, task_id: as for ``fetch``.

        Raises:
            MediaError: as ``fetch``.
        """
        sources = self._sources(uri, task_id)
        data = next((source for source in sources if isinstance(source, DataUri)), None)
        return self._cache.fetch(data) if data else self._fresh(sources)

    def drop_damaged(self, file: MediaFile) -> bool:
        """Whether a file that cannot be decoded is not what was fetched; then it has left the cache
        and ``fetch`` brings it anew. Raises as ``fetch`` does."""
        return self._cache.drop_damaged(file)

    def stream_at_hand(self, uri: str, *, task_id: int | None = None) -> MediaStream | None:
        """The same as a file of which, where it is read in ranges, some may be missing."""
        if file := self.at_hand(uri, task_id=task_id):
            return MediaStream.of_file(file)
        streams = map(self._streams.fresh, self._sources(uri, task_id))
        return next((stream for stream in streams if stream), None)

    def _sources(self, uri: str, task_id: int | None) -> list[RemoteObject]:
        """The ways to an object but for the mounted folder, which is looked at first."""
        self._refuse_malformed(uri)
        mounted = self._local is not None and self._path_in_folder(uri)
        return [] if mounted else self._candidates(uri, task_id)

    def _file_or_sources(
        self, uri: str, task_id: int | None, *, whole: bool
    ) -> MediaFile | list[RemoteObject]:
        """The file, where it is stored and no source need be asked; else the sources, the best
        first."""
        self._refuse_malformed(uri)
        local = self._from_mounted_folder(uri, whole=whole)
        if local:
            return local
        candidates = self._candidates(uri, task_id)
        return self._fresh(candidates) or candidates

    def _fresh(self, candidates: list[RemoteObject]) -> MediaFile | None:
        return next((found for found in map(self._cache.fresh, candidates) if found), None)

    def _refuse_malformed(self, uri: str) -> None:
        is_data = uri[:5].lower() == "data:"
        if len(uri) > (self._max_bytes * 2 if is_data else _MAX_ADDRESS):
            raise MediaError("The task's media address is too long.", reason=Reason.REFUSED)
        if not uri.strip() or (any(char in uri for char in "\0\r\n") and not is_data):
            raise MediaError(
                "The task's media address is empty or holds control characters.",
                "Check the task's data.",
                reason=Reason.REFUSED,
            )

    def _from_mounted_folder(self, uri: str, *, whole: bool) -> MediaFile | None:
        """The file where it lies, if the local files folder is mounted and holds it."""
        if self._local is None or not (relative := self._path_in_folder(uri)):
            return None
        try:
            return self._local.find(relative, whole=whole)
        except MediaError as error:
            if error.reason is Reason.NOT_FOUND and self._label_studio:
                return None
            raise

    def _path_in_folder(self, uri: str) -> str | None:
        """The file of Label Studio's local files folder that an address names. An address of
        another host may be an old name of Label Studio, or anybody's: these are asked."""
        is_path = uri.startswith("/") and not uri.startswith("//")
        own = is_path or (self._label_studio is not None and self._label_studio.owns(uri))
        return local_files_path(uri) if own else None

    def _candidates(self, uri: str, task_id: int | None) -> list[RemoteObject]:
        """The ways to an object, the best first."""
        scheme = uri.partition(":")[0].lower()
        if scheme == "data":
            return [DataUri(uri)]
        if "://" in uri and scheme in (*CLOUD_SCHEMES, "s3a"):
            return self._cloud_candidates(scheme, uri, task_id)
        served = self._label_studio.served(uri) if self._label_studio else None
        if uri.startswith("/") and not uri.startswith("//"):
            if served is None:
                raise MediaError(
                    f"{shown(uri)} is on Label Studio, whose address the backend does not know.",
                    "Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY of the backend.",
                    reason=Reason.REFUSED,
                )
            return [served]
        if scheme not in ("http", "https"):
            raise MediaError(
                f"The backend does not read media from {shown(uri)}.",
                "It reads Label Studio uploads and local files, s3://, gs://, azure-blob://, "
                "http(s):// and data: addresses.",
                reason=Reason.REFUSED,
            )
        url = parse_http_url(uri)
        unsigned, signature = split_signature(url.url)
        direct = HttpObject(
            self._transport,
            url.url,
            identity=f"http {unsigned}",
            name=shown(uri),
            host=host_of(url.url),
            proof=signature,
        )
        if served is None:
            return [direct]
        return [served, direct] if served.is_alias else [served]

    def _cloud_candidates(self, scheme: str, uri: str, task_id: int | None) -> list[RemoteObject]:
        """boto3 where the backend has credentials of its own, and Label Studio."""
        ways: list[RemoteObject] = []
        is_s3 = scheme in ("s3", "s3a")
        plain = f"{'s3' if is_s3 else scheme}://{uri.partition('://')[2]}"
        if is_s3 and (own := self._s3.object(plain)):
            ways.append(own)
        if self._label_studio and task_id is not None:
            ways.append(self._label_studio.cloud(plain, task_id))
        if ways:
            return ways
        raise MediaError(
            f"The backend has no way to read {shown(uri)}.",
            "Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY so that Label Studio resolves it"
            + (", or give the backend AWS credentials." if is_s3 else "."),
            reason=Reason.UNAUTHORIZED,
        )


def _first_that_works(
    candidates: list[RemoteObject], read: Callable[[RemoteObject], Found]
) -> Found:
    failures: list[MediaError] = []
    for source in candidates:
        try:
            return read(source)
        except MediaError as error:
            failures.append(error)
            if error.reason not in _TRY_ELSEWHERE:
                break
    if len(failures) == 1:
        raise failures[0]
    sentences = " ".join(dict.fromkeys(failure.sentence for failure in failures))
    raise MediaError(sentences, failures[-1].hint, reason=failures[-1].reason)
