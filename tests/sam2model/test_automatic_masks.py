"""Automatic masks: beside the official generator, and by what they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.support.official_masks import build_generator, small_regions, xyxy
from benchmarks.support.parity import BOUND
from benchmarks.support.reference import draw_weights, make_pair
from sam2model import VARIANTS, AutomaticMask, AutomaticMaskGenerator, build_model
from sam2model.box_nms import box_nms
from sam2model.sam2 import SAM2
from sam2model.upsampled_masks import OutlineLogits, Upsampling

EVERYTHING_STAYS = {"box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}
# Masks of random weights are noise over the whole picture: they cover one another.
RANDOM = {"points_per_side": 4, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.1}
TRAINED = {"points_per_side": 8, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.6}
CROPS = {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2}


@pytest.fixture(scope="module")
def picture():
    """Twelve discs on noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:180, :240]
    image = np.full((180, 240, 3), 60.0)
    for _ in range(12):
        x, y, radius = rng.integers(20, 220), rng.integers(20, 160), rng.integers(10, 40)
        image[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = rng.integers(0, 255, 3)
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pairs():
    """The official network and ours: with random weights, and with those of the demo, which find
    discs."""
    trained = make_pair("demo")
    weights = build_model("demo", device="cpu").state_dict()
    trained.official.load_state_dict(weights)
    trained.ours.load_state_dict(weights)
    return {
        "demo": make_pair("demo"),
        "sam2.1_hiera_tiny": make_pair("sam2.1_hiera_tiny", 256),
        "trained": trained,
    }


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("weights", "asked", "least"),
    [
        ("demo", {**RANDOM, **EVERYTHING_STAYS}, 5),
        ("demo", {**RANDOM, **EVERYTHING_STAYS, **CROPS}, 10),
        ("demo", {**RANDOM, **EVERYTHING_STAYS, "use_m2m": True}, 5),
        ("sam2.1_hiera_tiny", {**RANDOM, **EVERYTHING_STAYS, "min_mask_region_area": 30}, 5),
        ("sam2.1_hiera_tiny", {**RANDOM, **EVERYTHING_STAYS, "use_m2m": True, **CROPS}, 10),
        ("trained", {**TRAINED, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}, 20),
        ("trained", {**TRAINED, **CROPS, "crop_n_layers": 2}, 10),
        ("trained", {**TRAINED, **CROPS, "use_m2m": True}, 10),
        ("trained", {**TRAINED, "min_mask_region_area": 40, "points_per_batch": 5}, 10),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_masks_boxes_scores_and_order_are_the_official_ones(pairs, picture, weights, asked, least):
    pair = pairs[weights]
    with small_regions():
        official = build_generator(pair, asked).generate(picture)
    ours = AutomaticMaskGenerator(pair.ours, **asked).generate(picture)
    assert len(ours) == len(official) >= least
    for mask, record in zip(ours, official, strict=True):
        differ = mask.mask != record["segmentation"]
        if differ.any():
            # A pixel whose logit is 0 but for rounding lies on one side here, on the other there.
            logits = upsampled(mask)
            assert np.abs(logits[differ]).max() <= BOUND * np.nanmax(np.abs(logits))
        else:
            np.testing.assert_array_equal(mask.box, xyxy(record))
            assert mask.area == record["area"]
        assert mask.predicted_iou == pytest.approx(record["predicted_iou"], abs=1e-5)
        # A pixel may lie on the other side of a threshold that its logit has, but for rounding.
        assert mask.stability_score == pytest.approx(record["stability_score"], abs=1e-3)
        np.testing.assert_allclose(mask.point, record["point_coords"][0], atol=1e-4)
        x0, y0, width, height = record["crop_box"]
        assert (mask.crop.x0, mask.crop.y0, *mask.crop.size) == (x0, y0, height, width)


def upsampled(mask: AutomaticMask) -> NDArray[np.float32]:
    """Logits ``[H, W]`` of a mask around its outline, as the official package upsamples them."""
    low = torch.from_numpy(mask.outline.restored())[None, None]
    inside = F.interpolate(low, mask.crop.size, mode="bilinear", align_corners=False)[0, 0].numpy()
    logits = np.full(mask.size, np.nan, np.float32)
    height, width = mask.crop.size
    logits[mask.crop.y0 :, mask.crop.x0 :][:height, :width] = inside
    return logits


@pytest.mark.parametrize("name", ["sam2_hiera_tiny", "sam2.1_hiera_tiny", "edgetam", "demo"])
def test_every_kind_of_variant_finds_masks(name, picture):
    torch.manual_seed(0)
    model = SAM2(VARIANTS[name], 256).eval()
    model.load_state_dict(draw_weights(model.state_dict(), seed=0))
    generator = AutomaticMaskGenerator(
        model, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1
    )
    masks = generator.generate(picture)
    assert len(masks) == 2 * 2 * 3
    for mask in masks:
        shown = mask.mask
        assert shown.shape == picture.shape[:2]
        assert mask.area == np.count_nonzero(shown)


def test_the_demo_finds_the_discs_of_a_picture(disc):
    image, truth = disc(200, 300, centre=(200, 90), radius=50)
    generator = AutomaticMaskGenerator(
        build_model("demo", device="cpu"), points_per_side=8, stability_score_thresh=0.8
    )
    shown = [each.mask for each in generator.generate(image)]
    overlaps = [np.count_nonzero(m & truth) / np.count_nonzero(m | truth) for m in shown]
    assert max(overlaps) > 0.9


def test_no_mask_of_a_large_picture_is_kept_whole(predictor):
    """What is kept of a mask does not grow with the picture."""
    image = np.zeros((2500, 2500, 3), np.uint8)
    image[600:1500, 900:1800] = 200
    generator = AutomaticMaskGenerator(
        predictor.model, points_per_side=3, pred_iou_thresh=0.3, stability_score_thresh=0.5
    )
    [mask, *_] = generator.generate(image)
    outline = mask.outline
    kept = outline.positive.nbytes + outline.near.nbytes + outline.values.nbytes
    assert kept < 64 * 64 * 5
    shown = mask.mask
    assert shown.shape == (2500, 2500)
    assert np.count_nonzero(shown) == mask.area
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert mask.box.tolist() == [columns[0], rows[0], columns[-1], rows[-1]]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"points_per_side": 0}, "points_per_side must be at least 1, not 0"),
        ({"points_per_batch": 0}, "points_per_batch must be at least 1"),
        ({"crop_n_layers": -1}, "crop_n_layers must be at least 0"),
        ({"min_mask_region_area": -1}, "min_mask_region_area must be at least 0"),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "layer 2 would have no point",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(predictor, wrong, reason):
    with pytest.raises(ValueError, match=reason):
        AutomaticMaskGenerator(predictor.model, **wrong)


