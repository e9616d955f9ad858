"""The local engine: loads in the background, encodes once, never makes a click wait in vain."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from backend.engine.building import ModelChoice
from backend.engine.engine import Answer, NotReady, State
from backend.engine.local import LocalEngine
from backend.engine.pixel_prompts import UnusableShape
from backend.engine.scheduler import Priority
from backend.engine.segmenting import MAX_BATCH, batch_size
from backend.labelstudio.geometry import Box
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.labelstudio.read_results import Polygon
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from backend.threads.caller import serving
from backend.threads.fair_queue import Busy
from tests.backend.fakes import AsGiven, FakePredictor
from tests.waiting import LONGER, PATIENCE, until


@pytest.fixture
def predictor():
    return FakePredictor()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def make_engine(metrics):
    engines = []

    def make(build, cache_bytes=10_000):
        engine = LocalEngine(
            ModelChoice("demo"), AsGiven(), cache_bytes=cache_bytes, metrics=metrics, build=build
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(make_engine, predictor):
    engine = make_engine(lambda choice: predictor)
    engine.wait_ready(PATIENCE)
    return engine


def source(key="a", size=(40, 60), count=None):
    def load():
        if count is not None:
            count.append(key)
        return np.zeros((*size, 3), np.uint8)

    return ImageSource(key, load)


def point(x, y, positive=True):
    """Of a picture of 60 x 40 pixels."""
    return PointPrompt(x * 100 / 60, y * 100 / 40, positive)


def click(x, y):
    return ObjectPrompt("image", points=(point(x, y),))


def box(x0, y0, x1, y1):
    sides = (x1 - x0) * 100 / 60, (y1 - y0) * 100 / 40
    return ObjectPrompt("image", box=Box(x0 * 100 / 60, y0 * 100 / 40, *sides))


def lookups(metrics, outcome):
    return metrics.embedding_lookups.labels(outcome)._value.get()


def test_it_answers_while_the_model_loads(make_engine, predictor):
    loaded = threading.Event()

    def build(choice):
        assert loaded.wait(LONGER)
        return predictor

    engine = make_engine(build)
    assert engine.status().state is State.LOADING
    with pytest.raises(NotReady, match="loading"):
        engine.embed(source(), Priority.CLICK, timeout=0.05)
    loaded.set()
    engine.wait_ready(PATIENCE)
    assert engine.status().state is State.READY


def test_a_model_that_does_not_load_says_why(make_engine):
    def build(choice):
        raise FileNotFoundError("no weights at\n/models/tiny.pt")

    engine = make_engine(build)
    with pytest.raises(NotReady, match=r"could not be loaded: no weights at /models/tiny\.pt"):
        engine.wait_ready(PATIENCE)
    assert engine.status().state is State.FAILED


def test_the_second_click_neither_decodes_nor_encodes(engine, predictor, metrics):
    loads = []
    for x in (10, 20):
        [answer] = engine.answer(source(count=loads), [click(x, 20)], Priority.CLICK, PATIENCE)
        assert (answer.mask.width, answer.mask.height) == (60, 40)
        assert answer.mask.unpack()[20, x]
    assert (predictor.embeds, len(loads)) == (1, 1)
    assert (lookups(metrics, "miss"), lookups(metrics, "hit")) == (1, 1)


def test_many_first_clicks_on_one_image_encode_once(engine, predictor, metrics):
    predictor.hold.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(engine.answer, source("a"), [click(5, 5)], Priority.CLICK, PATIENCE)
            for _ in range(8)
        ]
        assert predictor.entered.wait(PATIENCE)
        predictor.hold.set()
        answers = [future.result(PATIENCE) for future in futures]
    assert predictor.embeds == 1
    assert all(answer == answers[0] for answer in answers)
    assert lookups(metrics, "miss") == 1


def test_a_click_hurries_the_encode_that_a_page_began(engine, predictor):
    """The click joins a queued prefetch and pulls it ahead of the other prefetches."""
    predictor.hold.clear()
    with ThreadPoolExecutor(8) as pool:
        pool.submit(engine.embed, source("running"), Priority.PREFETCH, PATIENCE)
        assert predictor.entered.wait(PATIENCE)
        encoded = []

        def loader(key):
            def load():
                queued.release()
                return np.full((8, 8, 3), ord(key), np.uint8)

            return ImageSource(key, load)

        queued = threading.Semaphore(0)
        embed = predictor.embed
        predictor.embed = lambda pixels: (encoded.append(chr(pixels[0, 0, 0])), embed(pixels))[1]
        for key in "xyz":
            pool.submit(engine.embed, loader(key), Priority.PREFETCH, PATIENCE)
            assert queued.acquire(timeout=PATIENCE)
        until(lambda: len(engine._encodes) == 4 and engine._thread.waiting == 3)
        clicked = pool.submit(engine.embed, loader("z"), Priority.CLICK, PATIENCE)
        [waiting] = [each.job for key, each in engine._encodes.items() if key.endswith(" z")]
        until(lambda: waiting.priority == Priority.CLICK)
        predictor.hold.set()
        clicked.result(PATIENCE)
    assert encoded[0] == "z"


def test_an_image_that_cannot_be_decoded_fails_for_all_and_is_tried_again(engine):
    attempts = []

    def load():
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not an image")
        return np.zeros((4, 4, 3), np.uint8)

    with pytest.raises(ValueError, match="not an image"):
        engine.embed(ImageSource("k", load), Priority.CLICK, PATIENCE)
    [answer] = engine.answer(ImageSource("k", load), [click(5, 5)], Priority.CLICK, PATIENCE)
    assert answer.mask.width == 4


def test_an_impatient_click_is_told_and_the_encode_serves_the_next_one(engine, predictor):
    predictor.hold.clear()
    with pytest.raises(Busy, match="try again"):
        engine.embed(source(), Priority.CLICK, 0.05)
    predictor.hold.set()
    engine.embed(source(), Priority.CLICK, PATIENCE)
    assert predictor.embeds == 1


def test_the_cache_holds_its_bound(make_engine, predictor):
    engine = make_engine(lambda choice: predictor, cache_bytes=2500)
    for key in "abc":
        engine.embed(source(key), Priority.CLICK, PATIENCE)
    assert engine._cache.nbytes == 2000
    engine.embed(source("c"), Priority.CLICK, PATIENCE)
    assert predictor.embeds == 3
    engine.embed(source("a"), Priority.CLICK, PATIENCE)
    assert predictor.embeds == 4


@pytest.mark.parametrize(
    ("prompt", "multimask"),
    [
        (click(5, 5), True),
        (ObjectPrompt("image", points=(point(0, 0), point(0, 0, positive=False))), False),
        (box(0, 1, 2, 3), False),
        (replace(box(0, 1, 2, 3), points=(point(5, 5),)), False),
    ],
)
def test_only_one_click_is_ambiguous(engine, predictor, prompt, multimask):
    engine.answer(source(), [prompt], Priority.CLICK, PATIENCE)
    assert predictor.calls[-1]["multimask"] is multimask


def test_a_drawn_shape_becomes_a_mask_prompt(engine, predictor):
    corners = [(10, 10), (20, 10), (20, 20), (10, 20)]
    shape = Polygon(tuple((x * 100 / 60, y * 100 / 40) for x, y in corners))
    engine.answer(source(), [ObjectPrompt("image", shape=shape)], Priority.CLICK, PATIENCE)
    assert predictor.calls[-1]["mask"].max() > 0 > predictor.calls[-1]["mask"].min()


def test_an_outline_that_takes_long_to_fill_spoils_no_other(engine, monkeypatch):
    monkeypatch.setattr("backend.labelstudio.geometry.MAX_CROSSINGS", 1000)
    zigzag = Polygon(tuple((x % 90, 100.0 * (x % 2)) for x in range(100)))
    prompts = [ObjectPrompt("image", shape=zigzag), box(0, 1, 2, 3)]
    refused, answered = engine.answer(source(), prompts, Priority.RETRIEVE, PATIENCE)
    assert isinstance(refused, UnusableShape)
    assert "draw it with fewer corners" in str(refused)
    assert isinstance(answered, Answer)


def test_a_further_point_corrects_the_answer_to_those_before_it(engine, predictor):
    """Where that is asked for, and where it was asked of the same image."""
    first, second = point(10, 10), point(30, 20)

    def corrects(points, key="a", refine=True):
        prompt = ObjectPrompt("image", points=points)
        engine.answer(source(key), [prompt], Priority.CLICK, PATIENCE, refine=refine)
        return predictor.calls[-1]["mask"] is not None

    assert not corrects((first,))
    assert corrects((first, second))
    assert not corrects((first, second), refine=False)
    assert not corrects((first, second), key="b")
    assert not corrects((second, first))
    assert corrects((first, second, point(40, 20)))


def test_an_answer_to_another_person_is_not_corrected(engine, predictor):
    first, second = point(10, 10), point(30, 20)

    def corrects(person, *points):
        with serving(project="1.1", person=person):
            prompt = ObjectPrompt("image", points=points)
            engine.answer(source(), [prompt], Priority.CLICK, PATIENCE, refine=True)
        return predictor.calls[-1]["mask"] is not None

    assert not corrects("anna", first)
    assert not corrects("bert", first, second)
    assert corrects("anna", first, second)
    assert not corrects("", point(50, 20))  # before there is a draft, which names its owner
    assert corrects("bert", point(50, 20), second)


def test_version_names_what_changes_the_masks(tmp_path):
    choice = ModelChoice("sam2.1_hiera_tiny", tmp_path / "tuned.pt", image_size=512)
    assert choice.version == "sam2.1_hiera_tiny-tuned-512px"


def test_boxes_are_decoded_together_and_answered_in_order(engine, predictor):
    prompts = [box(x, 0, x + 3, 3) for x in range(40)]
    prompts[5] = click(30, 30)
    found = engine.answer(source(), prompts, Priority.RETRIEVE, PATIENCE)
    assert predictor.batches == [32, 7]
    for number, answer in enumerate(found):
        assert answer.mask.box[0] == (10 if number == 5 else number)


def test_boxes_on_a_large_picture_are_few_at_once_and_their_masks_are_dropped(
    engine, predictor, monkeypatch
):
    """A mask is as large as the picture: no more than a batch of them, and the one that is packed,
    are there together. The masks are the same."""
    engine.wait_ready(PATIENCE)
    prompts = [box(x, x % 7, x + 9, 30) for x in range(40)]
    prompts[3], prompts[11] = click(30, 30), replace(box(3, 3, 9, 9), points=(point(5, 5),))
    wanted = engine.answer(source(), prompts, Priority.RETRIEVE, PATIENCE)
    width, height = 60, 40
    monkeypatch.setattr("backend.engine.segmenting.MAX_BATCH_PIXELS", 4 * width * height)
    made: list[weakref.ref] = []
    alive: list[int] = []
    predict = predictor.predict

    def counted(*args, **kwargs):
        found = predict(*args, **kwargs)
        made.append(weakref.ref(found.masks))
        alive.append(sum(each() is not None for each in made))
        return found

    monkeypatch.setattr(predictor, "predict", counted)
    predictor.batches.clear()
    found = engine.answer(source(), prompts, Priority.RETRIEVE, PATIENCE)
    assert predictor.batches == [4] * 9 + [2]
    assert [each.mask for each in found] == [each.mask for each in wanted]
    assert len(made) == 40
    assert max(alive) <= 2 * 4


def test_a_picture_as_large_as_they_come_has_one_box_at_a_time():
    assert batch_size(9_000, 9_000) == batch_size(12_500, 8_000) == 1
    assert batch_size(1_920, 1_080) == 16
    assert batch_size(60, 40) == MAX_BATCH


def test_a_click_goes_between_the_boxes_of_a_large_batch(engine, predictor):
    engine.embed(source(), Priority.CLICK, PATIENCE)
    boxes = [box(0, 0, 9, 9)] * 96
    answered = []
    entered, hold = threading.Event(), threading.Event()
    decode = predictor.predict_boxes

    def slowly(embedding, boxes):
        entered.set()
        assert hold.wait(LONGER)
        answered.append(len(boxes))
        return decode(embedding, boxes)

    predictor.predict_boxes = slowly
    with ThreadPoolExecutor(2) as pool:
        batch = pool.submit(engine.answer, source(), boxes, Priority.RETRIEVE, PATIENCE)
        assert entered.wait(PATIENCE)
        clicked = pool.submit(engine.answer, source(), [click(5, 5)], Priority.CLICK, PATIENCE)
        clicked.add_done_callback(lambda future: answered.append("click"))
        until(lambda: engine._thread.waiting)
        hold.set()
        assert len(batch.result(PATIENCE)) == 96
    assert answered.index("click") <= 2
