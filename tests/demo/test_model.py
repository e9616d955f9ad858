"""The demo runs EdgeTAM where a hub gives it in time, and says which model it runs and why."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.support.recording_server import RecordingServer, Reply
from demo.model import choose_variant
from sam2model import checkpoints
from tests.waiting import PATIENCE

WEIGHTS = b"weights of EdgeTAM"
ADDRESS = "/facebook/EdgeTAM/resolve/main/edgetam.pt"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RecordingServer]:
    """A hub with an empty cache, which publishes ``WEIGHTS``; nothing is served yet."""
    server = RecordingServer()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    blob = hashlib.sha1(b"blob %d\0%b" % (len(WEIGHTS), WEIGHTS), usedforsecurity=False)
    published = replace(checkpoints.PUBLISHED["edgetam"], git_blob=blob.hexdigest())
    monkeypatch.setattr(checkpoints, "PUBLISHED", {"edgetam": published})
    yield server
    server.close()


def publish(hub: RecordingServer, content: bytes) -> None:
    headers = {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}
    hub.route(ADDRESS, Reply(200, content, headers))


def test_a_hub_that_answers_gives_edgetam_once(hub: RecordingServer) -> None:
    publish(hub, WEIGHTS)
    variant, said = choose_variant(None, PATIENCE)
    assert (variant, said.splitlines()[0]) == (
        "edgetam",
        "The model is EdgeTAM, from huggingface.co. SAM2_VARIANT chooses another.",
    )
    hub.route(ADDRESS, Reply(503))
    assert choose_variant(None, PATIENCE)[0] == "edgetam"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(503), "huggingface.co answers with status 503"),
        (
            Reply(200, b"something else", {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}),
            "is not the published edgetam.pt",
        ),
    ],
)
def test_else_the_demo_runs_its_own_weights_and_says_why(
    hub: RecordingServer, reply: Reply, reason: str
) -> None:
    hub.route(ADDRESS, reply)
    variant, said = choose_variant(None, PATIENCE)
    assert variant == "demo"
    assert reason in said


def test_a_hub_that_says_nothing(hub: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        template = f"http://127.0.0.1:{silent.getsockname()[1]}/{{repo_id}}{{revision}}{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        variant, said = choose_variant(None, 0.1)
    assert variant == "demo"
    assert "huggingface.co did not answer within 0.1 seconds" in said


def test_ctrl_c_goes_before_the_hub(hub: RecordingServer) -> None:
    def interrupted() -> None:
        raise InterruptedError

    publish(hub, WEIGHTS)
    with pytest.raises(InterruptedError):
        choose_variant(None, PATIENCE, interrupted)


def test_without_a_network(hub: RecordingServer) -> None:
    hub.close()
    variant, said = choose_variant("", PATIENCE)
    assert variant == "demo"
    assert "huggingface.co cannot be reached" in said


def test_what_the_user_asks_for_goes_first(hub: RecordingServer) -> None:
    assert choose_variant("sam2.1_hiera_tiny")[0] == "sam2.1_hiera_tiny"
    assert hub.seen == []
