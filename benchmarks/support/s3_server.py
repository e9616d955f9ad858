"""A real S3 server on loopback."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import requests
from botocore.config import Config

from demo.processes import Child, NotReadyError

ACCESS_KEY, SECRET_KEY = "media-access-key", "media-secret-key"
READY_SECONDS = 180.0


class S3Server(Child):
    """nanio: an S3 server with its objects in a folder, which checks signatures.

    Args:
        directory: for the objects and the log.
        port: on 127.0.0.1.
        keys: access key and secret key.
    """

    def __init__(
        self, directory: Path, port: int, keys: tuple[str, str] = (ACCESS_KEY, SECRET_KEY)
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        objects = directory / "objects"
        objects.mkdir(parents=True)
        command = [str(Path(sys.executable).with_name("nanio")), "serve", "--no-access-log"]
        command += ["--data-dir", str(objects), "--host", "127.0.0.1", "--port", str(port)]
        credentials = {"NANIO_ACCESS_KEY": keys[0], "NANIO_SECRET_KEY": keys[1]}
        super().__init__(
            "nanio",
            command,
            environment={**os.environ, **credentials},
            log=directory / "s3.log",
            directory=directory,
        )

    def wait_until_ready(self) -> None:
        """Return as soon as it answers; it has no page that says so."""

        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            self.check()
            with suppress(requests.ConnectionError):
                requests.get(self.url, timeout=30)
                return
            time.sleep(0.1)
        raise NotReadyError(f"the S3 server was not ready within {READY_SECONDS:g} s")

    def client(self) -> Any:
        """boto3's, with the credentials."""
        return s3_client(self.url)


def s3_client(endpoint: str) -> Any:
    """boto3's client for a test server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
