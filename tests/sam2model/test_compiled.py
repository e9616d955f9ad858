"""The compiled image encoder: compiled once, used only where it fits, never worse than none."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from benchmarks.support.clips import MovingDiscs
from sam2model import ImagePredictor, VideoTracker, build_model
from sam2model.compiled import CompiledEncoderError, compile_image_encoder
from sam2model.sam2 import SAM2

SIDE = 64
IMAGE = MovingDiscs(1, 96)[0]
Backend = Callable[..., Any]


@pytest.fixture
def model() -> SAM2:
    torch.compiler.reset()
    return build_model("demo", device="cpu", dtype="float32", image_size=SIDE)


@pytest.mark.slow
@pytest.mark.instruction_set
@pytest.mark.parametrize(("dtype", "differing"), [(torch.float32, 0), (torch.bfloat16, 0.01)])
def test_clicks_and_objects_of_any_number_compile_it_once(
    model: SAM2, dtype: torch.dtype, differing: float
) -> None:
    model.compute_dtype = dtype
    clip = MovingDiscs(4, 96)
    plain = answers(model, clip)
    counter = CompileCounter()
    compile_image_encoder(model, counter)
    calls = count_calls(model)
    compiled = answers(model, clip)
    assert counter.frame_count == 1
    assert len(calls) == 1 + 8 * len(clip)  # the picture, and every frame of every track
    pixels = zip(compiled, plain, strict=True)
    assert np.mean([np.mean(a != b) for a, b in pixels]) <= differing


def answers(model: SAM2, clip: MovingDiscs) -> list[np.ndarray]:
    """Masks of 1 to 20 clicks on a picture, and of 1 to 8 objects through a clip."""
    predictor = ImagePredictor(model)
    embedding = predictor.embed(clip[0])
    places = np.random.default_rng(0).uniform(0, 96, (20, 2))
    found = [predictor.predict(embedding, points=places[:n]).masks for n in range(1, 21)]
    for objects in range(1, 9):
        tracker = VideoTracker(model, clip)
        for number in range(objects):
            tracker.prompt(0, number, points=places[number : number + 1])
        found += [step.masks for step in tracker.propagate()]
    return found


def count_calls(model: SAM2) -> list[Tensor]:
    """What the compiled encoder is given from now on."""
    encoder = model.compiled_encoder
    assert encoder is not None
    calls: list[Tensor] = []

    def run(images: Tensor) -> Any:
        calls.append(images)
        return encoder.run(images)

    model.compiled_encoder = type(encoder)(run, encoder.shape, encoder.device, encoder.dtype)
    return calls


@pytest.mark.instruction_set
def test_what_it_does_not_fit_is_encoded_as_before(model: SAM2) -> None:
    counter = CompileCounter()
    compile_image_encoder(model, counter)
    calls = count_calls(model)
    image = torch.zeros(1, 3, SIDE, SIDE)
    model.encode_image(image)  # with gradients, as in training
    with torch.inference_mode():
        model.encode_image(image)  # from elsewhere
        image = image.clone()
        model.encode_image(image.expand(2, -1, -1, -1))
        model.encode_image(image.mT.contiguous().mT)
        with torch.autocast("cpu", torch.bfloat16):
            model.encode_image(image)
        assert not calls
        model.encode_image(image)
    assert len(calls) == 1
    assert counter.frame_count == 1


def test_a_compiled_encoder_that_answers_otherwise_is_not_used(model: SAM2) -> None:
    def wrong(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        return lambda *given: tuple(2 * each for each in graph.forward(*given))

    with pytest.raises(CompiledEncoderError, match=r"off by 1\.0e\+00"):
        compile_image_encoder(model, wrong)
    assert model.compiled_encoder is None


def test_where_nothing_can_be_compiled_the_model_stays_as_it_is(model: SAM2) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler")

    with pytest.raises(Exception, match=r"no C\+\+ compiler"):
        compile_image_encoder(model, broken)
    assert model.compiled_encoder is None
    ImagePredictor(model).embed(IMAGE)


def test_another_thread_computes_as_it_is_meanwhile(model: SAM2) -> None:
    """What the layers do while they are traced must not reach the thread that answers clicks."""
    predictor = ImagePredictor(model)
    before = predictor.embed(IMAGE)
    during = []

    def looking(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        with ThreadPoolExecutor(1) as other:
            during.append(other.submit(predictor.embed, IMAGE).result())
        return graph.forward

    compile_image_encoder(model, looking)
    assert torch.equal(during[0].features.embedding, before.features.embedding)


@pytest.mark.slow
def test_inductor(model: SAM2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernels that other processes left in the common cache may be of another instruction set.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        with pytest.raises(Exception, match="compiler"):
            compile_image_encoder(model)
        assert model.compiled_encoder is None
        return
    predictor = ImagePredictor(model)
    plain = predictor.embed(IMAGE)
    compile_image_encoder(model)
    calls = count_calls(model)
    compiled = predictor.embed(IMAGE)
    assert len(calls) == 1
    torch.testing.assert_close(
        compiled.features.embedding, plain.features.embedding, rtol=1e-3, atol=1e-3
    )
