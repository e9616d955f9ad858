"""The network against the official ``sam2`` package, with the same random weights."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.support import torchvision_stand_in
from benchmarks.support.parity import (
    BOUND,
    POINTER_SCALE,
    VARIANT_NAMES,
    image_features,
    measure_full_size,
    measure_parts,
)
from benchmarks.support.reference import Pair, draw_weights, make_pair, relative_error
from sam2model import ImagePredictor, build_model
from sam2model.sam2 import SAM2, ObjectPointer, SpatialMemory
from sam2model.variants import VARIANTS

pytestmark = pytest.mark.parity


def assert_within_bound(errors: Iterator[tuple[str, float]]) -> None:
    measured = dict(errors)
    assert measured
    # Not "error > BOUND": NaN must fail too.
    assert not {part: error for part, error in measured.items() if not error <= BOUND}


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_full_size(name):
    assert_within_bound(measure_full_size(name))


@pytest.mark.parametrize("name", [*VARIANT_NAMES, "demo"])
def test_parts(name):
    assert_within_bound(measure_parts(name))


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("sam2_hiera_small", 256),
        ("sam2.1_hiera_small", 256),
        ("sam2_hiera_large", 256),
        ("sam2.1_hiera_large", 256),
        ("demo", 256),
        ("sam2.1_hiera_tiny", 512),
        ("sam2.1_hiera_tiny", 224),
    ],
)
def test_strict_loading_and_features_of_other_sizes(name, image_size):
    with torch.no_grad():
        assert_within_bound(image_features(make_pair(name, image_size)))


@pytest.mark.parametrize(
    ("name", "size"), [("sam2_hiera_tiny", 128), ("demo", 128), ("edgetam", 256)]
)
def test_random_weights_hide_nothing(name, size):
    """Every weight matters to what is compared: drawing it anew would move some output by more
    than the bound. Without this, parity could be that of outputs which depend on nothing.
    """
    torch.manual_seed(0)
    model = SAM2(VARIANTS[name], size).eval()
    model.load_state_dict(draw_weights(model.state_dict(), seed=0))
    weights = dict(model.named_parameters())
    effects = dict.fromkeys(weights, 0.0)
    generator = torch.Generator().manual_seed(1)
    for output in run_everything(model):
        probe = torch.randn(output.shape, generator=generator)
        scale = output.detach().abs().max() * output.numel() ** 0.5
        gradients = torch.autograd.grad(
            (output * probe).sum() / scale,
            list(weights.values()),
            retain_graph=True,
            allow_unused=True,
        )
        for (key, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                effect = float((gradient * weight.detach()).norm())
                effects[key] = max(effects[key], effect)
    # Unused by every published configuration; and softmax is blind to a term that all keys of
    # a query share, which the bias of keys without rotary positions is.
    inert = {"no_mem_pos_enc"} | {
        key for key in weights if key.startswith("sam_mask_decoder") and "k_proj.bias" in key
    }
    assert {key for key, effect in effects.items() if not effect > BOUND} == inert


def run_everything(model: SAM2) -> list[torch.Tensor]:
    """One pass through every step and every kind of prompt; all outputs, differentiable."""
    size = model.image_size
    features = model.encode_image(torch.randn(1, 3, size, size))
    points = torch.rand(2, 4, 2) * size
    labels = torch.tensor([[2, 3, 1, -1], [1, 0, 1, 0]])
    masks = torch.zeros(2, 1, size, size)
    masks[0, :, size // 4 : size // 2] = 1
    conditioned = model.without_memory(features.embedding)
    several = model.decode_masks(conditioned, features.high_res, points, labels, multimask=True)
    # In training the single mask is never replaced by one of the three.
    model.sam_mask_decoder.train()
    single = model.decode_masks(conditioned, features.high_res, points, labels)
    model.sam_mask_decoder.eval()
    with torch.no_grad():  # so that objects are present, and pointers their own
        head = model.sam_mask_decoder.pred_obj_score_head
        head.layers[-1].bias += 1000
    given = model.mask_as_output(features, masks)
    memory = model.encode_memory(
        features.embedding, given.high_res_logits, torch.tensor([[-1.0], [1.0]])
    )
    conditioned = model.condition_on_memory(
        features.embedding,
        [SpatialMemory(ago, memory / memory.std()) for ago in range(7)],
        [ObjectPointer(ago, POINTER_SCALE * given.pointer) for ago in (3, 1)],
        15,
    )
    return [
        several.logits,
        several.ious,
        single.logits,
        single.ious,
        single.object_score_logits,
        given.pointer,
        memory,
        conditioned,
    ]


@pytest.fixture(scope="module")
def picture(disc):
    return disc(300, 420, centre=(150, 120), radius=60)[0]


@pytest.fixture(scope="module")
def predictors(picture):
    with torchvision_stand_in.installed():
        from sam2.sam2_image_predictor import SAM2ImagePredictor

    pair = make_pair("sam2.1_hiera_tiny")
    official = SAM2ImagePredictor(pair.official)
    official.set_image(picture)
    ours = ImagePredictor(pair.ours)
    return official, ours, ours.embed(picture)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
class TestImagePredictor:
    """The whole official ``SAM2ImagePredictor`` against ours, on a picture."""

    @pytest.mark.parametrize(
        ("prompt", "multimask"),
        [
            ({"points": [[150, 120]], "labels": [1]}, True),
            ({"points": [[150, 120]], "labels": [1]}, False),
            ({"points": [[150, 120], [20, 250], [400, 10]], "labels": [1, 0, 1]}, False),
            ({"box": [90.5, 60, 210, 180.25]}, False),
            ({"box": [90, 60, 210, 180], "points": [[150, 120]], "labels": [0]}, False),
            ({"mask": True}, False),
            ({"mask": True, "points": [[150, 120]], "labels": [1]}, False),
        ],
        ids=["click, 3 masks", "click", "clicks", "box", "box, click", "mask", "mask, click"],
    )  # fmt: skip
    def test_one_object(self, predictors, prompt, multimask):
        official, ours, embedding = predictors
        if "mask" in prompt:
            logits = np.random.default_rng(0).normal(0, 5, (1, 256, 256)).astype(np.float32)
            prompt = {**prompt, "mask": logits}
        prediction = ours.predict(embedding, multimask=multimask, **prompt)
        masks, scores, low_res = official.predict(
            point_coords=_array(prompt.get("points")),
            point_labels=_array(prompt.get("labels")),
            box=_array(prompt.get("box")),
            mask_input=prompt.get("mask"),
            multimask_output=multimask,
        )
        order = np.argsort(-scores, kind="stable")
        compare(prediction, masks[order].astype(bool), scores[order], low_res[order])

    def test_many_boxes(self, predictors):
        official, ours, embedding = predictors
        boxes = np.array([[90, 60, 210, 180], [0, 0, 400, 290], [200, 100, 260, 220]])
        masks, scores, low_res = official.predict(box=boxes, multimask_output=False)
        for i, prediction in enumerate(ours.predict_boxes(embedding, boxes)):
            compare(prediction, masks[i].astype(bool), scores[i], low_res[i])


def _array(values):
    return None if values is None else np.array(values)


def compare(prediction, masks, scores, logits) -> None:
    assert prediction.masks.shape == masks.shape
    np.testing.assert_allclose(prediction.scores, scores, rtol=BOUND)
    assert relative_error(torch.tensor(prediction.logits), torch.tensor(logits)) <= BOUND
    assert 0 < masks.mean() < 1
    # A pixel may differ only where its logit is zero but for rounding.
    assert (prediction.masks == masks).mean() > 0.9999


def test_demo_weights_in_the_official_model(disc):
    """The shipped weights, through the official classes and ours, on a picture."""
    from sam2model.preprocessing import preprocess

    ours = build_model("demo", device="cpu", dtype="float32")
    pair = make_pair("demo")
    pair.official.load_state_dict(ours.state_dict(), strict=True)
    image, inside = disc(256, 256, centre=(128, 128), radius=50)
    pixels = preprocess(image, 256, torch.device("cpu"))
    with torch.no_grad():
        assert_within_bound(image_features(Pair("demo", pair.official, ours)))
        features = ours.encode_image(pixels)
        official_features = pair.official.forward_image(pixels)["backbone_fpn"]
        conditioned = ours.without_memory(features.embedding)
        points, labels = torch.tensor([[[128.0, 128.0]]]), torch.ones(1, 1, dtype=torch.int32)
        mask = ours.segment_object(conditioned, features.high_res, points, labels, multimask=True)
        official = pair.official._forward_sam_heads(
            official_features[2] + pair.official.no_mem_embed.view(1, -1, 1, 1),
            {"point_coords": points, "point_labels": labels},
            high_res_features=official_features[:2],
            multimask_output=True,
        )
    assert relative_error(mask.candidates, official[0]) <= BOUND
    assert relative_error(mask.candidate_ious, official[2]) <= BOUND
    found = mask.high_res_logits[0, 0].numpy() > 0
    assert (found & inside).sum() / (found | inside).sum() > 0.9
