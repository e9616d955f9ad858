"""Compiling in the background: nobody waits for it, and where it fails nothing changes."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.engine import local
from backend.engine.building import ModelChoice, compile_in_background
from backend.engine.local import LocalEngine
from backend.engine.scheduler import Priority
from backend.labelstudio.prompts import ObjectPrompt, PointPrompt
from backend.metrics import Metrics
from backend.pixels.pixel_resolver import ImageSource
from backend.settings import Settings
from backend.wiring import Wiring
from sam2model import ImagePredictor, build_model
from sam2model.image_encoder import CompiledEncoder
from tests.backend.fakes import AsGiven
from tests.waiting import LONGER, PATIENCE, until

IMAGE = ImageSource("a", lambda: np.zeros((40, 60, 3), np.uint8))
CLICK = ObjectPrompt("image", points=(PointPrompt(50, 50),))


@pytest.fixture
def predictor() -> ImagePredictor:
    return ImagePredictor(build_model("demo", device="cpu", image_size=64))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def start(
    predictor: ImagePredictor, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(choice: ModelChoice, compile_it: Callable[..., None]) -> LocalEngine:
        def begin(choice: ModelChoice, predictor: ImagePredictor) -> threading.Thread:
            return compile_in_background(choice, predictor, compile_it)

        monkeypatch.setattr(local, "compile_in_background", begin)
        engine = LocalEngine(
            choice, AsGiven(), cache_bytes=10**7, metrics=metrics, build=lambda choice: predictor
        )
        engine.wait_ready(PATIENCE)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def click(engine: LocalEngine) -> Any:
    return engine.answer(IMAGE, [CLICK], Priority.CLICK, PATIENCE)


def test_clicks_are_answered_meanwhile_and_the_model_after_it_is_compiled_too(
    start: Callable[..., LocalEngine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    go_on, compiled = threading.Event(), []

    def compile_it(choice: ModelChoice, predictor: ImagePredictor) -> None:
        assert go_on.wait(LONGER)
        compiled.append(choice.version)

    choice = ModelChoice("demo", compile_cache=Path("cache"))
    engine = start(choice, compile_it)
    assert click(engine)
    assert compiled == []
    go_on.set()
    until(lambda: compiled == ["demo"])
    until(lambda: "the image encoder runs compiled from now on" in caplog.text)
    engine.replace(ModelChoice("demo", Path("tuned.safetensors"), compile_cache=Path("cache")))
    until(lambda: compiled == ["demo", "demo-tuned"])


def test_where_it_fails_the_log_says_why_and_clicks_are_answered(
    start: Callable[..., LocalEngine], caplog: pytest.LogCaptureFixture
) -> None:
    def compile_it(choice: ModelChoice, predictor: ImagePredictor) -> None:
        raise RuntimeError("no working C++ compiler\n was found")

    engine = start(ModelChoice("demo", compile_cache=Path("cache")), compile_it)
    until(lambda: "runs as it is: no working C++ compiler was found" in caplog.text)
    assert click(engine)


def test_nothing_is_compiled_unless_the_operator_says_so(start: Callable[..., LocalEngine]) -> None:
    def compile_it(choice: ModelChoice, predictor: ImagePredictor) -> None:
        raise AssertionError("compiled")

    choice = Wiring(Settings.from_env({})).base_model()
    assert choice.compile_cache is None
    engine = start(choice, compile_it)
    assert click(engine)
    assert not [each for each in threading.enumerate() if each.name == "compiling"]


def test_the_setting_names_the_folder_in_which_the_result_is_kept(tmp_path: Path) -> None:
    settings = Settings.from_env({"SAM2_COMPILE": "true", "CACHE_DIR": str(tmp_path)})
    assert Wiring(settings).base_model().compile_cache == tmp_path / "compiled"


@pytest.mark.parametrize("compile_cache", [None, Path("cache")])
def test_the_metrics_say_whether_it_runs_compiled(
    start: Callable[..., LocalEngine], metrics: Metrics, compile_cache: Path | None
) -> None:
    def compile_it(choice: ModelChoice, predictor: ImagePredictor) -> None:
        images = torch.Size((1, 3, 64, 64))
        run, device = predictor.model.encode_maps, torch.device("cpu")
        predictor.model.compiled_encoder = CompiledEncoder(run, images, device, torch.float32)

    start(ModelChoice("demo", compile_cache=compile_cache), compile_it)
    wanted = float(compile_cache is not None)
    until(lambda: metrics.registry.get_sample_value("sam2_model_compiled") == wanted)


@pytest.mark.parametrize(("seconds", "reached"), [(LONGER, ""), (0, "the interpreter ends\n")])
def test_a_process_that_ends_does_not_tear_the_compiler_apart(seconds: float, reached: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{ENDING}\nend(seconds={seconds})"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "closed\n" + reached
    assert (done.returncode, done.stderr) == (3, "")


ENDING = """
import atexit, sys, time
from backend.engine.building import ModelChoice, compile_in_background, end_while_compiling

def end(seconds):
    atexit.register(print, "the interpreter ends")
    thread = compile_in_background(ModelChoice("demo"), None, lambda *_: time.sleep(seconds))
    if not seconds:
        thread.join()
    print("closed")
    end_while_compiling(3)
    sys.exit(3)
"""