def test_what_is_no_picture_is_refused(predictor):
    with pytest.raises(ValueError, match="uint8 RGB"):
        AutomaticMaskGenerator(predictor.model).generate(np.zeros((10, 10, 4), np.uint8))


logit_maps = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays.arrays(
        np.float32, shape, elements=st.integers(-40, 40).map(lambda n: (n + 0.5) / 10)
    )
)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(logit_maps, sizes, st.floats(0, 3).map(lambda x: round(x, 1)))
@settings(max_examples=150, deadline=None)
def test_measured_masks_are_those_that_upsampling_makes(logits, size, offset):
    """Area, box and stability without the picture are those of the picture."""
    maps = torch.from_numpy(logits)
    whole = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
    upsampling = Upsampling(logits.shape[1:], size)
    measured = upsampling.measure(maps, offset)
    for number, outline in enumerate(OutlineLogits.of(maps)):
        shown = upsampling.mask(outline.restored())
        doubt = np.abs(whole[number]) < 1e-5
        np.testing.assert_array_equal(shown | doubt, (whole[number] > 0) | doubt)
        assert measured.areas[number] == np.count_nonzero(shown)
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        box = [columns[0], rows[0], columns[-1], rows[-1]] if shown.any() else [0, 0, 0, 0]
        assert measured.boxes[number].tolist() == box
        stability = float(measured.stability[number])
        assert np.isnan(stability) or 0 <= stability <= 1
        near = [np.abs(whole[number] - each) < 1e-5 for each in (offset, -offset)]
        if not np.any(near):
            with np.errstate(invalid="ignore"):
                expected = np.float32((whole[number] > offset).sum()) / np.float32(
                    (whole[number] > -offset).sum()
                )
            np.testing.assert_equal(stability, float(expected))


@given(logit_maps, sizes)
@settings(max_examples=50, deadline=None)
def test_both_ways_of_measuring_agree(logits, size):
    maps = torch.from_numpy(logits)
    upsampling = Upsampling(logits.shape[1:], size)
    measured = upsampling.measure(maps, 0.3)
    for number, each in enumerate(maps):
        areas, box = upsampling._by_pixels(each, (0.0, 0.3, -0.3))
        assert areas[0] == measured.areas[number]
        assert box.tolist() == measured.boxes[number].tolist()


boxes = st.lists(
    st.tuples(*[st.integers(0, 30)] * 4).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    ),
    max_size=12,
)


@given(boxes, st.data(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
@settings(max_examples=200, deadline=None)
def test_suppression_keeps_the_best_and_explains_what_leaves(drawn, data, threshold):
    """What stays is in the order of scores and covers no other; what leaves is covered by a better
    one that stays."""
    array = np.array(drawn, np.float32).reshape(-1, 4)
    scores = data.draw(
        st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(drawn), max_size=len(drawn))
    )
    kept = box_nms(array, np.array(scores, np.float32), threshold).tolist()
    ranks = sorted(range(len(drawn)), key=lambda each: -scores[each])
    assert kept == sorted(kept, key=ranks.index)

    def covers(a, b):
        width = max(0, min(array[a][2], array[b][2]) - max(array[a][0], array[b][0]))
        height = max(0, min(array[a][3], array[b][3]) - max(array[a][1], array[b][1]))
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (array[a], array[b])]
        union = sum(areas) - width * height
        return union > 0 and np.float32(width * height) / np.float32(union) > threshold

    for position, one in enumerate(kept):
        assert not any(covers(one, other) for other in kept[position + 1 :])
    for gone in set(range(len(drawn))) - set(kept):
        better = (each for each in kept if ranks.index(each) < ranks.index(gone))
        assert any(covers(each, gone) for each in better)
