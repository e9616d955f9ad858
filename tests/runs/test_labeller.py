"""The score of a track: its worst stretch."""

from __future__ import annotations

import pytest

from backend.runs.labeller import worst_stretch
from backend.tracking.store import Sighting


def sightings(*ious: float | None) -> list[Sighting]:
    return [
        Sighting(
            *("a", frame, "", 10, 10, int(iou is not None), (0, 0, 1, 1), (0.0, 0.0)),
            *(iou or 0.0, 1.0, False, 1),
        )
        for frame, iou in enumerate(ious)
    ]


def test_a_page_is_as_good_as_itself() -> None:
    assert worst_stretch(sightings(0.9, 0.3, 0.8), 1) == pytest.approx(0.3)


def test_a_second_is_as_good_as_its_mean() -> None:
    assert worst_stretch(sightings(0.9, 0.9, 0.3, 0.6, 0.9), 2) == pytest.approx(0.45)


def test_what_is_shorter_than_a_second_counts_as_it_is() -> None:
    assert worst_stretch(sightings(0.5, 0.7), 25) == pytest.approx(0.6)
    gone = [None] * 30
    assert worst_stretch(sightings(0.3, *gone, *[0.9] * 30), 10) == pytest.approx(0.3)


def test_an_object_that_is_nowhere_has_no_score() -> None:
    assert worst_stretch(sightings(None, None), 5) is None
