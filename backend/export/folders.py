"""Where files go: a folder on this machine, or a prefix in a bucket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.exceptions

from backend.files import replacing
from backend.media.s3 import S3
from backend.runs.command_line import CommandError
from backend.wiring import Wiring

_PREFIX = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,62})(?:/(.*))?")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while ``path`` is written becomes a ``CommandError``."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error


class LocalFolder:
    """A folder on this machine; made when it is not there.

    Tasks name files in it as Label Studio's local files: below the document root if that is known
    here and holds the folder, else as if the document root were the folder's parent.
    """

    def __init__(self, path: Path, root: Path | None, address: str | None = None) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._path = path.resolve()
        except OSError as error:
            raise CommandError(f"{path} cannot be made: {error.strerror}.") from error
        self._address = address
        self.root = self._path.parent
        if root is not None and self._path.is_relative_to(root.resolve()):
            self.root = root.resolve()

    def names(self) -> set[str]:
        """The complete files that are there."""
        return {entry.name for entry in self._path.iterdir() if entry.is_file()}

    def read(self, name: str) -> bytes | None:
        """A file's content; None if it is not there."""
        path = self._path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, whole or not at all."""
        with writing(self._path / name), replacing(self._path / name) as partial:
            partial.write_bytes(content)

    def address(self, name: str) -> str:
        """How a task of Label Studio names the file."""
        if self._address is not None:
            return self._address + quote(name)
        relative = (self._path / name).relative_to(self.root).as_posix()
        return f"/data/local-files/?d={quote(relative)}"


class BucketFolder:
    """The same in S3: a prefix of a bucket, with the credentials that boto3 finds."""

    def __init__(self, bucket: str, prefix: str, s3: S3, address: str | None = None) -> None:
        self._client: Any = s3.client(bucket)
        self._bucket = bucket
        self._prefix = prefix
        self._address = address if address is not None else f"s3://{bucket}/{prefix}"

    def names(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2")
        with self._used():
            return {
                item["Key"].removeprefix(self._prefix)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix)
                for item in page.get("Contents", ())
            }

    def read(self, name: str) -> bytes | None:
        with self._used():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except botocore.exceptions.ClientError as error:
                if _code(error) in ("404", "NoSuchKey"):
                    return None
                raise
            return bytes(answer["Body"].read())

    def write(self, name: str, content: bytes) -> None:
        kind = "image/jpeg" if name.endswith(".jpg") else "application/json"
        with self._used():
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=content, ContentType=kind
            )

    def address(self, name: str) -> str:
        return self._address + name

    @contextmanager
    def _used(self) -> Iterator[None]:
        """What boto3 or the bucket refuses becomes a ``CommandError``."""
        try:
            yield
        except botocore.exceptions.BotoCoreError as error:
            code = type(error).__name__
        except botocore.exceptions.ClientError as error:
            code = _code(error)
        else:
            return
        raise CommandError(
            f"s3://{self._bucket}/{self._prefix} cannot be used ({code}): check the bucket, the "
            "credentials (s3:ListBucket, s3:GetObject, s3:PutObject) and S3_ENDPOINT_URL."
        )


Folder = LocalFolder | BucketFolder
"""A place for files. Every method raises ``CommandError`` where the place cannot be used."""


def open_folder(place: str, wiring: Wiring, address: str | None = None) -> Folder:
    """The folder or bucket prefix that ``place`` names.

    Args:
        address: what comes before the file names in tasks, where that is not the place itself.

    Raises:
        CommandError: it is no place for files.
    """
    if place.startswith("s3://"):
        match = _PREFIX.fullmatch(place)
        if match is None:
            raise CommandError(f"{place} does not have the form s3://bucket/prefix/.")
        prefix = match[2] or ""
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        return BucketFolder(match[1], prefix, wiring.s3(), address)
    if "://" in place:
        raise CommandError(
            f"Files cannot be written to {place}: give a folder or s3://bucket/prefix/."
        )
    return LocalFolder(Path(place), wiring.settings.local_files_root, address)


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
