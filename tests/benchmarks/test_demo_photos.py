"""The scores of the demo's photos: what a known answer must score."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from benchmarks.quality.demo_photos import grid, photo_row, subjects
from demo.sample_photos import PhotoObject


def _disc() -> np.ndarray:
    rows, columns = np.mgrid[:60, :80]
    return (rows - 30) ** 2 + (columns - 50) ** 2 < 15**2


def test_a_grid_covers_the_object_and_nothing_else() -> None:
    mask = _disc()
    points = grid(mask)
    assert all(mask[int(y), int(x)] for x, y in points)
    assert len(points) > 60
    assert np.abs(points.mean(axis=0) - (50, 30)).max() < 2


def test_a_row_tells_clicks_from_boxes(tmp_path: Path) -> None:
    mask = _disc()

    class Halves:
        """Answers the whole for a box, and for a click the object's part to its right."""

        def embed(self, image: np.ndarray) -> np.ndarray:
            return image

        def predict(self, _: np.ndarray, points=None, box=None) -> SimpleNamespace:
            found = mask.copy()
            if points is not None:
                found[:, : int(points[0][0])] = False
            else:
                assert np.allclose(box, (40, 15, 72, 48))
            return SimpleNamespace(masks=[found])

    photo, truth = tmp_path / "a.png", tmp_path / "disc.png"
    cv2.imwrite(str(photo), np.zeros((60, 80, 3), np.uint8))
    cv2.imwrite(str(truth), mask.astype(np.uint8) * 255)
    subject = PhotoObject(photo, "disc", "Disc", (62.5, 50.0), (50, 25, 90, 80), truth)
    name, click, box, mean, good = photo_row(Halves(), subject, find=False)
    assert (name, box) == ("a.png, disc", "1.00")
    assert 0.45 < float(click) < 0.55
    assert 0.3 < float(mean) < 0.7
    assert 0 < float(good.rstrip("%")) < 50


def test_the_photos_are_there_with_masks_of_their_size() -> None:
    found = list(subjects())
    assert {each.name for each in found} == {"bud", "bee", "dahlia", "bowl"}
    for each in found:
        assert each.image.shape[:2] == each.mask.shape
        column, row = each.pixels(each.click)[0].astype(int)
        assert each.mask[row, column]
