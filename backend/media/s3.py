"""``s3://bucket/key`` read directly, with boto3's own search for credentials."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions

from backend.media.errors import MediaError, Reason, shown
from backend.media.ranged import Asked, BrokenOff, Part, RangedObject
from backend.media.retries import RETRIED, Deadline, Timeouts, pause_before_retry
from backend.media.s3_clients import S3Clients, S3Settings
from backend.media.sources import Download, Restart, Unchanged, Validators

_READ_BYTES = 256 * 1024
_URI = re.compile(r"s3a?://([A-Za-z0-9][A-Za-z0-9._-]{1,62})/(.+)", re.DOTALL)
# At the very end only: keys may hold question marks.
_VERSION = re.compile(r"(.+)\?versionId=([A-Za-z0-9._~+/=-]+)", re.DOTALL)
_NOT_FOUND = ("404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion")
_NOT_ALLOWED = (
    "401", "403", "AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "RequestTimeTooSkewed",
)  # fmt: skip


class S3:
    """The S3 services that buckets are on; safe to share between threads."""

    def __init__(
        self, settings: S3Settings, *, timeouts: Timeouts, verify: bool | str = True
    ) -> None:
        self._clients = S3Clients(settings, timeouts=timeouts, verify=verify, attempts=1)
        self._timeouts = timeouts

    def available(self, uri: str) -> bool:
        """Whether requests for this bucket can be made: anonymous, or credentials were found."""
        match = _URI.fullmatch(uri)
        return match is None or self._clients.available(match[1])

    def object(self, uri: str) -> S3Object:
        """The object a URI names. Everything after the bucket is the key, as it stands: keys
        may hold spaces, ``#``, ``?``, ``%`` and ``&``. Only ``?versionId=...`` at the end names
        a version of the key.

        Raises:
            MediaError: it is not of the form ``s3://bucket/key``.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise MediaError(
                f"{shown(uri)} does not have the form s3://bucket/key.", reason=Reason.REFUSED
            )
        bucket, key = match[1], match[2]
        version = _VERSION.fullmatch(key)
        parameters = {"Bucket": bucket, "Key": version[1] if version else key}
        if version:
            parameters["VersionId"] = version[2]
        if self._clients.requester_pays(bucket):
            parameters["RequestPayer"] = "requester"
        client = self._clients.client(bucket)
        return S3Object(client, parameters, what=shown(uri), timeouts=self._timeouts)


