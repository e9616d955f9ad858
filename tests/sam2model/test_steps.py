"""The steps of SAM2 as others build on them: differentiable, batched, and checked."""

import pytest
import torch

from sam2model.layers import LayerNorm2d
from sam2model.sam2 import SAM2, ObjectPointer, SpatialMemory, is_ambiguous
from sam2model.variants import VARIANTS, get_variant


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return SAM2(VARIANTS["demo"], image_size=128).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def test_a_tracking_step_can_be_trained(images):
    torch.manual_seed(0)
    model = SAM2(VARIANTS["demo"], image_size=128).train()
    features = model.encode_image(images[:1])
    first = model.mask_as_output(features, (torch.rand(2, 1, 128, 128) > 0.5))
    memory = model.encode_memory(
        features.embedding, first.high_res_logits, first.object_score_logits
    )
    later = model.encode_image(images[1:])
    conditioned = model.condition_on_memory(
        later.embedding, [SpatialMemory(0, memory)], [ObjectPointer(1, first.pointer)], 1
    )
    found = model.segment_object(conditioned, later.high_res, multimask=True)
    loss = found.object_score_logits.mean() + found.candidate_ious.mean()
    loss.backward()
    for part in ("image_encoder", "memory_encoder", "memory_attention", "sam_mask_decoder"):
        gradients = [p.grad for p in getattr(model, part).parameters() if p.grad is not None]
        assert gradients, part
        assert sum(float(g.abs().sum()) for g in gradients) > 0, part


def test_objects_of_a_batch_do_not_influence_each_other(model, images):
    points = torch.tensor([[[20.0, 30.0]], [[90.0, 100.0]], [[64.0, 5.0]]])
    labels = torch.tensor([[1], [0], [1]])
    with torch.inference_mode():
        features = model.encode_image(images[:1])
        conditioned = model.without_memory(features.embedding)
        together = model.segment_object(conditioned, features.high_res, points, labels)
        memories = model.encode_memory(
            features.embedding, together.high_res_logits, together.object_score_logits
        )
        assert memories.shape == (3, 8 * 8, 64)
        for i in range(3):
            rows = slice(i, i + 1)
            alone = model.segment_object(conditioned, features.high_res, points[rows], labels[rows])
            torch.testing.assert_close(together.logits[rows], alone.logits, atol=1e-4, rtol=0)
            torch.testing.assert_close(together.pointer[rows], alone.pointer, atol=1e-4, rtol=0)
            memory = model.encode_memory(
                features.embedding, alone.high_res_logits, alone.object_score_logits
            )
            torch.testing.assert_close(memories[rows], memory, atol=1e-4, rtol=0)


def test_one_image_serves_objects_with_memories_of_their_own(model, images):
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(3, 8 * 8, 64, generator=generator)
    pointer = torch.randn(3, 128, generator=generator)
    with torch.inference_mode():
        embedding = model.encode_image(images[:1]).embedding
        together = model.condition_on_memory(
            embedding, [SpatialMemory(0, memory)], [ObjectPointer(1, pointer)], 15
        )
        assert together.shape == (3, 128, 8, 8)
        alone = model.condition_on_memory(
            embedding, [SpatialMemory(0, memory[1:2])], [ObjectPointer(1, pointer[1:2])], 15
        )
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)


def test_absent_objects(model, images):
    """Where the presence head says no, mask and pointer are those of "no object"."""
    with torch.inference_mode():
        features = model.encode_image(images[:1])
        masks = torch.zeros(1, 1, 128, 128)
        empty = model.mask_as_output(features, masks)
        assert float(empty.object_score_logits) == -10
        torch.testing.assert_close(empty.logits, torch.full((1, 1, 32, 32), -10.0))
        torch.testing.assert_close(empty.pointer, model.no_obj_ptr)
        bias = model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
        bias -= 1000
        found = model.segment_object(features.embedding, features.high_res)
        bias += 1000
        assert (found.candidates == -1024).all()
        torch.testing.assert_close(found.pointer, model.no_obj_ptr)


def test_conditioning_needs_a_memory(model, images):
    embedding = model.encode_image(images[:1]).embedding
    with pytest.raises(ValueError, match="at least one spatial memory"):
        model.condition_on_memory(embedding, [], [], 1)


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 3, 64, 64), (1, 1, 128, 128)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"shape \[B, 3, 128, 128\]"):
        model.encode_image(torch.zeros(shape))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layer_norm_survives_large_half_precision_values(dtype, gradients):
    x = 1000 * torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(gradients):
        normalised = LayerNorm2d(8)(x.to(dtype))
    assert normalised.dtype == (torch.float32 if gradients else dtype)
    normalised = normalised.float()
    expected = torch.nn.functional.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(normalised, expected, atol=0.05, rtol=0)


def test_ambiguity():
    assert [is_ambiguous(n) for n in (0, 1, 2, 3)] == [True, True, False, False]


def test_variants_are_values():
    with pytest.raises(AttributeError):
        get_variant("demo").image_size = 1
    with pytest.raises(TypeError):
        VARIANTS["mine"] = get_variant("demo")
    with pytest.raises(ValueError, match="unknown model variant"):
        get_variant("huge")
