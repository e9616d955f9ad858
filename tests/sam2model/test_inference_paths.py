"""What is computed without gradients is what is computed with them, only faster."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.support.launches import meta_model
from benchmarks.support.reference import draw_weights, relative_error
from sam2model.dot_product import dot_product_attention
from sam2model.inference_weights import derived_bytes
from sam2model.matrix_product import linear, pack
from sam2model.sam2 import SAM2, ObjectPointer, SpatialMemory
from sam2model.variants import VARIANTS

pytestmark = pytest.mark.instruction_set
# At 512 pixels a memory has 1024 tokens, for which attention takes its ways for long inputs.
SIZE = 512


def build(seed: int = 0, name: str = "demo", size: int = SIZE) -> SAM2:
    model = SAM2(VARIANTS[name], size).eval()
    model.load_state_dict(draw_weights(model.state_dict(), seed))
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def every_step(model: SAM2) -> dict[str, Tensor]:
    size = model.image_size
    features = model.encode_image(noise(1, 3, size, size))
    side, dim = model.embedding_size, model.variant.d_model
    num_tokens = model.memory_position.shape[1]
    memories = [SpatialMemory(ago, noise(2, num_tokens, 64, seed=ago)) for ago in (0, 2, 1)]
    pointers = [ObjectPointer(ago, noise(2, dim, seed=ago)) for ago in (1, 2)]
    conditioned = model.condition_on_memory(features.embedding, memories, pointers, 15)
    found = model.decode_masks(noise(2, dim, side, side), features.high_res, multimask=True)
    memory = model.encode_memory(
        features.embedding, 8 * noise(2, 1, size, size), torch.tensor([[1.0], [-1.0]])
    )
    return {
        "embedding": features.embedding,
        "stride 4": features.high_res[0],
        "stride 8": features.high_res[1],
        "conditioned": conditioned,
        "logits": found.logits,
        "tokens": found.tokens,
        "memory": memory,
    }


def with_gradients(name: str) -> dict[str, Tensor]:
    return {step: value.detach() for step, value in every_step(build(name=name)).items()}


def assert_close(ours: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    errors = {name: relative_error(ours[name].float(), expected[name]) for name in expected}
    assert not {name: error for name, error in errors.items() if not error <= bound}


@pytest.mark.parametrize("name", ["demo", "edgetam"])
def test_the_same_in_float32(name):
    expected = with_gradients(name)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(every_step(build(name=name)), expected, bound=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "edgetam"])
def test_in_bfloat16_as_near_as_with_gradients(name):
    model = build(name=name)
    model.compute_dtype = torch.bfloat16
    with model.autocast():
        rough = {name: value.detach().float() for name, value in every_step(model).items()}
        with torch.inference_mode():
            fast = every_step(model)
    for step, expected in with_gradients(name).items():
        error = float((fast[step].float() - expected).square().mean().sqrt())
        known = float((rough[step] - expected).square().mean().sqrt())
        assert error <= 1.3 * known, step


@pytest.mark.parametrize(("name", "size"), [("sam2.1_hiera_tiny", 224), ("demo", 96)])
def test_strips_of_any_size_make_the_whole_map(name, size, monkeypatch):
    model = build(name=name, size=size)
    images = noise(2, 3, size, size)
    expected = model.encode_image(images).embedding.detach()
    for tokens in (1, 2 * size * size // 16):
        monkeypatch.setattr("sam2model.hiera._TOKENS_PER_STRIP", tokens)
        with torch.inference_mode():
            assert relative_error(model.encode_image(images).embedding, expected) <= 1e-5


def test_stages_of_a_single_block():
    demo = VARIANTS["demo"]
    trunk = replace(demo.trunk, stages=(1, 1, 1, 1), global_att_blocks=(3,))
    model = SAM2(replace(demo, trunk=trunk), 64).eval()
    images = noise(1, 3, 64, 64)
    expected = model.image_encoder(images)
    assert [x.shape[1:] for x in expected] == [(128, 16, 16), (128, 8, 8), (128, 4, 4)]
    with torch.inference_mode():
        for ours, theirs in zip(model.image_encoder(images), expected, strict=True):
            assert relative_error(ours, theirs.detach()) <= 1e-5


def test_changed_statistics_of_batch_norms_are_noticed():
    model = build(name="edgetam", size=256)
    images = noise(1, 3, 256, 256)
    with torch.inference_mode():
        before = model.encode_image(images).embedding.clone()
    with torch.no_grad():
        model.get_buffer(
            "image_encoder.trunk.body.stages_2.blocks.0.token_mixer.conv.bn.running_mean"
        ).add_(1)
    with torch.inference_mode():
        assert not torch.equal(model.encode_image(images).embedding, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changed_weights_are_noticed(dtype):
    model, other = build(0, size=64), build(1, size=64)
    for each in (model, other):
        each.compute_dtype = dtype
    images = noise(1, 3, 64, 64)

    def embed(which: SAM2) -> Tensor:
        with torch.inference_mode(), which.autocast():
            return which.encode_image(images).embedding.clone()

    before = embed(model)
    with torch.no_grad():
        model.image_encoder.trunk.pos_embed *= -1
    moved = embed(model)
    assert not torch.equal(moved, before)
    model.load_state_dict(other.state_dict())
    assert torch.equal(embed(model), embed(other))
    # Replaced, not changed in place.
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter.data)
    assert not embed(model).any()


def test_a_model_that_has_run_can_be_copied_and_sent():
    model = build(size=64)
    model.compute_dtype = torch.bfloat16
    images = noise(1, 3, 64, 64)
    with torch.inference_mode(), model.autocast():
        expected = model.encode_image(images).embedding
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other.encode_image(images).embedding, expected)


@pytest.mark.parametrize("width", [16, 64])
def test_attention_by_blocks(width):
    q, k = noise(2, 3, 300, 64), noise(2, 3, 1100, 64, seed=1)
    v = noise(2, 3, 1100, width, seed=2)
    expected = F.scaled_dot_product_attention(q, k, v)
    with torch.inference_mode():
        assert relative_error(dot_product_attention(q, k, v), expected) <= 1e-5
        halves = [x.to(torch.bfloat16) for x in (q, k, v)]
        ours = dot_product_attention(*halves)
    assert ours.dtype == torch.bfloat16
    # Scores are rounded, which torch's own kernel avoids.
    known = F.scaled_dot_product_attention(*halves)
    assert relative_error(ours.float(), expected) <= 2 * relative_error(known.float(), expected)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_linear(activation, dtype, bound):
    x, weight, bias = noise(2, 5, 8), noise(16, 8, seed=1), noise(16, seed=2)
    expected = F.linear(x, weight, bias)
    if activation != "none":
        expected = getattr(F, activation)(expected)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    for form in (weight, pack(weight)):
        ours = linear(x, form, bias, activation).float()
        assert relative_error(ours, expected) <= bound


@pytest.mark.parametrize(("name", "size"), [("demo", 64), ("edgetam", 256)])
def test_weights_that_are_only_cast_are_kept_once_with_the_same_results(
    name: str, size: int
) -> None:
    model = build(name=name, size=size)
    model.compute_dtype = torch.bfloat16
    with model.inference():
        expected = every_step(model)
        held = _held(model)
        model.narrow()
        found = every_step(model)
    assert found.keys() == expected.keys()
    for step, value in expected.items():
        assert torch.equal(found[step], value), step
    assert _held(model) < 0.75 * held
    exact = {p.dtype for p in model.sam_mask_decoder.iou_prediction_head.parameters()}
    assert exact == {torch.float32}


def _held(model: SAM2) -> int:
    return sum(parameter.nbytes for parameter in model.parameters()) + derived_bytes(model)


def test_the_weights_of_large_variants_halve() -> None:
    for name in ("sam2.1_hiera_tiny", "sam2.1_hiera_large"):
        model = meta_model(name)
        before = sum(parameter.nbytes for parameter in model.parameters())
        model.narrow()
        assert sum(parameter.nbytes for parameter in model.parameters()) < 0.56 * before
