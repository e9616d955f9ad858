"""An answer holds what was clicked, nothing of the clicked background, and no far-off islands."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.engine.pixel_prompts import PixelPrompt, pixel_prompt
from backend.engine.segmenting import Clicks, segment_batch, settle, without_islands
from backend.labelstudio.geometry import Box
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.read_results import no_masks
from demo.sample_photos import read_photo
from sam2model import ImagePredictor, build_model
from tests.backend.fakes import FakePrediction

SIDE = 160


@pytest.fixture(scope="module")
def predictor():
    return ImagePredictor(build_model("demo", device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def photo(predictor):
    """A photo of several things, small: encoded, with its size."""
    image = read_photo("quince.jpg")
    return predictor.embed(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def clicks(*points):
    """Of (column, row, positive)."""
    xy = np.array([point[:2] for point in points], int).reshape(-1, 2)
    return Clicks(xy, np.array([point[2] for point in points], bool))


pixels = st.integers(0, SIDE - 1)
sequences = st.lists(
    st.tuples(pixels, pixels, st.booleans()), min_size=1, max_size=5, unique_by=lambda c: c[:2]
)


@given(sequences)
@settings(max_examples=40, deadline=None)
@example([(80, 80, True), (81, 80, False)])  # side by side
@example([(80, 80, True), (80, 81, False), (80, 79, False), (79, 80, False), (81, 80, False)])
def test_every_click_is_heeded_in_a_sequence_of_corrections(predictor, photo, sequence):
    sequence = [(*sequence[0][:2], True), *sequence[1:]]
    logits = None
    for count in range(1, len(sequence) + 1):
        done = sequence[:count]
        points = np.array([(x + 0.5, y + 0.5) for x, y, _ in done])
        signs = np.array([positive for *_, positive in done])
        prompt = PixelPrompt(points, signs, logits=logits)
        [segment] = segment_batch(predictor, photo, [prompt], 0.005)
        logits = segment.logits
        if segment.mask.any():
            assert [bool(segment.mask[y, x]) for x, y, _ in done] == signs.tolist()


@given(sequences, st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_clicks_settle_any_mask(sequence, seed):
    noise = np.random.default_rng(seed).normal(0, 1, (40, 40)).astype(np.float32)
    logits = cv2.GaussianBlur(noise, (0, 0), 3)
    mask = cv2.resize(logits, (SIDE, SIDE)) > 0
    clicked = clicks(*sequence)
    settled = settle(mask, logits, clicked)
    assert clicked.agree(settled)


def disc(x, y, radius):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_piece_with_a_background_click_leaves_whole():
    mask = disc(40, 80, 30) | disc(120, 80, 20)
    settled = settle(mask, np.zeros((40, 40)), clicks((40, 80, True), (125, 85, False)))
    assert (settled == disc(40, 80, 30)).all()


def test_without_a_click_on_the_object_the_largest_piece_is_it():
    mask = disc(40, 80, 30) | disc(120, 80, 20)
    settled = settle(mask, np.full((40, 40), 1.0), clicks((65, 80, False), (120, 80, False)))
    assert not settled[disc(120, 80, 20)].any()
    assert settled[disc(40, 80, 30)].mean() > 0.4


def test_a_background_click_in_the_piece_of_the_object_takes_what_is_as_doubtful():
    mask = disc(50, 80, 30) | disc(100, 80, 25)  # two that touch: sure of the one, not of the other
    logits = np.where(disc(50, 80, 30), 8.0, np.where(disc(100, 80, 25), 1.0, -8.0))
    settled = settle(mask, logits, clicks((50, 80, True), (105, 80, False)))
    assert settled[disc(50, 80, 29)].all()
    assert not settled[disc(105, 80, 15)].any()


@pytest.mark.parametrize(
    ("clicked", "doubt", "left"),
    [
        ([(40, 40)], 1.0, ["object", "near"]),
        ([(40, 40)], 5.0, ["object", "near", "far"]),  # a part that the model is sure of
        ([(40, 40), (140, 140)], 1.0, ["object", "near", "far"]),
        ([(100, 20)], 1.0, ["object", "near", "far"]),  # in none of the pieces
    ],
)
def test_doubtful_islands_leave_and_parts_stay(clicked, doubt, left):
    pieces = {"object": disc(40, 40, 20), "near": disc(40, 75, 10), "far": disc(140, 140, 12)}
    mask = np.any(list(pieces.values()), axis=0)
    logits = np.where(pieces["object"], 8.0, np.where(mask, doubt, -8.0))
    found = without_islands(mask, logits, clicks(*((x, y, True) for x, y in clicked)))
    assert (found == np.any([pieces[name] for name in left], axis=0)).all()


def test_a_candidate_that_holds_the_click_is_asked_for():
    class Ambiguous:
        def predict(self, image, heed, **_):
            assert (heed[0].tolist(), heed[1].tolist()) == ([[40, 80]], [True])
            mask = disc(40, 80, 30)[None]
            return FakePrediction(mask, np.array([0.6]), np.zeros((1, 40, 40), np.float32))

    prompt = PixelPrompt(np.array([[40.0, 80.0]]), np.array([True]))
    image = SimpleNamespace(original_size=(SIDE, SIDE))
    [segment] = segment_batch(Ambiguous(), image, [prompt], 0.005)
    assert segment.score == 0.6
    assert (segment.mask == disc(40, 80, 30)).all()


@pytest.mark.parametrize(
    ("positive", "with_memory", "without", "counts"),
    [(True, 0.4, 0.8, "without"), (True, 0.7, 0.8, "with"), (False, 0.4, 0.8, "without")],
)
def test_a_memory_that_speaks_against_the_clicks_does_not_count(
    positive, with_memory, without, counts
):
    class Torn:
        model = SimpleNamespace(image_size=SIDE)

        def predict(self, image, memory, mask, **_):
            assert mask is not None  # what was tracked is known in any case
            radius, score = (10, with_memory) if memory else (30, without)
            mask = disc(40, 80, radius)[None]
            return FakePrediction(mask, np.array([score]), np.zeros((1, 40, 40), np.float32))

    at = (40.0, 80.0) if positive else (140.0, 10.0)
    tracked = disc(120, 80, 20)
    prompt = PixelPrompt(np.array([at]), np.array([positive]), mask=tracked, memory=object())
    image = SimpleNamespace(original_size=(SIDE, SIDE))
    [segment] = segment_batch(Torn(), image, [prompt], 0.005)
    assert (segment.mask == disc(40, 80, 10 if counts == "with" else 30)).all()


def test_the_last_click_on_a_pixel_counts_and_clicks_beside_the_picture_do_not():
    points = np.array([[10.2, 10.2], [10.8, 10.9], [SIDE, SIDE], [-1.0, 5.0]])
    prompt = PixelPrompt(points, np.array([True, False, True, True]))
    found = Clicks.of(prompt, SIDE, SIDE)
    assert found.xy.tolist() == [[10, 10], [SIDE - 1, SIDE - 1]]
    assert found.positive.tolist() == [False, True]


def test_what_a_turned_box_hints_at_is_no_click():
    prompt = pixel_prompt(ObjectPrompt("image", box=Box(50, 10, 40, 20, 45)), SIDE, SIDE, no_masks)
    assert len(prompt.points) > 0
    assert len(Clicks.of(prompt, SIDE, SIDE).xy) == 0
