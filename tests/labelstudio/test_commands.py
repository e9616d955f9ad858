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
    kept,
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
        "track the bud",
        "clear sky, no clouds",
        "need help",
        "status unclear",
        "helpful",
        "a/b",
        "hello",
        "?",
        "stride=2",
        "fine",
        "windy",
        "find out whether the left wing is cracked",
        "find the dog. It hides",
        "find a, b=",
        "find " + "a," * 50 + "b",
    ],
)
def test_notes_are_left_alone(text):
    assert parse_command(text).kind is TextKind.NOTE


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("trck", TextKind.MISTYPED, "no command trck; did you mean track?"),
        ("staus", TextKind.MISTYPED, "no command staus; did you mean status?"),
        ("trak 1-4 back", TextKind.MISTYPED, "trak 1-4 back is not understood; type track, "),
        ("track 5", TextKind.MISTYPED, "track 5 is not understood; type track, track 1-40, "),
        ("redo stride=0", TextKind.MISTYPED, "redo stride=0 is not understood; type redo, "),
        ("track stride=100", TextKind.MISTYPED, "track stride=100 is not understood; "),
        ("track stride", TextKind.MISTYPED, "track stride is not understood; "),
        ("/hlep", TextKind.UNKNOWN, "no command /hlep; did you mean help?"),
        ("/clear sky", TextKind.UNKNOWN, "no command /clear sky; did you mean clear?"),
        ("/", TextKind.UNKNOWN, "no command /; the commands are help, status, clear, "),
    ],
)
def test_what_is_not_understood_says_what_may_be_meant(text, kind, answer):
    assert parse_command(text).kind is kind
    assert unknown_command(text).startswith(answer)
    assert "\n" not in unknown_command(text)


def test_an_answer_leaves_notes_and_takes_commands_away():
    entries = ["a ginger cat", "trck", "/hlep", "SAM 2: no command trck", "track"]
    assert kept(entries, shared=False) == ("a ginger cat",)
    assert kept(entries, shared=True) == ("a ginger cat", "trck")


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


@pytest.mark.parametrize(
    ("text", "names", "at"),
    [
        ("find", [], None),
        ("Find Person,  red car", [("person", None), ("red car", None)], None),
        ("/find car=Vehicle, man = Person at 12", [("car", "vehicle"), ("man", "person")], 12),
        ("find at 3", [], 3),
        ("find at home", [("at home", None)], None),
    ],
)
def test_what_to_find_and_where(text, names, at):
    parsed = parse_command(text)
    assert parsed.word is Word.FIND
    assert (list(parsed.names), parsed.at) == (names, at)


@pytest.mark.parametrize(
    ("text", "label", "at", "in_box"),
    [
        ("everything", None, None, False),
        ("Everything Red Cell", "Red Cell", None, False),
        ("/everything t-cell at 12", "t-cell", 12, False),
        ("everything Cell in the box", "Cell", None, True),
        ("EVERYTHING in box at 3", None, 3, True),
    ],
)
def test_everything_with_a_label_and_a_place(text, label, at, in_box):
    parsed = parse_command(text)
    assert parsed.word is Word.EVERYTHING
    assert parsed.names == (() if label is None else ((label, None),))
    assert (parsed.at, parsed.in_box) == (at, in_box)


@pytest.mark.parametrize(
    "text", ["everything is fine on this page today", "everything, please", "everything Cell."]
)
def test_a_sentence_about_everything_is_a_note(text):
    assert parse_command(text).kind is TextKind.NOTE
