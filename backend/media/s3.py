"""``s3://bucket/key`` read directly, with boto3's own search for credentials."""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.config
import botocore.exceptions
from botocore import UNSIGNED
from botocore.config import Config

from backend.media.errors import MediaError, Reason, shown
from backend.media.http import Deadline, Timeouts
from backend.media.source import Download, Restart, Unchanged, Validators

_READ_BYTES = 256 * 1024
_RESUMES_WITHOUT_PROGRESS = 2
_LOOK_AGAIN_AFTER_S = 600.0
_URI = re.compile(r"s3a?://([A-Za-z0-9][A-Za-z0-9._-]{1,62})/(.+)", re.DOTALL)
_NOT_FOUND = ("404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion")
_NOT_ALLOWED = (
    "401", "403", "AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "RequestTimeTooSkewed",
)  # fmt: skip


@dataclass(frozen=True)
class S3Settings:
    """How to reach S3.

    Attributes:
        endpoint: an S3-compatible server; None leaves it to boto3 (AWS_ENDPOINT_URL_S3, the
            AWS configuration file, else AWS).
        region: None leaves it to boto3, and is us-east-1 where that finds none.
        anonymous: send unsigned requests, for public buckets.
    """

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False


class S3:
    """One S3 service; safe to share between threads. Nothing is looked up before it is needed."""

    def __init__(self, settings: S3Settings, *, timeouts: Timeouts) -> None:
        self._settings = settings
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._client: Any = None
        self._found = False
        self._look_again_at = 0.0

    def available(self) -> bool:
        """Whether requests can be made: anonymous, or credentials were found."""
        with self._lock:
            if self._settings.anonymous:
                return True
            if self._session is None:
                self._session = boto3.session.Session(region_name=self._settings.region)
            # botocore remembers what it finds, but not that it found nothing; and looking
            # includes a request to the cloud's metadata service, which may have to time out.
            if not self._found and time.monotonic() >= self._look_again_at:
                self._found = self._session.get_credentials() is not None
                self._look_again_at = time.monotonic() + _LOOK_AGAIN_AFTER_S
            return self._found

    def object(self, uri: str) -> S3Object:
        """The object a URI names. Everything after the bucket is the key, as it stands: keys
        may hold spaces, ``#``, ``?``, ``%`` and ``&``.

        Raises:
            MediaError: it is not of the form ``s3://bucket/key``.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise MediaError(
                f"{shown(uri)} does not have the form s3://bucket/key.", reason=Reason.REFUSED
            )
        return S3Object(self, match[1], match[2], uri, self._timeouts)

    def client(self) -> Any:
        """The boto3 client; made on first use."""
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> Any:
        session = self._session or boto3.session.Session(region_name=self._settings.region)
        region = session.region_name or "us-east-1"

        # Path style for everything but AWS: bucket.minio:9000 resolves nowhere, while
        # minio:9000/bucket works with every server.
        def build(addressing: str) -> Any:
            config = Config(
                connect_timeout=self._timeouts.connect,
                read_timeout=self._timeouts.read,
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=16,
                s3={"addressing_style": addressing},
                # Servers other than AWS need not know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            if self._settings.anonymous:
                config = config.merge(Config(signature_version=UNSIGNED))
            return session.client(
                "s3", region_name=region, endpoint_url=self._settings.endpoint, config=config
            )

        if self._settings.endpoint:
            return build("path")
        client = build("auto")
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return client
        return build("path")


class S3Object:
    """One object in a bucket; a ``RemoteObject``."""

    def __init__(self, service: S3, bucket: str, key: str, uri: str, timeouts: Timeouts) -> None:
        self._service = service
        self._bucket = bucket
        self._key = key
        self._what = shown(uri)
        self._timeouts = timeouts

    @property
    def identity(self) -> str:
        """Endpoint, bucket and key."""
        endpoint = self._service.client().meta.endpoint_url
        return f"s3 {endpoint} {self._bucket} {self._key}"

    def download(self, known: Validators | None) -> Download | Unchanged:
        """See ``RemoteObject.download``."""
        deadline = Deadline(self._timeouts.total, self._what)
        condition = {"IfNoneMatch": known.etag} if known and known.etag else {}
        try:
            answer = self._service.client().get_object(
                Bucket=self._bucket, Key=self._key, **condition
            )
        except botocore.exceptions.ClientError as error:
            if _status(error) == 304 and known:
                return Unchanged()
            raise self._explain(error) from None
        except botocore.exceptions.BotoCoreError as error:
            raise self._explain_no_answer(error) from None
        packed = answer.get("ContentEncoding") == "gzip"
        current = Validators(
            answer.get("ETag"),
            str(answer["LastModified"].timestamp()) if "LastModified" in answer else None,
            None if packed else answer.get("ContentLength"),
        )
        if known and known.same_object(current):
            answer["Body"].close()
            return Unchanged()
        chunks = self._body(answer["Body"], current, deadline)
        return Download(self._unpacked(chunks) if packed else chunks, current)

    def _body(self, body: Any, version: Validators, deadline: Deadline) -> Iterator[bytes]:
        """The complete body, resumed where it breaks off."""
        position, barren = 0, 0
        try:
            while True:
                before = position
                try:
                    while chunk := body.read(_READ_BYTES):
                        position += len(chunk)
                        yield chunk
                        deadline.check()
                    return
                except (botocore.exceptions.BotoCoreError, OSError):
                    barren = 0 if position > before else barren + 1
                    if barren > _RESUMES_WITHOUT_PROGRESS or not version.etag:
                        raise MediaError(
                            f"{self._what} broke off after {position} of {version.size} bytes.",
                            "Try again; if it stays, the connection to S3 is unreliable.",
                            reason=Reason.TRUNCATED,
                        ) from None
                body.close()
                deadline.check()
                body = self._resume(position, version)
        finally:
            body.close()

    def _unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What a browser makes of an object that was stored with Content-Encoding: gzip."""
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        damaged = False
        try:
            for chunk in chunks:
                while chunk:
                    yield decoder.decompress(chunk, _READ_BYTES)
                    chunk = decoder.unconsumed_tail
            yield decoder.flush()
        except zlib.error:
            damaged = True
        if damaged or not decoder.eof:
            raise MediaError(
                f"{self._what} says that it is compressed, but is damaged or is not.",
                "Correct its Content-Encoding.",
                reason=Reason.DAMAGED,
            )

    def _resume(self, position: int, version: Validators) -> Any:
        try:
            answer = self._service.client().get_object(
                Bucket=self._bucket,
                Key=self._key,
                Range=f"bytes={position}-",
                IfMatch=version.etag,
            )
        except botocore.exceptions.ClientError as error:
            if _status(error) in (412, 416):
                raise Restart from None
            raise self._explain(error) from None
        except botocore.exceptions.BotoCoreError as error:
            raise self._explain_no_answer(error) from None
        if answer.get("ETag") != version.etag or "ContentRange" not in answer:
            answer["Body"].close()
            raise Restart
        return answer["Body"]

    def _explain(self, error: botocore.exceptions.ClientError) -> MediaError:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        where = f"S3 ({urlsplit(self._service.client().meta.endpoint_url).hostname})"
        if code in _NOT_FOUND:
            return MediaError(
                f"{where} has no {self._what} ({code}).",
                "Check the bucket, the key and the endpoint.",
                reason=Reason.NOT_FOUND,
            )
        if code in _NOT_ALLOWED:
            return MediaError(
                f"{where} refuses {self._what} to the backend's credentials ({code}).",
                "They need s3:GetObject for that bucket.",
                reason=Reason.UNAUTHORIZED,
            )
        return MediaError(f"{where} answered {code} for {self._what}.", reason=Reason.FAILED)

    def _explain_no_answer(self, error: botocore.exceptions.BotoCoreError) -> MediaError:
        host = urlsplit(self._service.client().meta.endpoint_url).hostname
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return MediaError(
                f"The backend has no S3 credentials for {self._what}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or S3_ANONYMOUS=true for a "
                "public bucket.",
                reason=Reason.UNAUTHORIZED,
            )
        return MediaError(
            f"S3 at {host} cannot be reached for {self._what} ({type(error).__name__}).",
            "Check S3_ENDPOINT_URL and the backend's network.",
            reason=Reason.UNREACHABLE,
        )


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
