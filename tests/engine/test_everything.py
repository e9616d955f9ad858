"""All objects of a picture: what is found, what is left out, and who goes first meanwhile."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine import everything as searching
from backend.engine.building import ModelChoice
from backend.engine.everything import OVERLAP, Part, coarse_first, taken_map
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import UnusableShape
from backend.engine.scheduler import Priority
from backend.labelstudio.geometry import Box, mask_iou
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import Polygon, no_masks
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from tests.backend.fakes import AsGiven
from tests.waiting import LONGER, PATIENCE, until

HEIGHT, WIDTH = 300, 400
DISCS = {(80, 70): 40, (300, 80): 50, (110, 220): 45, (290, 210): 35}  # by centre, x and y
WHOLE = (HEIGHT, WIDTH)


def disc(centre):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    x, y = centre
    return (columns - x) ** 2 + (rows - y) ** 2 <= DISCS[centre] ** 2


@pytest.fixture(scope="module")
def engine():
    engine = LocalEngine(
        ModelChoice("demo", device="cpu"),
        AsGiven(),
        cache_bytes=10**8,
        metrics=Metrics(),
        speck_share=0.01,
    )
    engine.wait_ready(PATIENCE)
    yield engine
    engine.close()


@pytest.fixture
def picture(request):
    """Four discs, with a key of its own: searches are remembered."""
    image = np.full((HEIGHT, WIDTH, 3), (40, 90, 60), np.uint8)
    for centre, colour in zip(
        DISCS, [(220, 40, 40), (40, 60, 220), (230, 200, 50), (240, 240, 240)], strict=True
    ):
        image[disc(centre)] = colour
    return ImageSource(request.node.name, lambda: image)


def look(engine, picture, seconds=PATIENCE, **how):
    return engine.everything(picture, Priority.TRACK, seconds, **how)


def found(everything):
    """The discs that were found."""
    masks = [each.mask.unpack() for each in everything.answers]
    return {centre for centre in DISCS if any(mask_iou(mask, disc(centre)) > 0.8 for mask in masks)}


def around(*centres):
    """A box around discs, in percent."""
    corners = [
        (x + sign * DISCS[x, y] * 1.1, y + sign * DISCS[x, y] * 1.1)
        for x, y in centres
        for sign in (-1, 1)
    ]
    (x0, y0), (x1, y1) = np.min(corners, axis=0), np.max(corners, axis=0)
    sides = 100 / WIDTH, 100 / HEIGHT
    return Box(x0 * sides[0], y0 * sides[1], (x1 - x0) * sides[0], (y1 - y0) * sides[1])


def test_all_objects_are_found_and_none_overlaps_another(engine, picture):
    everything = look(engine, picture)
    assert found(everything) == set(DISCS)
    assert everything.more == 0
    assert everything.looked == 1
    seen = np.zeros(WHOLE, int)
    for answer in pickle.loads(pickle.dumps(everything)).answers:
        mask = answer.mask.unpack()
        assert mask.shape == WHOLE
        assert np.count_nonzero(mask & (seen > 0)) <= 1.5 * OVERLAP * mask.sum()
        seen += mask


def test_in_a_box_only_what_lies_in_it_is_found(engine, picture):
    centre = (110, 220)
    everything = look(engine, picture, within=around(centre))
    assert found(everything) == {centre}
    for answer in everything.answers:
        x0, y0, x1, y1 = answer.mask.box
        assert 40 < x0 < x1 < 190
        assert 140 < y0 < y1 < HEIGHT


def test_what_is_labelled_already_is_left_out(engine, picture):
    first, second, *others = DISCS
    x, y = first
    ring = [(x - 45, y - 45), (x + 45, y - 45), (x + 45, y + 45), (x - 45, y + 45)]
    polygon = Polygon(tuple((px * 100 / WIDTH, py * 100 / HEIGHT) for px, py in ring))
    taken = [ObjectPrompt("image", shape=polygon), ObjectPrompt("image", box=around(second))]
    assert found(look(engine, picture, taken=taken)) == set(others)
    # The same search without them: they were not looked for, and are neither lost.
    assert found(look(engine, picture)) >= set(others)


def test_no_more_than_asked_for(engine, picture):
    every = look(engine, picture)
    some = look(engine, picture, most=2)
    assert some.answers == every.answers[:2]
    assert some.more == len(every.answers) - 2


def test_a_search_that_was_stopped_goes_on_from_there(engine, picture):
    looks = []

    def stopped():
        looks.append(True)
        return len(looks) > 60  # some points have been asked about

    begun = look(engine, picture, stopped=stopped)
    assert 0 < begun.looked < 1
    ended = look(engine, picture)
    assert ended.looked == 1
    assert found(ended) == set(DISCS)
    assert found(begun) <= found(ended)


def test_no_time_is_no_error(engine, picture):
    engine.embed(picture, Priority.CLICK, PATIENCE)
    everything = look(engine, picture, stopped=lambda: True)
    assert everything.answers == ()
    assert everything.looked == 0


def test_a_box_of_nothing_is_refused(engine, picture):
    with pytest.raises(UnusableShape, match="too small to look for objects in it"):
        look(engine, picture, within=Box(50, 50, 0.1, 0.1))
    with pytest.raises(UnusableShape, match="too small"):
        look(engine, picture, within=Box(120, 50, 30, 30))


def test_a_click_is_answered_between_two_batches(engine, picture):
    click = ObjectPrompt("image", points=(PointPrompt(20, 23),))
    other = replace(picture, key="where somebody clicks")
    engine.embed(other, Priority.CLICK, PATIENCE)
    ended = []

    def stopped():
        if not ended:
            until(lambda: engine._thread.depth(Priority.CLICK) > 0 or ended, PATIENCE)
        return False

    with ThreadPoolExecutor(2) as pool:
        search = pool.submit(look, engine, picture, stopped=stopped)
        answer = pool.submit(engine.answer, other, [click], Priority.CLICK, PATIENCE)
        answer.add_done_callback(lambda _: ended.append("click"))
        search.add_done_callback(lambda _: ended.append("search"))
        assert answer.result(LONGER)
        assert search.result(LONGER).looked == 1
    assert ended == ["click", "search"]


def test_large_masks_do_not_keep_others_away(engine, picture):
    """What is behind the discs covers most of the picture, and comes after them."""
    everything = look(engine, picture)
    large = [n for n, each in enumerate(everything.answers) if each.mask.area > WIDTH * HEIGHT / 2]
    assert all(number >= len(DISCS) for number in large)


@given(st.integers(1, 40))
def test_every_point_is_asked_about_once_and_those_far_apart_first(per_side):
    order = coarse_first(per_side)
    assert sorted(order) == list(range(per_side**2))
    if per_side == 16:
        rows, columns = np.divmod(order[:5], 16)
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
            (8, 8), (4, 4), (4, 12), (12, 4), (12, 12),
        }  # fmt: skip


@given(
    st.integers(2, 3000), st.integers(2, 3000),
    st.tuples(*[st.floats(0, 99)] * 2, *[st.floats(1, 100)] * 2),
)  # fmt: skip
def test_the_map_of_what_is_taken_is_that_of_the_part(width, height, box):
    within = Box(*box)
    try:
        part = Part.of((height, width), within)
    except UnusableShape:
        return
    window = part.window
    assert 0 <= window.x < window.x + window.width <= width
    assert 0 <= window.y < window.y + window.height <= height
    covered = taken_map([ObjectPrompt("image", box=within)], part, no_masks)
    assert max(covered.shape) <= searching._MAP_SIDE
    x0, y0, x1, y1 = part.box
    share = (x1 - x0) * (y1 - y0) / (window.width * window.height)
    cell = (1 / covered.shape[0]) + (1 / covered.shape[1])
    assert covered.mean() == pytest.approx(share, abs=2 * cell)
