"""``s3://bucket/key`` read directly: where buckets are, and boto3's clients for them.

Credentials are searched for by boto3, unless a bucket names a profile.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from botocore import UNSIGNED
from botocore.config import Config
from urllib3.exceptions import HTTPError as Urllib3Error

from backend.media.errors import MediaError, Reason, shown
from backend.media.sources import (
    BodyBrokeOff,
    Deadline,
    Download,
    RangedObject,
    RangeRequest,
    Restart,
    Timeouts,
    Validators,
    host_of,
    parse_content_range,
)
from backend.retries import WORTH_RETRYING, pause_before_retry

_READ_BYTES = 256 * 1024
_LOOK_AGAIN_AFTER_S = 600.0
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_URI = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,62})/(.+)", re.DOTALL)
# At the very end only: keys may hold question marks.
_VERSION = re.compile(r"(.+)\?versionId=([A-Za-z0-9._~+/=-]+)", re.DOTALL)
_NOT_FOUND = ("404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion")
_NOT_ALLOWED = (
    "401", "403", "AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "RequestTimeTooSkewed",
)  # fmt: skip


@dataclass(frozen=True)
class Bucket:
    """How to reach a bucket.

    Attributes:
        endpoint: an S3-compatible server; None leaves it to boto3 (AWS_ENDPOINT_URL_S3, the
            AWS configuration file, else AWS).
        region: None leaves it to boto3, and is us-east-1 where that finds none.
        profile: of the AWS configuration files, with credentials of its own.
        anonymous: send unsigned requests, for public buckets.
        path_style: ``endpoint/bucket/key`` instead of ``bucket.endpoint/key``; None: so for
            everything but AWS.
        requester_pays: agree to pay for the transfer.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    path_style: bool | None = None
    requester_pays: bool = False


@dataclass(frozen=True)
class S3Settings:
    """All buckets: those that are named, and ``default`` for the others."""

    default: Bucket = Bucket()
    buckets: Mapping[str, Bucket] = field(default_factory=dict)

    def of(self, bucket: str) -> Bucket:
        return self.buckets.get(bucket, self.default)

    @property
    def endpoints(self) -> list[str]:
        """The servers that the operator named, here or in boto3's variables."""
        named = [each.endpoint for each in (self.default, *self.buckets.values())]
        named += [os.environ.get(variable) for variable in _ENDPOINT_VARIABLES]
        return [endpoint for endpoint in named if endpoint]


