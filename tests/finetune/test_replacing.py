"""The engine takes other weights while it answers; embeddings stay where they are still true."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backend.engine.building import ModelChoice
from backend.engine.engine import Engine
from backend.engine.local import LocalEngine
from backend.engine.scheduler import Priority
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from tests.backend.fakes import AsGiven, FakePredictor
from tests.waiting import LONGER, PATIENCE

TUNED = ModelChoice("demo", Path("ft1-p5.safetensors"), family="demo")
IMAGE = ImageSource("photo", lambda: np.zeros((40, 60, 3), np.uint8))
CLICK = ObjectPrompt("image", points=(PointPrompt(50, 50),))


class Predictor(FakePredictor):
    """A fake whose encoder and decoder weights are numbers."""

    def __init__(self, encoder: float, decoder: float) -> None:
        super().__init__()
        weights = {
            "image_encoder.trunk": torch.tensor([encoder]),
            "sam_mask_decoder.iou": torch.tensor([decoder]),
        }
        self.model = SimpleNamespace(image_size=256, state_dict=lambda: weights)


@pytest.fixture
def start() -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(*built: object) -> LocalEngine:
        """An engine whose loads give one of ``built`` after the other; exceptions are raised."""
        left = list(built)

        def build(choice: ModelChoice) -> Any:
            found = left.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        engine = LocalEngine(
            ModelChoice("demo"), AsGiven(), cache_bytes=10_000, metrics=Metrics(), build=build
        )
        engine.wait_ready(PATIENCE)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def click(engine: Engine) -> Any:
    return engine.answer(IMAGE, [CLICK], Priority.CLICK, PATIENCE)


def test_another_decoder_answers_on_the_embeddings_that_are_there(
    start: Callable[..., LocalEngine],
) -> None:
    old, new = Predictor(1, 1), Predictor(1, 2)
    engine = start(old, new)
    engine.embed(IMAGE, Priority.CLICK, PATIENCE)
    engine.replace(TUNED)
    assert engine.model_version == "demo-ft1-p5"
    assert engine.family == "demo"
    assert "demo-ft1-p5" in engine.status().detail
    click(engine)
    assert (len(old.calls), len(new.calls)) == (0, 1)
    assert (old.embeds, new.embeds) == (1, 0)


def test_another_encoder_encodes_anew(start: Callable[..., LocalEngine]) -> None:
    old, new = Predictor(1, 1), Predictor(2, 1)
    engine = start(old, new)
    old.hold.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(click, engine)
        assert old.entered.wait(PATIENCE)
        engine.replace(TUNED)
        old.hold.set()
        asked.result(PATIENCE)  # a request stays with the weights that it began with
    assert (len(old.calls), len(new.calls)) == (1, 0)
    click(engine)
    assert (old.embeds, new.embeds) == (1, 1)
    assert (len(old.calls), len(new.calls)) == (1, 1)


def test_weights_that_cannot_be_loaded_change_nothing(start: Callable[..., LocalEngine]) -> None:
    old = Predictor(1, 1)
    engine = start(old, ValueError("damaged"))
    with pytest.raises(ValueError):
        engine.replace(TUNED)
    assert engine.model_version == "demo"
    click(engine)
    assert len(old.calls) == 1


def test_clicks_are_answered_while_the_new_weights_load(start: Callable[..., LocalEngine]) -> None:
    old = Predictor(1, 1)
    engine = start(old)
    loading, go_on = threading.Event(), threading.Event()

    def slow(choice: ModelChoice) -> Any:
        loading.set()
        assert go_on.wait(LONGER)
        return Predictor(1, 2)

    engine._build = slow
    thread = threading.Thread(target=engine.replace, args=(TUNED,))
    thread.start()
    assert loading.wait(PATIENCE)
    click(engine)
    assert engine.model_version == "demo"
    go_on.set()
    thread.join(PATIENCE)
    assert engine.model_version == "demo-ft1-p5"


def test_the_thread_that_loads_ends_so_that_the_network_keeps_its_cores(
    start: Callable[..., LocalEngine],
) -> None:
    engine = start(Predictor(1, 1))
    loaders: list[threading.Thread] = []

    def build(choice: ModelChoice) -> Any:
        loaders.append(threading.current_thread())
        return Predictor(1, 2)

    engine._build = build
    engine.replace(TUNED)
    [loader] = loaders
    assert not loader.is_alive()
