"""Reading JSON that somebody else wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.json_values import parse_json

ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("\\u\ud83d\ude00\ud800d8"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"\ud800"', "\ufffd"),
        (rb'"\uDC00\uD800"', "\ufffd\ufffd"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud800"', r"\ud800"),
        (rb'"\\\ud800"', "\\\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd"),
    ],
)
def test_half_a_character_is_replaced(written: bytes, read: str) -> None:
    assert parse_json(written) == read


@given(ANY_TEXT)
def test_every_text_can_be_written(text: str) -> None:
    parse_json(json.dumps([text]).encode())[0].encode("utf-8")
    raw = json.dumps([text], ensure_ascii=False).encode("utf-8", "surrogatepass")
    parse_json(raw)[0].encode("utf-8")


@given(st.text())
def test_all_else_stays_as_it_is(text: str) -> None:
    assert parse_json(json.dumps([text, "\ud800"]).encode()) == [text, "\ufffd"]


@pytest.mark.parametrize("written", [b"", b"no json", b'"\\', b'"\\ud8"', b"\xff\xfe\xff"])
def test_what_is_no_json_is_refused(written: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(written)
