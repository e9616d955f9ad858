"""The sheet of real photos."""

import numpy as np

from sam2model.build import build_model
from sam2model.image_predictor import ImagePredictor
from training.demo_weights.overlays import Subject, sheet


def test_sheet_shows_the_mask_for_a_click_and_for_a_box() -> None:
    dahlia = Subject("demo.photos", "dahlia.jpg", "dahlia", (0.48, 0.52), (0.26, 0.2, 0.7, 0.85))
    corner = Subject("demo.photos", "dahlia.jpg", "leaf", (0.05, 0.05), (0.0, 0.0, 0.1, 0.1))

    picture = sheet(ImagePredictor(build_model("demo", device="cpu")), [dahlia, corner])

    assert picture.dtype == np.uint8
    middle_of_the_flower = picture[115:135, 135:155].reshape(-1, 3).mean(axis=0)
    same_place_unclicked = picture[115:135, 735:755].reshape(-1, 3).mean(axis=0)
    assert middle_of_the_flower[1] > middle_of_the_flower[0]  # painted green
    assert same_place_unclicked[1] < same_place_unclicked[0]  # an orange flower
