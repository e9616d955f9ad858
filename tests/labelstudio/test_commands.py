"""The text box as a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.commands import (
    HELP,
    STATUS_PREFIX,
    TextKind,
    Word,
    parse_command,
    unknown_command,
)
from backend.labelstudio.write_results import status_results
from tests.labelstudio.configs import with_answer


@pytest.mark.parametrize("word", Word)
def test_commands_alone_in_any_case(word):
    for text in (word, word.upper(), f"  {word}\n", f"/{word}", f"/ {word.title()}"):
        assert (parse_command(text).kind, parse_command(text).word) == (TextKind.COMMAND, word)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "clear sky, no clouds",
        "need help",
        "status unclear",
        "helpful",
        "a/b",
        "hello",
        "?",
    ],
)
def test_notes_are_left_alone(text):
    assert parse_command(text).kind is TextKind.NOTE


@pytest.mark.parametrize("text", ["/hlep", "/", "/clear sky"])
def test_a_slash_asks_for_an_answer(text):
    assert parse_command(text).kind is TextKind.UNKNOWN
    line = unknown_command(text)
    assert "\n" not in line
    assert all(word in line for word in Word)


def test_our_own_status_is_known_when_it_comes_back():
    for text in ("no object there", "help", "/x"):
        [result] = status_results(text, with_answer("BrushLabels"), "img")
        [written] = result["value"]["text"]
        assert written.startswith(STATUS_PREFIX)
        assert parse_command(written).kind is TextKind.OWN


def test_help_is_one_line_and_names_the_commands_of_pictures():
    assert "\n" not in HELP
    assert all(word in HELP for word in (Word.HELP, Word.STATUS, Word.CLEAR))


@given(st.text())
def test_any_text_is_something(text):
    parsed = parse_command(text)
    assert (parsed.word is not None) == (parsed.kind is TextKind.COMMAND)
    assert len(unknown_command(text)) < 200


@pytest.mark.parametrize(
    ("text", "frames", "direction", "stride"),
    [
        ("track", None, None, None),
        ("track stride=2", None, None, 2),
        ("Track both  stride = 10", None, "both", 10),
        ("redo 3-9 back stride=3", (3, 9), "back", 3),
    ],
)
def test_how_to_track(text, frames, direction, stride):
    parsed = parse_command(text)
    assert parsed.word in (Word.TRACK, Word.REDO)
    assert (parsed.frames, parsed.direction, parsed.stride) == (frames, direction, stride)


@pytest.mark.parametrize("text", ["track stride=0", "track stride=100", "track stride", "stride=2"])
def test_no_such_stride(text):
    assert parse_command(text).kind is TextKind.NOTE
    assert parse_command(f"/{text}").kind is TextKind.UNKNOWN
