"""data: URIs: the media is in the task."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from backend.media.errors import MediaError, Reason
from backend.media.resolver import MediaResolver

BODY = bytes(range(256))
ENCODED = base64.b64encode(BODY).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{ENCODED}",
        f"DATA:image/png;charset=x;BASE64,{ENCODED}",
        f"data:;base64,{ENCODED[:50]}\n {ENCODED[50:]}",
        "data:;base64," + ENCODED.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:application/octet-stream," + "".join(f"%{byte:02x}" for byte in BODY),
    ],
)
def test_spellings(make_resolver: Callable[..., MediaResolver], uri: str) -> None:
    resolver = make_resolver()
    assert resolver.fetch(uri).path.read_bytes() == BODY
    resolver.fetch(uri)
    assert (resolver.stats.fetches, resolver.stats.hits) == (1, 1)


@pytest.mark.parametrize(
    "uri", ["data:", "data:image/png;base64", "data:;base64,%%%", "data:;base64,A"]
)
def test_malformed(make_resolver: Callable[..., MediaResolver], uri: str) -> None:
    with pytest.raises(MediaError, match="malformed") as caught:
        make_resolver().fetch(uri)
    assert caught.value.reason is Reason.DAMAGED


@pytest.mark.parametrize("size", [1001, 100_000])
def test_size_limit(make_resolver: Callable[..., MediaResolver], size: int) -> None:
    resolver = make_resolver(max_bytes=1000)
    with pytest.raises(MediaError):
        resolver.fetch("data:," + "x" * size)
    assert resolver.stored_bytes == 0
