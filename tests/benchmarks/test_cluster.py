"""The figures on a cluster: what known times and masks must give."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from backend.engine.local import LocalEngine
from backend.engine.packed_masks import PackedMask
from backend.metrics import Metrics
from benchmarks.load.cluster import Spent, compared, overhead_row, scaled, spread
from benchmarks.load.cluster_annotators import Phase, cells, costs, on_paper
from benchmarks.load.cluster_faults import differing
from benchmarks.support.local_cluster import clicked, environment, local, on_disc
from benchmarks.support.simulated_model import Predictor, Seconds, make, make_paced


def packed(*pixels: int) -> PackedMask:
    mask = np.zeros((4, 4), bool)
    mask.flat[list(pixels)] = True
    return PackedMask.pack(mask)


def test_masks_and_scores_are_counted_apart() -> None:
    here = [(packed(1, 2), 0.5), (packed(), 0.5), (packed(3), 0.5)]
    there = [(packed(1, 2), 0.5), (packed(), 0.6), (packed(4), 0.5)]
    assert compared(here, there) == [3, 1, 1, 1]
    with pytest.raises(ValueError, match="shorter"):
        compared(here, there[:2])


def test_overhead_is_of_medians_and_cpu_of_a_call() -> None:
    here = Spent([0.010, 0.010, 0.040], front=0.021, others=0.009)
    there = Spent([0.015, 0.015, 0.900], front=0.012, others=0.060)
    assert overhead_row("click", here, there) == [
        *("click", 3, "10.0", "15.0", "5.0", "1.50", "10.0", "4.0", "20.0"),
    ]


@pytest.mark.parametrize("make", [make, make_paced])
def test_the_simulated_model_tracks_as_a_model_does(
    make: Callable[..., tuple[LocalEngine, Metrics]],
    tmp_path: Path,
) -> None:
    with environment(tmp_path, Seconds(0.0, 0.0, 0.0).variable()) as media, local(make) as engine:
        clicked(engine, media, 0)
        with closing(engine.open_tracker(media.pages(5))) as tracker:
            tracker.prompt(0, "a", on_disc(media))
            steps = tracker.step(0, 5, reverse=False)
            first = [next(steps) for _ in range(2)]
            tracker.suspend()
            found = [*first, *steps]
    assert [frame for frame, _ in found] == list(range(5))
    assert all(objects[0].mask.area for _, objects in found)


def test_rates_are_shares_of_so_many_local_engines() -> None:
    alone = {"tracks": 2.5, "clicks": 2.0}
    assert scaled({"tracks": 9.0, "clicks": 8.0}, alone, 4) == ["9.00", "0.90", "8.00", "1.00"]


def test_times_are_spread() -> None:
    assert spread([0.001 * number for number in range(101)]) == [101, "50", "95", "100"]


def test_a_mask_that_is_gone_counts_as_changed() -> None:
    assert differing([None, 1, 2, 3], [5, 1, None, 4]) == 2


def test_the_front_s_cpu_is_shared_out_between_clicks_and_frames() -> None:
    nobody = Phase(seconds=10, front=1.0)
    clicks = Phase([0.1] * 100, seconds=10, front=2.0)
    both = Phase([0.1] * 100, frames=50, seconds=10, front=2.5)
    found = costs(nobody, clicks, both)
    assert (found.rest, found.click, found.frame) == pytest.approx((0.1, 0.01, 0.01))
    [text] = on_paper([nobody, clicks, both])
    assert "10.0 ms" in text
    assert cells(nobody)[:5] == [0, "0.0", "", "", ""]


def test_the_stand_in_answers_with_a_disc_on_the_point() -> None:
    predictor = Predictor(Seconds(0.0, 0.0, 0.0), lambda: None)
    embedding = predictor.embed(np.zeros((100, 200, 3), np.uint8))
    found = predictor.predict(embedding, points=np.array([[150.0, 50.0]]))
    assert found.masks.shape == (1, 100, 200)
    assert found.masks[0, 50, 150]
    assert not found.masks[0, 50, 50]
