"""Bodies that nobody should send: mutations of recorded requests, and arbitrary JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CAPTURES = Path(__file__).resolve().parents[2] / "tests" / "captures"
ROUTES = ("/predict", "/setup", "/webhook")
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    2**63,
    "",
    " ",
    "\x00",
    "\ud800",
    "😀" * 50,
    "../../etc/passwd",
    "x" * 5000,
    [],
    {},
    [[]],
    {"": {}},
    [None],
    "NaN",
    "<View><Image name='image' value='$image'/></View>",
    "<View>" * 200,
    "<!DOCTYPE x [<!ENTITY e 'e'>]><View>&e;</View>",
)
KEYS = [
    "tasks",
    "params",
    "context",
    "result",
    "value",
    "x",
    "y",
    "width",
    "height",
    "rotation",
    "points",
    "keypointlabels",
    "rectanglelabels",
    "brushlabels",
    "labels",
    "rle",
    "format",
    "id",
    "type",
    "from_name",
    "to_name",
    "item_index",
    "original_width",
    "is_positive",
    "original_height",
    "image_rotation",
    "project",
    "label_config",
    "schema",
    "action",
    "data",
    "image",
    "frames",
    "video",
    "text",
    "sequence",
    "frame",
    "enabled",
    "framesCount",
    "duration",
    "drafts",
    "annotations",
    "predictions",
    "event",
    "is_draft",
    "extra_params",
    "hostname",
    "access_token",
]


HEADS = (
    b"GET\r\n\r\n",
    b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic \xff\r\n\r\n",
    b"GET /jobs/%00%1b%5b2J HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /webhook HTTP/1.1\r\nOrigin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
)


def bombs() -> Iterator[tuple[str, bytes]]:
    """By name: small bodies that would cost much."""
    image = '<Image name="image" value="$image"/>'
    brush = '<BrushLabels name="b{0}" toName="image"><Label value="{0}"/>'
    point = '<KeyPointLabels name="k{0}" toName="image"><Label value="{1}"/></KeyPointLabels>'
    for count in (1900, 3000):
        nested = "".join(brush.format(n) for n in range(count)) + "</BrushLabels>" * count
        beside = "".join(
            brush.format(n) + "</BrushLabels>" + point.format(n, -n) for n in range(count // 2)
        )
        for name, tags in (("nested", nested), ("beside one another", beside)):
            xml = f"<View>{image}{tags}</View>"
            config = {"schema": xml, "config": xml, "label_config": xml, "tasks": [{}]}
            context = {"project": "1.1", "params": {"context": {"result": []}}}
            yield f"{count} controls {name}", json.dumps({**config, **context}).encode()
    yield "lists in lists", b'{"tasks":' + b"[" * 1_000_000
    for one in (b"[],", b"{},", b'{"a":[]},'):
        yield "millions of empty ones", b'{"tasks":[' + one * (60_000_000 // len(one)) + b"0]}"


def recorded(route: str) -> list[Any]:
    """Every body that a running Label Studio sent to ``route``."""
    found = []
    for path in sorted(CAPTURES.glob("*.json")):
        capture = json.loads(path.read_text(encoding="utf-8"))
        calls = capture.get("backend_calls", []) if isinstance(capture, dict) else []
        for call in calls:
            if isinstance(call, dict) and call.get("path") == route and call.get("body"):
                found.append(call["body"])
    return found


class Mutator:
    """Endless mutations of ``seeds``, the same for the same ``seed``.

    Args:
        addresses: media that can be fetched; half of the bodies point to them.
    """

    def __init__(self, seeds: Sequence[Any], seed: int, addresses: Sequence[str] = ()) -> None:
        self._seeds = seeds
        self._random = random.Random(seed)
        self._addresses = addresses

    def __iter__(self) -> Iterator[bytes]:
        while True:
            body = copy.deepcopy(self._random.choice(self._seeds))
            if self._addresses and self._random.random() < 0.5:
                body = self._with_media(body)
            for _ in range(self._random.randint(1, 5)):
                body = self._mutated(body)
            yield self._encoded(body)

    def _with_media(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_media(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._with_media(inner) for inner in value]
        if isinstance(value, str) and value.startswith(("/data/", "s3://", "http")):
            return self._random.choice(self._addresses)
        return value

    def _mutated(self, body: Any) -> Any:
        """One change at a random place, or of the whole."""
        places = [place for place in _places(body) if place[0] is not None]
        if not places or self._random.random() < 0.02:
            return self._odd(body)
        holder, key = self._random.choice(places)
        match self._random.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1:
                holder[key] = [holder[key]] * self._random.choice((1, 2, 50))
            case 2:
                holder[key] = {self._random.choice(KEYS): holder[key]}
            case 3:
                holder[key] = copy.deepcopy(self._random.choice(places)[0])
            case 4 if isinstance(holder, dict):
                holder[self._random.choice(KEYS)] = copy.deepcopy(holder[key])
            case _:
                holder[key] = self._odd(holder[key])
        return body

    def _odd(self, value: Any) -> Any:
        if isinstance(value, (int, float)) and self._random.random() < 0.5:
            return value * self._random.choice((-1, 0, 1e9, 1e-9, 100.0001))
        return copy.deepcopy(self._random.choice(ODD))

    def _encoded(self, body: Any) -> bytes:
        data = json.dumps(body).encode("utf-8", "surrogatepass")
        if self._random.random() < 0.1 and data:  # broken on the way
            place = self._random.randrange(len(data))
            data = data[:place] + self._random.randbytes(3) + data[place + 1 :]
        return data[:200_000]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def arbitrary() -> st.SearchStrategy[Any]:
    """JSON of any shape, with the words of the contract in it."""
    scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12)
    return st.recursive(
        scalars | st.sampled_from([odd for odd in ODD if isinstance(odd, (str, int, float))]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=6)
        ),
        max_leaves=20,
    )


def like_requests(configs: Sequence[str]) -> st.SearchStrategy[Any]:
    """Arbitrary JSON where a /predict request has what somebody typed, drew or stored."""
    item = st.fixed_dictionaries(
        {
            "value": arbitrary(),
            "type": st.sampled_from(
                ("keypointlabels", "rectanglelabels", "brushlabels", "textarea")
            ),
            "from_name": st.sampled_from(("kp", "box", "mask", "status")) | arbitrary(),
            "to_name": st.just("image") | arbitrary(),
        },
        optional={"id": arbitrary(), "is_positive": arbitrary(), "item_index": arbitrary()},
    )
    items = st.lists(item, max_size=4)
    data = st.dictionaries(st.sampled_from(KEYS), arbitrary(), max_size=3)
    entries = st.lists(st.fixed_dictionaries({"result": items}), max_size=2)
    task = st.fixed_dictionaries(
        {"id": arbitrary(), "data": data},
        optional={"drafts": entries, "annotations": entries, "predictions": entries},
    )
    context = st.none() | st.fixed_dictionaries({"result": items}) | arbitrary()
    return st.fixed_dictionaries(
        {
            "tasks": st.lists(task, max_size=3),
            "label_config": st.sampled_from(configs),
            "params": st.fixed_dictionaries({"context": context}),
        },
        optional={"project": arbitrary()},
    )
