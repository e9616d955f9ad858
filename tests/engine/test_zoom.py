"""Small objects of large pictures: which window is looked at, and what it is good for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.pixel_prompts import PixelPrompt
from backend.engine.segmenting import Segment
from backend.engine.zoom import Window, window_for
from backend.labelstudio.label_config import parse_label_config

CONFIG = parse_label_config('<View><Image name="image" value="$image"/></View>')
NOTHING = np.full((64, 64), -5.0, np.float32)


def clicks(*points: tuple[float, float]) -> PixelPrompt:
    return PixelPrompt(np.array(points, np.float32), np.ones(len(points), bool))


def boxed(x0: float, y0: float, x1: float, y1: float) -> PixelPrompt:
    none = np.zeros((0, 2), np.float32)
    return PixelPrompt(none, np.zeros(0, bool), box=np.array([x0, y0, x1, y1], np.float32))


def never() -> np.ndarray:
    raise AssertionError("a box says how large the object is")


def test_small_pictures_and_large_objects_need_no_window():
    assert window_for(boxed(10, 10, 20, 20), never, 1500, 1000, 1024) is None
    assert window_for(boxed(100, 100, 2000, 2000), never, 8000, 6000, 1024) is None


def test_a_click_on_a_large_part_needs_no_window():
    logits = NOTHING.copy()
    logits[10:50, 10:50] = 5
    assert window_for(clicks((4000, 4000)), lambda: logits, 8000, 8000, 1024) is None


def test_only_the_clicked_part_counts():
    logits = NOTHING.copy()
    logits[10:50, 10:50] = 5
    logits[60:62, 60:62] = 5
    window = window_for(clicks((7600, 7600)), lambda: logits, 8000, 8000, 1024)
    assert window is not None
    assert window.width == 2000  # 3 sides of 250 px would fit in 1000, which is below 1:1


def test_a_click_that_met_nothing_is_looked_at_closely():
    window = window_for(clicks((100, 7900)), lambda: NOTHING, 8000, 8000, 256)
    assert window == Window(0, 7500, 500, 500)


@given(
    x=st.floats(0, 0.84),
    y=st.floats(0, 0.84),
    size=st.floats(0.0005, 1 / 6 - 0.001),
    shape=st.sampled_from([(8000, 6000), (6000, 8000), (9001, 1000), (2048, 2048), (2050, 2047)]),
)
def test_the_window_holds_the_object_and_lies_in_the_picture(x, y, size, shape):
    width, height = shape
    side = size * max(shape)
    x0, y0 = x * width, y * height
    x1, y1 = min(x0 + side, width), min(y0 + side, height)

    window = window_for(boxed(x0, y0, x1, y1), never, width, height, 1024)

    assert window is not None
    assert 0 <= window.x <= x0 and x1 <= window.x + window.width <= width
    assert 0 <= window.y <= y0 and y1 <= window.y + window.height <= height
    assert max(window.width, window.height) >= min(1024, max(shape))


def test_the_next_click_on_the_object_finds_the_same_window():
    first = window_for(boxed(4000, 4000, 4100, 4080), never, 8000, 8000, 1024)
    second = window_for(boxed(3990, 3995, 4110, 4085), never, 8000, 8000, 1024)
    assert first == second


def test_prompts_go_into_the_window_and_masks_come_out():
    window = Window(100, 50, 40, 20)
    drawn = np.zeros((200, 300), bool)
    drawn[55:60, 110:120] = True
    prompt = replace(boxed(110, 55, 120, 60), mask=drawn)

    inside = window.prompt(prompt)
    found = window.segment(Segment(inside.mask, 0.5, NOTHING[None]), 300, 200)

    np.testing.assert_array_equal(inside.box, [10, 5, 20, 10])
    assert inside.mask.shape == (20, 40)
    np.testing.assert_array_equal(found.mask, drawn)