def read_buckets(path: Path, default: Bucket) -> dict[str, Bucket]:
    """The buckets of a JSON file: ``{"<bucket>": {"endpoint": "...", "region": "..."}}``, with
    the attributes of ``Bucket``; what a bucket does not say is as in ``default``.

    Raises:
        ValueError: it cannot be read; the text says what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object with the buckets' names")
    return {name: _bucket(path, name, values, default) for name, values in content.items()}


def _bucket(path: Path, name: str, values: Any, default: Bucket) -> Bucket:
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {name} must be an object")
    flags = {"anonymous", "path_style", "requester_pays"}
    known = {each.name for each in fields(Bucket)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{path}: {name} has {key!r}; known are {', '.join(sorted(known))}")
        if not isinstance(value, bool if key in flags else str):
            kind = "true or false" if key in flags else "a text"
            raise ValueError(f"{path}: {key} of {name} must be {kind}")
    endpoint = values.get("endpoint")
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise ValueError(f"{path}: endpoint of {name} must be a URL such as http://minio:9000")
    return replace(default, **values)


class S3:
    """The S3 services that buckets are on; safe to share between threads.

    Args:
        settings: where the buckets are.
        verify: True, False, or the path of a CA bundle.
    """

    def __init__(
        self, settings: S3Settings, *, timeouts: Timeouts, verify: bool | str = True
    ) -> None:
        self._settings = settings
        self._timeouts = timeouts
        self._verify = verify
        self._lock = threading.Lock()  # all of the following
        self._session = cache(boto3.session.Session)
        self._clients: dict[Bucket, Any] = {}
        # By profile: when to look for credentials again; infinite once there are some.
        self._look_again_at: dict[str | None, float] = {}

    def object(self, uri: str) -> S3Object | None:
        """The object a URI names. Everything after the bucket is the key, as it stands: keys
        may hold spaces, ``#``, ``?``, ``%`` and ``&``. Only ``?versionId=...`` at the end names
        a version of the key.

        Returns:
            None where there are no credentials for the bucket, and it is not anonymous.

        Raises:
            MediaError: it is not of the form ``s3://bucket/key``.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise MediaError(
                f"{shown(uri)} does not have the form s3://bucket/key.", reason=Reason.REFUSED
            )
        name, key = match[1], match[2]
        bucket = self._settings.of(name)
        if not (bucket.anonymous or self._has_credentials(bucket)):
            return None
        version = _VERSION.fullmatch(key)
        parameters = {"Bucket": name, "Key": version[1] if version else key}
        if version:
            parameters["VersionId"] = version[2]
        if bucket.requester_pays:
            parameters["RequestPayer"] = "requester"
        return S3Object(self.client(name), parameters, name=shown(uri), timeouts=self._timeouts)

    def client(self, name: str) -> Any:
        """boto3's client for a bucket, made when it is first needed."""
        bucket = replace(self._settings.of(name), requester_pays=False)
        with self._lock:
            if bucket not in self._clients:
                self._clients[bucket] = self._new_client(bucket)
            return self._clients[bucket]

    def _has_credentials(self, bucket: Bucket) -> bool:
        # botocore remembers what it finds, but not that it found nothing; and looking includes a
        # request to the cloud's metadata service, which may have to time out.
        profile = bucket.profile
        with self._lock:
            if time.monotonic() >= self._look_again_at.get(profile, 0.0):
                found = None
                with suppress(botocore.exceptions.ProfileNotFound):
                    session = self._session(profile_name=profile, region_name=bucket.region)
                    found = session.get_credentials()
                again = time.monotonic() + _LOOK_AGAIN_AFTER_S if found is None else math.inf
                self._look_again_at[profile] = again
            return self._look_again_at[profile] == math.inf

    def _new_client(self, bucket: Bucket) -> Any:
        if bucket.path_style is not None:
            return self._build(bucket, "path" if bucket.path_style else "virtual")
        # Path style for everything but AWS: bucket.minio:9000 resolves nowhere, while
        # minio:9000/bucket works with every server.
        if not bucket.endpoint:
            client = self._build(bucket, "auto")
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
                return client
        return self._build(bucket, "path")

    def _build(self, bucket: Bucket, addressing: str) -> Any:
        session = self._session(profile_name=bucket.profile, region_name=bucket.region)
        config = Config(
            connect_timeout=self._timeouts.connect,
            read_timeout=self._timeouts.read,
            retries={"mode": "standard", "total_max_attempts": 1},  # ``_pause`` decides
            max_pool_connections=16,
            s3={"addressing_style": addressing},
            # Servers other than AWS need not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        if bucket.anonymous:
            config = config.merge(Config(signature_version=UNSIGNED))
        client = session.client(
            "s3",
            region_name=session.region_name or "us-east-1",
            endpoint_url=bucket.endpoint,
            config=config,
            verify=None if self._verify is True else self._verify,
        )
        client.meta.events.register("needs-retry.s3", _pause)
        return client


class S3Object(RangedObject):
    """One object in a bucket.

    Args:
        client: of boto3.
        parameters: of ``get_object``: bucket, key, and version where one is meant.
        name, timeouts: see ``RangedObject``.
    """

    def __init__(
        self, client: Any, parameters: dict[str, str], *, name: str, timeouts: Timeouts
    ) -> None:
        names = [parameters[name] for name in ("Bucket", "Key", "VersionId") if name in parameters]
        identity = " ".join(["s3", client.meta.endpoint_url, *names])
        host = host_of(f"s3://{parameters['Bucket']}/")
        super().__init__(identity=identity, name=name, host=host, timeouts=timeouts)
        self._client = client
        self._parameters = parameters

    def download(self, known: Validators | None) -> Download | None:
        """See ``RemoteObject.download``; what is stored packed is unpacked, as browsers do."""
        answer = super().download(known)
        if answer and answer.validators.size is None:
            return replace(answer, chunks=self._unpacked(answer.chunks))
        return answer

    def _send(self, request: RangeRequest, deadline: Deadline) -> Download | None:
        # Named like the headers, without their dashes.
        wanted = {name.replace("-", ""): value for name, value in request.headers.items()}
        try:
            answer = self._client.get_object(**self._parameters, **wanted)
        except botocore.exceptions.ClientError as error:
            status = _status(error)
            if status == 304 and request.known:
                return None
            if request.start == 0 and _is_no_range(error):
                return Download(iter(()), Validators(size=0))
            if status in (412, 416) and request.version:
                raise Restart from None
            raise self._explain(error) from None
        except botocore.exceptions.BotoCoreError as error:
            raise self._explain_no_answer(error) from None
        except RecursionError:
            # botocore takes it for a bucket in another region, and asks the server where.
            raise MediaError(
                f"S3 at {self._host} redirects to another server instead of answering.",
                "Set S3_ENDPOINT_URL to the address that it is really served at.",
                reason=Reason.FAILED,
            ) from None
        start, size = 0, answer.get("ContentLength")
        if "ContentRange" in answer:
            start, size = parse_content_range(answer["ContentRange"])
        packed = answer.get("ContentEncoding") == "gzip"
        modified = str(answer["LastModified"].timestamp()) if "LastModified" in answer else None
        return Download(
            _body(answer["Body"], deadline),
            Validators(answer.get("ETag"), modified, None if packed else size),
            start,
            ranged="ContentRange" in answer and not packed,
            close=answer["Body"].close,
        )

    def _unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        with suppress(zlib.error):
            for chunk in chunks:
                while chunk:
                    yield decoder.decompress(chunk, _READ_BYTES)
                    chunk = decoder.unconsumed_tail
            yield decoder.flush()
        if not decoder.eof:
            raise MediaError(
                f"{self.name} says that it is compressed, but is damaged or is not.",
                "Correct its Content-Encoding.",
                reason=Reason.DAMAGED,
            )

    def _explain(self, error: botocore.exceptions.ClientError) -> MediaError:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        where = f"S3 ({self._host})"
        if code in _NOT_FOUND:
            return MediaError(
                f"{where} has no {self.name} ({code}).",
                "Check the bucket, the key and the endpoint.",
                reason=Reason.NOT_FOUND,
            )
        if code in _NOT_ALLOWED:
            return MediaError(
                f"{where} refuses {self.name} to the backend's credentials ({code}).",
                "They need s3:GetObject for that bucket (s3:GetObjectVersion for a version).",
                reason=Reason.UNAUTHORIZED,
            )
        return MediaError(f"{where} answered {code} for {self.name}.", reason=Reason.FAILED)

    def _explain_no_answer(self, error: botocore.exceptions.BotoCoreError) -> MediaError:
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return MediaError(
                f"The backend has no S3 credentials for {self.name}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or S3_ANONYMOUS=true for a "
                "public bucket.",
                reason=Reason.UNAUTHORIZED,
            )
        hint = "Check S3_ENDPOINT_URL and the backend's network."
        if isinstance(error, botocore.exceptions.SSLError):
            hint = "Set CA_BUNDLE to the certificates that signed its own."
        return MediaError(
            f"S3 at {self._host} cannot be reached for {self.name} ({type(error).__name__}).",
            hint,
            reason=Reason.UNREACHABLE,
        )

    @property
    def _host(self) -> str | None:
        return urlsplit(self._client.meta.endpoint_url).hostname


def _pause(
    attempts: int, response: tuple[Any, Any] | None, caught_exception: Exception | None, **_: Any
) -> float | None:
    """What botocore asks after every attempt: how long to wait for the next; None for none."""
    if response is not None and response[0].status_code in WORTH_RETRYING:
        return pause_before_retry(attempts, response[0].headers.get("Retry-After", ""))
    passing = isinstance(caught_exception, botocore.exceptions.HTTPClientError)
    if passing and not isinstance(caught_exception, botocore.exceptions.SSLError):
        return pause_before_retry(attempts)
    return None


def _body(body: Any, deadline: Deadline) -> Iterator[bytes]:
    """The body as it arrives: botocore itself would wait for all that is asked for, however
    slowly it comes."""
    try:
        with body as raw:  # urllib3's
            while chunk := deadline.receive(partial(raw.read1, _READ_BYTES)):
                yield chunk
                deadline.check()
    except (Urllib3Error, OSError):
        raise BodyBrokeOff from None


def _is_no_range(error: botocore.exceptions.ClientError) -> bool:
    """Whether a server refuses a range: of an empty object there is none, and some refuse one
    that is longer than the object."""
    code = error.response.get("Error", {}).get("Code")
    return _status(error) == 416 or (_status(error) == 400 and code == "InvalidArgument")


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
