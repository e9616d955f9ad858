"""ImagePredictor on the demo weights: answers, shapes, checks, and no shared state."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sam2model import ImagePredictor, build_model
from sam2model.sam2 import SAM2
from sam2model.variants import VARIANTS

pytestmark = pytest.mark.instruction_set


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module")
def scene(disc):
    return disc(300, 400, centre=(150, 120), radius=60)


@pytest.fixture(scope="module")
def embedding(predictor, scene):
    return predictor.embed(scene[0])


class TestAnswers:
    def test_one_click_gives_three_masks_best_first(self, predictor, embedding, scene):
        prediction = predictor.predict(embedding, points=[[150, 120]], labels=[1])
        assert prediction.masks.shape == (3, 300, 400)
        assert prediction.masks.dtype == np.bool_
        assert prediction.scores.shape == (3,)
        assert prediction.logits.shape == (3, 64, 64)
        assert (np.diff(prediction.scores) <= 0).all()
        assert iou(prediction.masks[0], scene[1]) > 0.9
        assert prediction.object_score > 0

    def test_masks_belong_to_their_logits(self, predictor, embedding):
        prediction = predictor.predict(embedding, points=[[150, 120]])
        upsampled = torch.nn.functional.interpolate(
            torch.from_numpy(prediction.logits)[None], size=(300, 400), mode="bilinear"
        )[0]
        assert ((upsampled > 0).numpy() == prediction.masks).mean() > 0.9999

    @pytest.mark.parametrize(
        "prompt",
        [
            {"points": [[150, 120], [140, 100]], "labels": [1, 1]},
            {"points": [[150, 120], [300, 250]], "labels": [1, 0]},
            {"box": [90, 60, 210, 180]},
            {"box": [90, 60, 210, 180], "points": [[150, 120]]},
        ],
    )
    def test_more_than_one_click_gives_one_mask(self, predictor, embedding, scene, prompt):
        prediction = predictor.predict(embedding, **prompt)
        assert prediction.masks.shape == (1, 300, 400)
        assert iou(prediction.masks[0], scene[1]) > 0.85

    def test_multimask_can_be_declined(self, predictor, embedding):
        prediction = predictor.predict(embedding, points=[[150, 120]], multimask=False)
        assert prediction.masks.shape == (1, 300, 400)

    def test_earlier_logits_are_a_mask_prompt(self, predictor, embedding, scene):
        first = predictor.predict(embedding, points=[[150, 120]])
        again = predictor.predict(embedding, points=[[150, 120]], labels=[1], mask=first.logits[:1])
        assert again.masks.shape == (1, 300, 400)
        assert iou(again.masks[0], scene[1]) > 0.85

    def test_labels_matter(self, predictor, disc):
        # A negative click always follows a positive one, in training as in use.
        image, left = disc(300, 400, centre=(110, 150), radius=60)
        other, right = disc(300, 400, centre=(290, 150), radius=60)
        embedding = predictor.embed(np.where(right[..., None], other, image))
        clicks = [[110, 150], [290, 150]]
        both = predictor.predict(embedding, points=clicks, labels=[1, 1]).masks[0]
        one = predictor.predict(embedding, points=clicks, labels=[1, 0]).masks[0]
        assert iou(both, left | right) > 0.9
        assert iou(one, left) > 0.9

    def test_coordinates_follow_a_tall_image(self, predictor, disc):
        image, inside = disc(600, 300, centre=(150, 400), radius=90)
        embedding = predictor.embed(image)
        by_click = predictor.predict(embedding, points=[[150, 400]])
        by_box = predictor.predict(embedding, box=[60, 310, 240, 490])
        assert iou(by_click.masks[0], inside) > 0.9
        assert iou(by_box.masks[0], inside) > 0.9


class TestManyBoxes:
    def test_equals_one_at_a_time(self, predictor, embedding):
        rng = np.random.default_rng(1)
        corners = np.sort(rng.uniform(0, 300, (40, 2, 2)), axis=1)
        boxes = corners.reshape(40, 4)
        together = predictor.predict_boxes(embedding, boxes)
        assert len(together) == 40
        for box, prediction in zip(boxes, together, strict=True):
            alone = predictor.predict(embedding, box=box)
            assert prediction.masks.shape == (1, 300, 400)
            np.testing.assert_allclose(prediction.logits, alone.logits, atol=1e-3)
            np.testing.assert_allclose(prediction.scores, alone.scores, atol=1e-4)

    def test_no_boxes(self, predictor, embedding):
        assert predictor.predict_boxes(embedding, []) == []


class TestChecks:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ({}, "no prompt"),
            ({"points": []}, r"shape \[N, 2\]"),
            ({"points": [1, 2]}, r"shape \[N, 2\]"),
            ({"points": [[1, 2, 3]]}, r"shape \[N, 2\]"),
            ({"points": [[1, float("nan")]]}, "finite"),
            ({"points": [[1, 2]], "labels": [1, 0]}, r"labels must have shape \[1\]"),
            ({"points": [[1, 2]], "labels": [2]}, "labels must be 1"),
            ({"labels": [1]}, "without points"),
            ({"points": [["a", 2]]}, "numbers"),
            ({"box": [1, 2, 3]}, r"shape \[4\]"),
            ({"box": []}, r"shape \[4\]"),
            ({"box": [[1, 2, 3, 4], [1, 2, 3, 4]]}, r"shape \[4\]"),
            ({"box": [1, 2, float("inf"), 4]}, "finite"),
            ({"box": [30, 2, 3, 4]}, "x0 <= x1"),
            ({"mask": np.zeros((64, 64))}, r"shape \[1, 64, 64\]"),
            ({"mask": np.zeros((1, 256, 256))}, r"shape \[1, 64, 64\]"),
            ({"mask": np.full((1, 64, 64), np.nan)}, "finite"),
        ],
    )
    def test_bad_prompts_are_refused(self, predictor, embedding, prompt, message):
        with pytest.raises(ValueError, match=message):
            predictor.predict(embedding, **prompt)

    @pytest.mark.parametrize(
        ("boxes", "message"),
        [([1, 2, 3, 4], r"\[N, 4\]"), ([[1, 2, 3]], r"\[N, 4\]"), ([[1, 2, 0, 4]], "x0 <= x1")],
    )
    def test_bad_boxes_are_refused(self, predictor, embedding, boxes, message):
        with pytest.raises(ValueError, match=message):
            predictor.predict_boxes(embedding, boxes)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((8, 8), np.uint8),
            np.zeros((8, 8, 4), np.uint8),
            np.zeros((8, 8, 3), np.float32),
            np.zeros((0, 8, 3), np.uint8),
            [[[0, 0, 0]]],
        ],
    )
    def test_what_is_no_image_is_refused(self, predictor, image):
        with pytest.raises(ValueError, match="image"):
            predictor.embed(image)

    def test_an_embedding_of_another_model_is_refused(self, embedding):
        torch.manual_seed(0)
        other = ImagePredictor(SAM2(VARIANTS["demo"], image_size=128).eval())
        with pytest.raises(ValueError, match="another model"):
            other.predict(embedding, points=[[1, 1]])


class TestImages:
    def test_one_pixel(self, predictor):
        embedding = predictor.embed(np.zeros((1, 1, 3), np.uint8))
        assert predictor.predict(embedding, points=[[0, 0]]).masks.shape == (3, 1, 1)

    def test_read_only_and_flipped_arrays(self, predictor, scene):
        flipped = scene[0][:, ::-1]
        frozen = flipped.copy()
        frozen.setflags(write=False)
        a, b = predictor.embed(flipped), predictor.embed(frozen)
        assert torch.equal(a.features.embedding, b.features.embedding)

    def test_another_image_size(self, scene):
        predictor = ImagePredictor(build_model("demo", device="cpu", image_size=512))
        embedding = predictor.embed(scene[0])
        prediction = predictor.predict(embedding, box=[90, 60, 210, 180])
        assert prediction.logits.shape == (1, 128, 128)
        assert iou(prediction.masks[0], scene[1]) > 0.5

    @pytest.mark.parametrize("size", [0, -32, 500])
    def test_image_sizes_that_do_not_divide_are_refused(self, size):
        with pytest.raises(ValueError, match="multiple of 32"):
            build_model("demo", device="cpu", image_size=size)


class TestHeed:
    """Of three masks, the one that agrees with pixels is chosen before any is upsampled."""

    @pytest.mark.parametrize("held", [[True, True], [True, False], [False, False], [False, True]])
    def test_the_first_that_agrees_with_the_pixels(self, predictor, embedding, held):
        click = {"points": [[150, 120]]}
        every = predictor.predict(embedding, **click)
        assert len(every.masks) == 3
        for x in range(20, 400, 60):
            pixels = np.array([[150, 120], [x, 130]])
            values = every.masks[:, pixels[:, 1], pixels[:, 0]]
            agreeing = np.flatnonzero((values == held).all(axis=1))
            number = agreeing[0] if len(agreeing) else 0
            one = predictor.predict(embedding, **click, heed=(pixels, held))
            np.testing.assert_array_equal(one.masks, every.masks[number][None])
            np.testing.assert_array_equal(one.logits, every.logits[number][None])
            assert one.scores == every.scores[number]

    def test_no_pixels_take_the_best(self, predictor, embedding):
        every = predictor.predict(embedding, points=[[150, 120]])
        nothing = np.zeros((0, 2), int), np.zeros(0, bool)
        one = predictor.predict(embedding, points=[[150, 120]], heed=nothing)
        np.testing.assert_array_equal(one.masks, every.masks[:1])


class TestEmbedding:
    def test_is_frozen(self, embedding):
        with pytest.raises(dataclasses.FrozenInstanceError):
            embedding.original_size = (1, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            embedding.features.embedding = None
        with pytest.raises(RuntimeError, match=r"[Ii]nference"):
            embedding.features.embedding.add_(1)

    def test_prediction_leaves_it_alone(self, predictor, embedding):
        tensors = (embedding.features.embedding, *embedding.features.high_res)
        before = [t.clone() for t in tensors]
        predictor.predict(embedding, points=[[150, 120]], labels=[1])
        predictor.predict_boxes(embedding, [[0, 0, 50, 50], [10, 10, 90, 90]])
        assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))

    def test_knows_its_size(self, embedding):
        tensors = (embedding.features.embedding, *embedding.features.high_res)
        assert embedding.nbytes == sum(t.numel() * t.element_size() for t in tensors)
        assert embedding.original_size == (300, 400)

    def test_threads_with_two_images_never_mix(self, predictor, disc):
        scenes = [
            disc(300, 400, centre=(150, 120), radius=60),
            disc(250, 350, centre=(200, 140), radius=70, seed=1),
        ]
        clicks = [[150, 120], [200, 140]]
        expected = [
            predictor.predict(predictor.embed(image), points=[click])
            for (image, _), click in zip(scenes, clicks, strict=True)
        ]

        def work(i: int) -> list[np.ndarray]:
            answers = []
            for _ in range(8):
                embedding = predictor.embed(scenes[i][0])
                answers.append(predictor.predict(embedding, points=[clicks[i]]).logits)
            return answers

        with ThreadPoolExecutor(max_workers=2) as pool:
            for i, answers in enumerate(pool.map(work, (0, 1))):
                for logits in answers:
                    np.testing.assert_allclose(logits, expected[i].logits, atol=1e-3)


class TestPrecision:
    def test_bfloat16_stays_close(self, scene, predictor, embedding):
        half = ImagePredictor(build_model("demo", device="cpu", dtype="bfloat16"))
        a = predictor.predict(embedding, box=[90, 60, 210, 180])
        b = half.predict(half.embed(scene[0]), box=[90, 60, 210, 180])
        assert not np.array_equal(a.logits, b.logits)
        assert b.logits.dtype == np.float32
        assert iou(a.masks[0], b.masks[0]) > 0.95