class S3Object(RangedObject):
    """One object in a bucket.

    Args:
        client: of boto3.
        parameters: of ``get_object``: bucket, key, and version where one is meant.
        what, timeouts: see ``RangedObject``.
    """

    def __init__(
        self, client: Any, parameters: dict[str, str], *, what: str, timeouts: Timeouts
    ) -> None:
        names = [parameters[name] for name in ("Bucket", "Key", "VersionId") if name in parameters]
        identity = " ".join(["s3", client.meta.endpoint_url, *names])
        super().__init__(identity=identity, what=what, timeouts=timeouts)
        self._client = client
        self._parameters = parameters

    def download(self, known: Validators | None) -> Download | Unchanged:
        """See ``RemoteObject.download``; what is stored packed is unpacked, as browsers do."""
        answer = super().download(known)
        if isinstance(answer, Download) and answer.validators.size is None:
            return replace(answer, chunks=self._unpacked(answer.chunks))
        return answer

    def _request(self, asked: Asked, deadline: Deadline) -> Part | Unchanged:
        try:
            answer = self._attempts(_parameters(asked), deadline)
        except botocore.exceptions.ClientError as error:
            status = _status(error)
            if status == 304 and asked.known:
                return Unchanged()
            if asked.start == 0 and _is_no_range(error):
                return Part(iter(()), 0, Validators(size=0), ranged=False, close=lambda: None)
            if status in (412, 416) and asked.version:
                raise Restart from None
            raise self._explain(error) from None
        except botocore.exceptions.BotoCoreError as error:
            raise self._explain_no_answer(error) from None
        start, size = _place(answer)
        packed = answer.get("ContentEncoding") == "gzip"
        modified = str(answer["LastModified"].timestamp()) if "LastModified" in answer else None
        return Part(
            _body(answer["Body"], deadline),
            start,
            Validators(answer.get("ETag"), modified, None if packed else size),
            ranged="ContentRange" in answer and not packed,
            close=answer["Body"].close,
        )

    def _attempts(self, parameters: dict[str, str], deadline: Deadline) -> Any:
        """Ask, again where that may help; boto3's own attempts know no Retry-After."""
        attempt = 0
        while True:
            attempt += 1
            deadline.check()
            try:
                return self._client.get_object(**self._parameters, **parameters)
            except botocore.exceptions.ClientError as error:
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                asked = str(headers.get("retry-after", ""))
                pause = pause_before_retry(attempt, asked, deadline)
                if pause is None or _status(error) not in RETRIED:
                    raise
            except RecursionError:
                # botocore takes it for a bucket in another region, and asks the server where.
                raise MediaError(
                    f"S3 at {self._host} redirects to another server instead of answering.",
                    "Set S3_ENDPOINT_URL to the address that it is really served at.",
                    reason=Reason.FAILED,
                ) from None
            except botocore.exceptions.HTTPClientError as error:
                pause = pause_before_retry(attempt, "", deadline)
                if pause is None or isinstance(error, botocore.exceptions.SSLError):
                    raise
            time.sleep(pause)

    def _unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
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
                f"{self.what} says that it is compressed, but is damaged or is not.",
                "Correct its Content-Encoding.",
                reason=Reason.DAMAGED,
            )

    def _explain(self, error: botocore.exceptions.ClientError) -> MediaError:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        where = f"S3 ({self._host})"
        if code in _NOT_FOUND:
            return MediaError(
                f"{where} has no {self.what} ({code}).",
                "Check the bucket, the key and the endpoint.",
                reason=Reason.NOT_FOUND,
            )
        if code in _NOT_ALLOWED:
            return MediaError(
                f"{where} refuses {self.what} to the backend's credentials ({code}).",
                "They need s3:GetObject for that bucket (s3:GetObjectVersion for a version).",
                reason=Reason.UNAUTHORIZED,
            )
        return MediaError(f"{where} answered {code} for {self.what}.", reason=Reason.FAILED)

    def _explain_no_answer(self, error: botocore.exceptions.BotoCoreError) -> MediaError:
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return MediaError(
                f"The backend has no S3 credentials for {self.what}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or S3_ANONYMOUS=true for a "
                "public bucket.",
                reason=Reason.UNAUTHORIZED,
            )
        hint = "Check S3_ENDPOINT_URL and the backend's network."
        if isinstance(error, botocore.exceptions.SSLError):
            hint = "Set CA_BUNDLE to the certificates that signed its own."
        return MediaError(
            f"S3 at {self._host} cannot be reached for {self.what} ({type(error).__name__}).",
            hint,
            reason=Reason.UNREACHABLE,
        )

    @property
    def _host(self) -> str | None:
        return urlsplit(self._client.meta.endpoint_url).hostname


def _parameters(asked: Asked) -> dict[str, str]:
    parameters = {}
    if asked.start or asked.length is not None:
        stop = "" if asked.length is None else asked.start + asked.length - 1
        parameters["Range"] = f"bytes={asked.start}-{stop}"
    if asked.known and asked.known.etag:
        parameters["IfNoneMatch"] = asked.known.etag
    if asked.version and asked.version.if_match:
        parameters["IfMatch"] = asked.version.if_match
    return parameters


def _place(answer: Any) -> tuple[int, int | None]:
    """Where the body begins, and the size of the whole object."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange") or "")
    if match:
        return int(match[1]), int(match[2])
    return 0, answer.get("ContentLength")


def _body(body: Any, deadline: Deadline) -> Iterator[bytes]:
    try:
        while chunk := body.read(_READ_BYTES):
            yield chunk
            deadline.check()
    except (botocore.exceptions.BotoCoreError, OSError):
        raise BrokenOff from None


def _is_no_range(error: botocore.exceptions.ClientError) -> bool:
    """Whether a server refuses a range: of an empty object there is none, and some refuse one
    that is longer than the object."""
    code = error.response.get("Error", {}).get("Code")
    return _status(error) == 416 or (_status(error) == 400 and code == "InvalidArgument")


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
