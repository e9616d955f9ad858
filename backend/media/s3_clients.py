"""Which S3 service a bucket is on, and boto3's clients for them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from botocore import UNSIGNED
from botocore.config import Config

from backend.media.retries import Timeouts

_LOOK_AGAIN_AFTER_S = 600.0
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


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
        """How to reach a bucket."""
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


class S3Clients:
    """boto3's clients, made when first needed; safe to share between threads.

    Args:
        settings: where the buckets are.
        timeouts: for connecting and for the next bytes.
        verify: True, False, or the path of a CA bundle.
        attempts: how often boto3 itself tries.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        timeouts: Timeouts,
        verify: bool | str = True,
        attempts: int = 3,
    ) -> None:
        self._settings = settings
        self._attempts = attempts
        self._timeouts = timeouts
        self._verify = verify
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str | None, str | None], boto3.session.Session] = {}
        self._clients: dict[Bucket, Any] = {}
        self._found: dict[str | None, bool] = {}
        self._look_again_at: dict[str | None, float] = {}

    def requester_pays(self, bucket: str) -> bool:
        """Whether the operator pays for the bucket's transfers."""
        return self._settings.of(bucket).requester_pays

    def available(self, bucket: str) -> bool:
        """Whether requests can be made: anonymous, or credentials were found."""
        wanted = self._settings.of(bucket)
        if wanted.anonymous:
            return True
        with self._lock:
            # botocore remembers what it finds, but not that it found nothing; and looking
            # includes a request to the cloud's metadata service, which may have to time out.
            profile, now = wanted.profile, time.monotonic()
            if not self._found.get(profile) and now >= self._look_again_at.get(profile, 0.0):
                self._found[profile] = self._has_credentials(wanted)
                self._look_again_at[profile] = time.monotonic() + _LOOK_AGAIN_AFTER_S
            return self._found[profile]

    def client(self, bucket: str) -> Any:
        """The client for a bucket."""
        wanted = replace(self._settings.of(bucket), requester_pays=False)
        with self._lock:
            if wanted not in self._clients:
                self._clients[wanted] = self._new_client(wanted)
            return self._clients[wanted]

    def _has_credentials(self, wanted: Bucket) -> bool:
        try:
            return self._session(wanted).get_credentials() is not None
        except botocore.exceptions.ProfileNotFound:
            return False

    def _session(self, wanted: Bucket) -> boto3.session.Session:
        key = wanted.profile, wanted.region
        if key not in self._sessions:
            self._sessions[key] = boto3.session.Session(
                profile_name=wanted.profile, region_name=wanted.region
            )
        return self._sessions[key]

    def _new_client(self, wanted: Bucket) -> Any:
        session = self._session(wanted)

        def build(addressing: str) -> Any:
            config = Config(
                connect_timeout=self._timeouts.connect,
                read_timeout=self._timeouts.read,
                retries={"mode": "standard", "total_max_attempts": self._attempts},
                max_pool_connections=16,
                s3={"addressing_style": addressing},
                # Servers other than AWS need not know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            if wanted.anonymous:
                config = config.merge(Config(signature_version=UNSIGNED))
            return session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                endpoint_url=wanted.endpoint,
                config=config,
                verify=None if self._verify is True else self._verify,
            )

        if wanted.path_style is not None:
            return build("path" if wanted.path_style else "virtual")
        # Path style for everything but AWS: bucket.minio:9000 resolves nowhere, while
        # minio:9000/bucket works with every server.
        if wanted.endpoint:
            return build("path")
        client = build("auto")
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return client
        return build("path")
