"""Which frames follow from which prompt."""

from __future__ import annotations

import pytest

from backend.tracking.spans import Direction, Span, plan_spans


def plan(prompted, direction, first=0, last=9):
    spans = plan_spans(prompted, first=first, last=last, direction=direction)
    return [(span.anchor, span.end) for span in spans]


@pytest.mark.parametrize(
    ("prompted", "direction", "expected"),
    [
        ([0], Direction.FORWARD, [(0, 9)]),
        ([4], Direction.FORWARD, [(4, 9)]),
        ([4], Direction.BACK, [(4, 0)]),
        ([4], Direction.BOTH, [(4, 9), (4, 0)]),
        ([2, 6], Direction.FORWARD, [(2, 5), (6, 9)]),
        ([6, 2, 2], Direction.FORWARD, [(2, 5), (6, 9)]),
        ([2, 6], Direction.BACK, [(2, 0), (6, 3)]),
        ([2, 6], Direction.BOTH, [(2, 5), (6, 9), (2, 0)]),
        ([2, 3], Direction.FORWARD, [(3, 9)]),
        ([9], Direction.FORWARD, []),
        ([0], Direction.BACK, []),
        ([], Direction.BOTH, []),
    ],
)
def test_every_frame_follows_from_the_prompt_before_it(prompted, direction, expected):
    assert plan(prompted, direction) == expected


def test_a_range_limits_the_frames_and_not_the_prompts():
    assert plan([1], Direction.FORWARD, first=4, last=6) == [(1, 6)]
    assert plan([8], Direction.BOTH, first=4, last=6) == [(8, 4)]
    assert plan([8], Direction.FORWARD, first=4, last=6) == []


def test_frames_are_in_the_order_of_tracking():
    assert list(Span(3, 6).frames) == [4, 5, 6]
    assert list(Span(3, 0).frames) == [2, 1, 0]
    assert Span(3, 0).reverse


def test_each_frame_is_ruled_once():
    spans = plan_spans([2, 5, 7], first=0, last=9, direction=Direction.BOTH)
    frames = [frame for span in spans for frame in span.frames]
    assert sorted([*frames, 2, 5, 7]) == list(range(10))
