"""Fixtures of the media tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.labelstudio.client import LabelStudioClient
from backend.media.resolver import MediaResolver
from backend.media.sources import Timeouts
from benchmarks.support.recording_server import RecordingServer, recording_server
from tests.media.s3_server import s3_server
from tests.media.servers import PERSONAL_ACCESS_TOKEN, FakeLabelStudio
from tests.waiting import PATIENCE


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 must find what a test gives it, and nothing else."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE",
                 "ENDPOINT_URL", "ENDPOINT_URL_S3", "REGION", "DEFAULT_REGION"):  # fmt: skip
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3ts3cr3t")


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server() as running:
        yield running


@pytest.fixture
def foreign() -> Iterator[RecordingServer]:
    """A second origin, to which no credential may ever go."""
    with recording_server() as running:
        yield running


@pytest.fixture
def label_studio(server: RecordingServer) -> FakeLabelStudio:
    return FakeLabelStudio(server)


@pytest.fixture
def client(label_studio: FakeLabelStudio) -> LabelStudioClient:
    return LabelStudioClient(label_studio.url, PERSONAL_ACCESS_TOKEN)


@pytest.fixture
def make_resolver(tmp_path: Path) -> Iterator[Callable[..., MediaResolver]]:
    """A resolver for tests: everything on loopback is allowed unless said otherwise."""
    made: list[MediaResolver] = []

    def make(**options: Any) -> MediaResolver:
        defaults: dict[str, Any] = {
            "cache_directory": tmp_path / "cache",
            "cache_bytes": 50_000_000,
            "allowed_private_hosts": ["127.0.0.1"],
            "timeouts": Timeouts(connect=PATIENCE, read=PATIENCE, total=PATIENCE),
        }
        made.append(MediaResolver(**{**defaults, **options}))
        return made[-1]

    yield make
    for resolver in made:
        resolver.close()
